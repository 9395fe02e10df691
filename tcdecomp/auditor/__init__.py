"""The auditor: says what somebody's own code for the three terms really computes."""

from __future__ import annotations

import torch

from tcdecomp.auditor.findings import examine
from tcdecomp.auditor.forms import UNKNOWN
from tcdecomp.auditor.measured import Weights
from tcdecomp.auditor.report import Audit, Verdict
from tcdecomp.auditor.study import Study
from tcdecomp.auditor.subject import RaisedError, Subject, TermsFunction
from tcdecomp.auditor.symptoms import raising
from tcdecomp.auditor.verdicts import verdicts

__all__ = ["Audit", "Study", "Verdict", "Weights", "audit"]


def audit(
    terms_fn: TermsFunction,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Audit:
    """Say what a function that estimates the three terms from a batch really computes.

    The function is called on small batches whose answers are known, and its answers are compared
    with those of every known form: the estimators, the faults seen in public code, and
    combinations of them. The form with the fewest departures from what is right that reproduces
    the answers is named, with what to do. Its weights are measured on posteriors that are far
    apart, where MI is -log(own weight), and on identical ones, where MI is -log(row sum).
    Numerics are tried at extremes, gradients against finite differences, and a data set with known
    terms confirms the result on batches of a common size.

    Parameters
    ----------
    terms_fn : callable
        ``(z, mu, logvar, N) -> (MI, TC, DWKL)``: z, mu and logvar of shape (M, D), N an int. A
        tuple or list of three, or :class:`tcdecomp.Terms`; each a number, an array or a tensor, of
        one element or of shape (M,), whose mean is taken. It must not need one particular M or D.
    device : str or torch.device
        Where the tensors are that it gets.
    dtype : torch.dtype
        Their floating-point dtype.
    seed : int
        Seed of the batches, which come from a generator of their own.

    Returns
    -------
    Audit
        The estimator, the verdicts, the measured weights and the study. If the function raises on
        an ordinary batch, the only verdict says so.

    Raises
    ------
    TypeError
        If ``terms_fn`` is not callable or does not return three terms, or ``dtype`` is not a
        floating-point dtype.

    References
    ----------
    Chen, Li, Grosse, Duvenaud (2018). Isolating Sources of Disentanglement in VAEs. Appendix C.

    Examples
    --------
    >>> from tcdecomp import audit, decompose
    >>> result = audit(lambda z, mu, logvar, N: decompose(z, mu, logvar, N)[:3])
    >>> result.estimator, result.ok
    ('symmetric MSS', True)
    >>> audit(lambda z, mu, logvar, N: decompose(z, mu, logvar, len(z))).estimator
    'inclusive'
    """
    if not callable(terms_fn):
        raise TypeError(f"terms_fn must be callable; got {type(terms_fn).__name__}")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating-point torch.dtype; got {dtype!r}")
    subject = Subject(terms_fn, torch.device(device), dtype)
    try:
        findings = examine(subject, torch.Generator().manual_seed(seed))
    except RaisedError as error:
        return Audit(UNKNOWN, (raising(str(error)),))
    known = findings.explanation or findings.in_one_dimension
    return Audit(
        known.form.estimator if known else UNKNOWN,
        tuple(verdicts(findings)),
        findings.weights,
        findings.study,
    )
