"""Rules for what does not depend on the form: numerics, gradients, order, exceptions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tcdecomp.auditor.findings import PRECISE, Findings
from tcdecomp.auditor.verdict import EXTREME, ROUNDING, SLOPE, Verdict
from tcdecomp.auditor.words import EXTREMES

__all__ = ["extremes", "gradients", "order", "precision", "raised", "raising"]


def raised(findings: Findings) -> Iterator[Verdict]:
    """Whether the code raised, at extremes or in the study."""
    for message in findings.raised[:1]:
        yield raising(message)


def raising(message: str) -> Verdict:
    """Return the verdict on code that raised an exception."""
    return Verdict(
        "raises",
        "fault",
        f"The code raised {message}",
        "Such batches occur; see whether the code expects a shape or a size of its own.",
    )


def order(findings: Findings) -> Iterator[Verdict]:
    """Whether the answers depend on which row comes first."""
    if findings.in_one_dimension or findings.unrepeated > PRECISE:
        return  # which has a verdict of its own, and explains the change
    if findings.reordered > _tolerance(findings, PRECISE):
        paper = findings.explanation and findings.explanation.form.estimator == "MSS of the paper"
        yield Verdict(
            "depends on the order of the batch",
            "remark",
            "The same batch with its rows in another order has another answer."
            + (" That is the paper's own form, and no bias comes of it." if paper else ""),
            "Weigh all other components alike: (N-1)/(N(M-1)) each.",
            {"largest relative change": findings.reordered},
        )


def extremes(findings: Findings) -> Iterator[Verdict]:
    """Where the answers are not those of the form: one fault for each cause."""
    if not findings.finite:
        return  # the extremes are not to blame
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for where, error in findings.extremes.items():
        if error > _tolerance(findings, EXTREME):
            found.setdefault(EXTREMES[where][error < torch.inf], {})[where] = error
    for (name, cause, remedy), errors in found.items():
        what = "not finite" if torch.inf in errors.values() else "wrong"
        sentence = f"The answers are {what} for {'; '.join(errors)}: {cause}."
        evidence = {f"relative error, {where}": error for where, error in errors.items()}
        yield Verdict(name, "fault", sentence, remedy, evidence)


def precision(findings: Findings) -> Iterator[Verdict]:
    """Whether the answers are rounded more than single precision rounds."""
    if findings.explanation and findings.explanation.error > PRECISE:
        yield Verdict(
            "low precision",
            "remark",
            "The answers are those of the form up to rounding of a half-precision dtype.",
            "Raise z, mu and logvar to float32, and switch autocast off.",
            {"largest relative error": findings.explanation.error},
        )


def gradients(findings: Findings) -> Iterator[Verdict]:
    """Whether the answers can be trained on."""
    gradient, known = findings.gradient, findings.explanation
    if gradient is None or findings.unrepeated > PRECISE or (known and known.error > PRECISE):
        return
    if not gradient.carried.any():
        yield Verdict(
            "no gradient",
            "remark",
            "No answer has a gradient: it serves for a report, not for training.",
        )
    elif not gradient.carried.all():
        missing = _names(gradient.carried.logical_not())
        yield Verdict(
            "no gradient",
            "fault",
            f"Without a gradient, while others have one: {missing}.",
            "Look for detach(), item() or no_grad().",
        )
    elif gradient.error > SLOPE:
        yield Verdict(
            "gradient cut",
            "remark",
            "The gradient is not that of the value: something on its way is detached. This may be "
            "meant, and right in expectation.",
            "Detach the own component and log q(z|n) both, or neither.",
            {"largest relative error of a slope": gradient.error},
        )


def _names(which: Tensor) -> str:
    places = ("first answer", "second answer", "third answer")
    return ", ".join(place for place, yes in zip(places, which.tolist(), strict=True) if yes)


def _tolerance(findings: Findings, least: float) -> float:
    """Return the relative error that code of this precision may have."""
    return max(least, ROUNDING * findings.explanation.error) if findings.explanation else least
