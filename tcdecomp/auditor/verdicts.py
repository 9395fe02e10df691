"""What the findings mean, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from tcdecomp.auditor.explanation import departures
from tcdecomp.auditor.findings import Findings
from tcdecomp.auditor.forms import Form
from tcdecomp.auditor.study import Study
from tcdecomp.auditor.words import DEPARTURES, EXTREMES
from tcdecomp.terms import Terms

__all__ = ["Verdict", "verdicts"]

TERMS = Terms._fields[:3]
PRECISE = 1e-4  # relative error of code in single precision, with a margin
EXTREME = 5e-3  # the same, at extremes
ROUNDING = 20  # how much more it may be off than on ordinary batches
SLOPE = 0.05  # the same, of finite differences
ERRORS = 4  # standard errors that a mean may be off
OFFSET = 0.02  # nats that it may be off besides


@dataclass(frozen=True)
class Verdict:
    """One thing that the auditor found.

    Attributes
    ----------
    name : str
        What it is called.
    kind : {"fine", "remark", "fault"}
        Only a fault makes ``Audit.ok`` false.
    sentence : str
        What the code does.
    remedy : str
        What to do about it; empty where nothing needs to be done.
    evidence : dict of str to float
        The figures behind it.
    """

    name: str
    kind: Literal["fine", "remark", "fault"]
    sentence: str
    remedy: str = ""
    evidence: dict[str, float] = field(default_factory=dict)


def verdicts(findings: Findings) -> list[Verdict]:
    """Return what the findings mean: faults first, then remarks, or that all is well."""
    found = [verdict for rule in _RULES for verdict in rule(findings)]
    faults = [verdict for verdict in found if verdict.kind == "fault"]
    remarks = [verdict for verdict in found if verdict.kind == "remark"]
    if faults or not findings.explanation:
        return faults + remarks
    return [_unbiased(findings), *remarks]


def _unbiased(findings: Findings) -> Verdict:
    return Verdict(
        "unbiased",
        "fine",
        "q(z) is estimated without bias: the own component has the weight 1/N, and every row sums "
        "to 1. What bias the terms have is that of the logarithm, and falls with M.",
        evidence=_measured(findings),
    )


def _measured(findings: Findings) -> dict[str, float]:
    weights = findings.weights[-1]
    return {
        "M": weights.batch_size,
        "N": weights.dataset_size,
        "own weight times N": weights.own * weights.dataset_size,
        "sum of a row's weights": weights.row_sum,
    }


def _tolerance(findings: Findings, least: float) -> float:
    """Return the relative error that code of this precision may have."""
    return max(least, ROUNDING * findings.explanation.error) if findings.explanation else least


def _departed(findings: Findings) -> Iterator[Verdict]:
    """One fault for each thing in which the form departs from the right one."""
    if not findings.explanation:
        return
    form = findings.explanation.form
    for name in departures(form):
        key = (name, getattr(form, name))
        title, sentence, remedy = DEPARTURES.get(key) or DEPARTURES[(name,)]
        sentence = sentence.format(
            order=", ".join(TERMS[i] for i in form.order),
            negated=", ".join(t for t, s in zip(TERMS, form.signs, strict=True) if s < 0),
        )
        evidence = _measured(findings) if name == "estimator" else _effect(findings, form, name)
        yield Verdict(title, "fault", sentence, remedy, evidence)


def _effect(findings: Findings, form: Form, name: str) -> dict[str, float]:
    """Return the term that the departure changes most on one batch, with it and without it."""
    probe, answers = findings.example
    without = replace(form, **{name: getattr(Form(), name)}).predict(probe)
    index = int((answers - without).abs().argmax())
    place = ("first", "second", "third")[index]
    return {f"{place} answer": answers[index].item(), "without it": without[index].item()}


def _unexplained(findings: Findings) -> Iterator[Verdict]:
    if findings.explanation or findings.in_one_dimension:
        return
    if findings.unrepeated > PRECISE:
        yield Verdict(
            "answers at random",
            "remark",
            "The same batch has another answer each time: the code draws numbers of its own.",
            "Make the randomness an argument, and audit the code with it fixed.",
            {"largest relative change": findings.unrepeated},
        )
    near = findings.study is not None and _near(findings.study)
    yield Verdict(
        "unknown form",
        "remark" if near else "fault",
        "The answers are those of no form that the auditor knows."
        + (" They are as near the truth as those of tcdecomp in the study." if near else ""),
        "" if near else "Compare the weights and the study below with what they should be.",
    )


def _near(study: Study) -> bool:
    """Tell whether the means are as near the truth as MSS's, as far as their errors tell."""
    size = len(study.answers)
    error = (study.answers.var(0) / size + study.truth_error**2).sqrt()
    reach = (study.reference.mean(0) - study.truth).abs() + OFFSET + ERRORS * error
    return bool(((study.answers.mean(0) - study.truth).abs() <= reach).all())


def _axes(findings: Findings) -> Iterator[Verdict]:
    if findings.in_one_dimension:
        yield Verdict(
            "axes mixed up",
            "fault",
            "With one latent dimension the answers are right for their weights, "
            f"{findings.in_one_dimension.form.estimator}; with several they are not: rows and "
            "columns of z, mu or logvar are mixed up.",
            "Look for a view or reshape where a transpose or unsqueeze is meant.",
        )


def _reordered(findings: Findings) -> Iterator[Verdict]:
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


def _extreme(findings: Findings) -> Iterator[Verdict]:
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for where, error in findings.extremes.items():
        if error > _tolerance(findings, EXTREME):
            found.setdefault(EXTREMES[where][error < torch.inf], {})[where] = error
    for (name, cause, remedy), errors in found.items():
        what = "not finite" if torch.inf in errors.values() else "wrong"
        sentence = f"The answers are {what} for {', '.join(errors)}: {cause}."
        evidence = {f"relative error, {where}": error for where, error in errors.items()}
        yield Verdict(name, "fault", sentence, remedy, evidence)


def _precision(findings: Findings) -> Iterator[Verdict]:
    if findings.explanation and findings.explanation.error > PRECISE:
        yield Verdict(
            "low precision",
            "remark",
            "The answers are those of the form up to rounding of a half-precision dtype.",
            "Raise z, mu and logvar to float32, and switch autocast off.",
            {"largest relative error": findings.explanation.error},
        )


def _gradient(findings: Findings) -> Iterator[Verdict]:
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


def _studied(findings: Findings) -> Iterator[Verdict]:
    """Whether a form without a fault bears out in the study."""
    study, known = findings.study, findings.explanation
    if study is None or known is None or departures(known.form) or _near(study):
        return
    off = study.answers.mean(0) - study.truth
    index = int(off.abs().argmax())
    yield Verdict(
        "off in the study",
        "fault",
        "On small batches the answers are right, but their mean over the batches of the study is "
        f"farther from the truth than that of tcdecomp, in {TERMS[index]}.",
        "Compare the code with tcdecomp.decompose on a batch of the study's size.",
        {"mean error, nats": off[index].item()},
    )


def _raised(findings: Findings) -> Iterator[Verdict]:
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


_RULES: tuple[Callable[[Findings], Iterator[Verdict]], ...] = (
    _raised,
    _departed,
    _axes,
    _unexplained,
    _extreme,
    _studied,
    _gradient,
    _reordered,
    _precision,
)
