"""Rules for what does not depend on the form: numerics, gradients, order, exceptions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tcdecomp.auditor.explanation import PRECISE
from tcdecomp.auditor.findings import Findings
from tcdecomp.auditor.gradient import TOLERANCE
from tcdecomp.auditor.probes import LARGE
from tcdecomp.auditor.report import Verdict
from tcdecomp.auditor.words import EXTREMES

__all__ = ["clamped", "extremes", "floored", "gradients", "order", "precision", "raised", "raising"]

EXTREME = 5e-3  # relative error that code in single precision may have at extremes
ROUNDING = 20  # how much more than on ordinary batches code may be off elsewhere


def raised(findings: Findings) -> Iterator[Verdict]:
    """Whether the code raised, in its backward pass, at extremes or in the study."""
    for message in findings.raised[:1]:
        yield raising(message)


def raising(message: str) -> Verdict:
    """Return the verdict on code that raised an exception."""
    return Verdict(
        "raises",
        "fault",
        f"The code raised {message}",
        "See whether the code expects a shape or a size of its own, or writes into its graph.",
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
    for where, error in _errors(findings).items():
        if error == torch.inf or where not in findings.floored:
            found.setdefault(EXTREMES[where][error < torch.inf], {})[where] = error
    for (name, cause, remedy), errors in found.items():
        what = "not finite" if torch.inf in errors.values() else "wrong"
        sentence = f"The answers are {what} for {'; '.join(errors)}: {cause}."
        evidence = {f"relative error, {where}": error for where, error in errors.items()}
        yield Verdict(name, "fault", sentence, remedy, evidence)


def floored(findings: Findings) -> Iterator[Verdict]:
    """Whether the code takes sharp posteriors for wider ones."""
    errors = {
        f"relative error, {where}": error
        for where, error in _errors(findings).items()
        if error < torch.inf and where in findings.floored
    }
    if errors:
        ordinary = any(LARGE in where for where in errors)
        yield Verdict(
            "variance has a floor",
            "fault" if ordinary else "remark",
            "Sharp posteriors are taken for wider ones: logvar is clamped, or something is added "
            "to the variance." + (" Ordinary posteriors are among them." if ordinary else ""),
            ("Lower the floor, and see" if ordinary else "See")
            + " that z is drawn with the same variance.",
            errors,
        )


def _errors(findings: Findings) -> dict[str, float]:
    """Return the errors at extremes that are more than rounding."""
    tolerance = _tolerance(findings, EXTREME)
    return {where: error for where, error in findings.extremes.items() if error > tolerance}


def clamped(findings: Findings) -> Iterator[Verdict]:
    """Whether answers are clamped at 0."""
    if findings.always_zero.any():
        yield Verdict(
            "always 0",
            "fault",
            f"Exactly 0 whatever the batch: {_names(findings.always_zero)}.",
            "Return all three terms, and clamp none from above.",
        )
    elif findings.clamped.any():
        yield Verdict(
            "perhaps clamped at 0",
            "remark",
            f"Exactly 0 on some batches: {_names(findings.clamped)}. What the code computes there "
            "is unknown.",
            "Clamp no estimate: noise and bias may make it negative, and without that its mean is "
            "another, and its gradient 0.",
        )


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
    carried = gradient.carried | findings.clamped  # the slope of a clamp is 0
    if not gradient.carried.any():
        yield Verdict(
            "no gradient",
            "remark",
            "No answer has a gradient: it serves for a report, not for training.",
        )
    elif not carried.all():
        missing = _names(carried.logical_not())
        yield Verdict(
            "no gradient",
            "fault",
            f"Without a gradient, while others have one: {missing}.",
            "Look for detach(), item() or no_grad().",
        )
    elif gradient.wrong:
        yield Verdict(
            "gradient wrong",
            "fault",
            "A slope has the wrong sign or is larger than that of the value, or z has none. No "
            "detaching that may be right in expectation does that.",
            "Do not detach z; compare the backward pass with torch.autograd.gradcheck.",
            {"largest relative error of a slope": gradient.error},
        )
    elif gradient.error > TOLERANCE:
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
