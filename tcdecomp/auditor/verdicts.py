"""What the findings mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tcdecomp.auditor import symptoms
from tcdecomp.auditor.explanation import PRECISE, departures
from tcdecomp.auditor.findings import Findings
from tcdecomp.auditor.forms import Form
from tcdecomp.auditor.report import Verdict
from tcdecomp.auditor.study import Study
from tcdecomp.auditor.words import DEPARTURES
from tcdecomp.terms import Terms

__all__ = ["verdicts"]

TERMS = Terms._fields[:3]
ERRORS = 4  # standard errors that a mean may be off
OFFSET = 0.02  # nats that it may be off besides
WEIGHT = 0.01  # relative error of the own weight


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
    if not findings.finite:
        yield Verdict(
            "not finite",
            "fault",
            "Answers to ordinary batches are NaN or infinite.",
            "Look for the logarithm of 0 or of a negative number, and for half precision.",
        )
        return
    if findings.unrepeated > PRECISE:
        yield Verdict(
            "answers at random",
            "remark",
            "The same batch has another answer each time: the code draws numbers of its own.",
            "Make the randomness an argument, and audit the code with it fixed.",
            {"largest relative change": findings.unrepeated},
        )
    if findings.always_zero.any():
        return  # which has a verdict of its own
    sound = findings.study is not None and _near(findings.study) and _weighs_right(findings)
    yield Verdict(
        "unknown form",
        "remark" if sound else "fault",
        "No form that the auditor knows gives these answers."
        + (
            " But its weights are right, and in the study it is as near the truth as tcdecomp."
            if sound
            else ""
        ),
        "" if sound else "Compare the weights and the study below with what they should be.",
    )


def _weighs_right(findings: Findings) -> bool:
    """Tell whether the own weight is 1/N, and the sum 1, at all sizes."""
    return all(
        abs(w.own * w.dataset_size - 1) < WEIGHT and abs(w.row_sum - 1) < PRECISE
        for w in findings.weights
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


_RULES: tuple[Callable[[Findings], Iterator[Verdict]], ...] = (
    symptoms.raised,
    _departed,
    _axes,
    _unexplained,
    symptoms.extremes,
    symptoms.floored,
    symptoms.clamped,
    _studied,
    symptoms.gradients,
    symptoms.order,
    symptoms.precision,
)
