"""The auditor says what somebody's own code for the three terms really computes."""

from __future__ import annotations

import torch
from torch import Generator

from tcdecomp.auditor import numerics, verdicts
from tcdecomp.auditor.forms import UNKNOWN
from tcdecomp.auditor.report import Audit, Verdict, fault
from tcdecomp.auditor.search import search
from tcdecomp.auditor.subject import (
    RaisedError,
    Study,
    Subject,
    TermsFunction,
    Weights,
    study,
    weigh,
)

__all__ = ["Audit", "Study", "Verdict", "Weights", "audit"]

WEIGHED_AT = ((4, 1000), (16, 1000), (16, 100_000))  # (M, N)


def audit(
    terms_fn: TermsFunction,
    *,
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
        ``(z, mu, logvar, N) -> (MI, TC, DWKL)``: z, mu and logvar of shape (M, D), N an int. It
        returns a tuple, a list or :class:`tcdecomp.Terms`. Each term is a number, an array or a
        tensor with one element or of shape (M,), whose mean is taken. The function must accept
        any M from 4 to 61 and any D from 1 to 100.
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
    with torch.device("cpu"):  # whatever the default device is
        try:
            return _audit(subject, Generator().manual_seed(seed))
        except RaisedError as error:
            return Audit(UNKNOWN, (_raising(error),))


def _audit(subject: Subject, generator: Generator) -> Audit:
    """Audit code that answers ordinary batches."""
    findings = search(subject, generator)
    weights = tuple(weigh(subject, findings.form, *sizes) for sizes in WEIGHED_AT)
    studied, raised = None, list[Verdict]()
    try:
        studied = study(subject, generator) if findings.form.takes_negative_logvar else None
    except RaisedError as error:
        raised.append(_raising(error))
    found: list[Verdict] = []
    for check in (
        verdicts.departed(findings, weights[-1]),
        verdicts.axes(findings),
        verdicts.unknown(findings, weights, studied),
        numerics.extremes(findings, generator),
        verdicts.clamped(findings),
        verdicts.studied(findings, studied),
        numerics.gradients(findings, generator),
        verdicts.order(findings),
        verdicts.precision(findings),
    ):
        try:
            found.extend(check)
        except RaisedError as error:
            raised.append(_raising(error))
    found = sorted([*raised[:1], *found], key=lambda verdict: verdict.kind)  # fault, remark
    if findings.known and not any(verdict.kind == "fault" for verdict in found):
        found.insert(0, verdicts.unbiased(weights[-1]))
    return Audit(findings.estimator, tuple(found), weights, studied)


def _raising(error: RaisedError) -> Verdict:
    remedy = "Look for an expected shape or size, and for writing into a graph."
    return fault("raises", f"The code raised {error}", remedy)
