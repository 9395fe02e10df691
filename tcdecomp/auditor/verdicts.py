"""What the findings mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from tcdecomp.auditor import symptoms
from tcdecomp.auditor.explanation import PRECISE, departures
from tcdecomp.auditor.findings import Findings
from tcdecomp.auditor.forms import Form
from tcdecomp.auditor.report import Verdict, mean
from tcdecomp.auditor.study import Study
from tcdecomp.auditor.words import DEPARTURES
from tcdecomp.terms import Terms

__all__ = ["verdicts"]

TERMS = Terms._fields[:3]
ERRORS = 4  # standard errors that a mean may be off
OFFSET = 0.02  # nats that it may be off besides
WEIGHT = 0.01  # relative error of the own weight
BURIED = 0.01  # relative error of the MI where posteriors are apart
READING = 10  # how much farther off than a sum the density of one component may be


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
    wrong = list(_wrong(findings))
    sound = not wrong
    yield Verdict(
        "unknown form",
        "remark" if sound else "fault",
        "No form that the auditor knows gives these answers. "
        + (
            "But its weights are right, and in the study it is as near the truth as tcdecomp."
            if sound
            else " ".join(wrong)
        ),
        "" if sound else "Compare the weights and the study below with what they should be.",
    )


def _wrong(findings: Findings) -> Iterator[str]:
    """Yield what no right form has, whatever its weights."""
    if findings.unrepeated <= PRECISE and findings.unsummed > findings.accepted:
        yield "Their sum is not the KL."
    if findings.unrepeated <= PRECISE and findings.misread > READING * findings.accepted:
        yield (
            "A narrow posterior among wide ones has other terms, whatever the weights: see that "
            "every component has its own mu and logvar."
        )
    if findings.unrepeated <= PRECISE and findings.buried > BURIED:
        yield (
            "In 100 dimensions small densities are lost: see that nothing is added inside a "
            "logarithm."
        )
    if not _weighs_right(findings):
        yield "The weights are wrong."
    if findings.study is None or not _near(findings, findings.study):
        yield "In the study they are farther from the truth than tcdecomp's."


def _weighs_right(findings: Findings) -> bool:
    """Tell whether the own weight is 1/N, and the sum 1, at all sizes."""
    return all(
        abs(w.own * w.dataset_size - 1) < WEIGHT and abs(w.row_sum - 1) < PRECISE
        for w in findings.weights
    )


def _near(findings: Findings, study: Study) -> bool:
    """Tell whether the means are MSS's on the same batches, or nearer the truth.

    TC, in which the errors of two logarithms may cancel, need not be where MI, DWKL and KL are.
    """
    answers, reference = _with_kl(study.answers), _with_kl(study.reference)
    change, change_error = mean(answers - reference)
    middle, middle_error = mean((study.answers + study.reference) / 2)
    known = findings.explanation
    rounding = max(findings.accepted, known.error if known else 0.0)
    margin = OFFSET + rounding * (1 + reference.mean(0).abs())
    alike = change.abs() <= ERRORS * change_error + margin
    # Of two means, that on the truth's side of their middle is the nearer one.
    error = (middle_error.square() + study.truth_error.square()).sqrt()
    nearer = change[:3].sign() * (middle - study.truth) <= ERRORS * error
    mi, tc, dimension_wise_kl = alike[:3] | nearer
    return bool(mi & dimension_wise_kl & (tc | alike[3]))


def _with_kl(terms: Tensor) -> Tensor:
    """Return the terms and their sum."""
    return torch.cat([terms, terms.sum(1, keepdim=True)], 1)


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
    if study is None or known is None or departures(known.form) or _near(findings, study):
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
