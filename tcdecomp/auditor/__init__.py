"""The auditor says what somebody's own code for the three terms really computes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import torch
from torch import Generator

from tcdecomp._checks import checked_device
from tcdecomp.auditor import numerics, verdicts
from tcdecomp.auditor.fit import search
from tcdecomp.auditor.forms import UNKNOWN
from tcdecomp.auditor.report import Audit, Verdict, fault
from tcdecomp.auditor.signature import TermsFunction, with_size
from tcdecomp.auditor.subject import (
    RaisedError,
    Returns,
    Study,
    Subject,
    Weights,
    default_device,
    study,
    weigh,
)

__all__ = ["Audit", "Study", "Verdict", "Weights", "audit"]

WEIGHED_AT = ((4, 1000), (16, 1000), (16, 100_000))  # (M, N)


def audit(
    terms_fn: TermsFunction,
    *,
    returns: Returns = "terms",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Audit:
    """Say what a function that estimates the three terms from a batch really computes.

    The auditor calls the function on small batches whose answers are known, and compares. Of all
    known forms (the estimators, the faults of public code, and their combinations) it names the
    one with the fewest faults that gives these answers. It measures the weights, tries extreme
    values, compares gradients with finite differences, and confirms the result on batches of a
    data set whose terms are known.

    Parameters
    ----------
    terms_fn : callable
        ``(z, mu, logvar, N)``, or ``(z, mu, logvar)`` if N is fixed in the code; an ``nn.Module``
        may be such a callable. z, mu and logvar have shape (M, D), and N is an int. It must accept
        any M from 4 to 61 and any D from 1 to 100. N is passed to a parameter that has its name,
        such as N or dataset_size, or else to a fourth one without a default.
    returns : {"terms", "tc", "loss"}
        What the function returns. "terms" is (MI, TC, DWKL): a tuple, a list or
        :class:`tcdecomp.Terms`. "tc" is the total correlation alone. "loss" is a sum of the three
        terms with weights, which the auditor measures. Each is a number, an array or a tensor with
        one element or of shape (M,), whose mean is taken.
    device : str or torch.device
        Device of the tensors that the function gets, and its default device.
    dtype : torch.dtype
        Their floating-point dtype.
    seed : int
        Seed of the batches. The auditor uses a generator of its own.

    Returns
    -------
    Audit
        The estimator, the verdicts, the measured weights and the study. If the function raises an
        exception on an ordinary batch, the only verdict says so.

    Raises
    ------
    TypeError
        If ``terms_fn`` is not callable with these arguments, or returns something else, or
        ``dtype`` is not a floating-point dtype.
    ValueError
        If ``returns`` is none of the three, or torch does not have the device.

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
    if returns not in get_args(Returns):
        raise ValueError(f'returns must be "terms", "tc" or "loss"; got {returns!r}')
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(
            f"dtype must be a floating-point torch.dtype, such as torch.float64; got {dtype!r}"
        )
    function, takes_size = with_size(terms_fn)
    subject = Subject(function, checked_device(device), dtype, returns, takes_size)
    with default_device(torch.device("cpu")):
        try:
            return _audit(subject, Generator().manual_seed(seed))
        except RaisedError as error:
            return Audit(UNKNOWN, (_raising(error),))


def _audit(subject: Subject, generator: Generator) -> Audit:
    """Audit code that answers ordinary batches."""
    findings = search(subject, generator)
    form = findings.form
    weights = dict.fromkeys(weigh(subject, form, *sizes) for sizes in WEIGHED_AT)
    findings = replace(findings, weights=tuple(w for w in weights if math.isfinite(w.own)))
    found, raised = list[Verdict](), list[Verdict]()
    try:
        # The truth of a data set is known for its N, and for known weights of a loss.
        comparable = findings.known or (findings.uses_size and not form.loss)
        if comparable and form.takes_negative_logvar and not form.fixed:
            findings = replace(findings, study=study(subject, form, generator))
    except RaisedError as error:
        raised.append(_raising(error))
    for check in (*verdicts.CHECKS, *numerics.CHECKS):
        try:
            found.extend(check(findings))
        except RaisedError as error:
            raised.append(_raising(error))
    found = sorted([*raised[:1], *found], key=lambda verdict: verdict.kind)  # fault, remark
    if findings.known and not any(verdict.kind == "fault" for verdict in found):
        found.insert(0, verdicts.unbiased(findings))
    return Audit(findings.estimator, tuple(found), findings.weights, findings.study, findings.loss)


def _raising(error: RaisedError) -> Verdict:
    remedy = (
        "Look for a shape or size that the code expects, and for writing into a graph. The code "
        "must take any M from 4 to 61 and any D from 1 to 100."
    )
    return fault("raises", f"The code raised {error}", remedy)
