"""Checks of the answers to ordinary batches and in the study."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from tcdecomp.auditor.forms import PAPER, Form
from tcdecomp.auditor.probes import SPACING, apart, narrow_one
from tcdecomp.auditor.report import TERMS, Verdict, fault, mean, names_of, remark
from tcdecomp.auditor.search import PRECISE, Findings
from tcdecomp.auditor.subject import RaisedError, Study, Weights, relative_errors
from tcdecomp.auditor.words import DEPARTURES

__all__ = ["axes", "clamped", "departed", "order", "precision", "studied", "unbiased", "unknown"]

ERRORS = 4  # standard errors by which a mean may be off
OFFSET = 0.02  # nats by which it may be off besides
WEIGHT = 0.01  # relative error of the own weight
BURIED = 0.01  # relative error of the MI in many dimensions
READING = 10  # how much larger the error of one component's density may be than that of a sum


def unbiased(weights: Weights) -> Verdict:
    """Return the verdict on a form without a fault."""
    return Verdict(
        "unbiased",
        "fine",
        "q(z) is estimated without bias: the own component has the weight 1/N, and every row sums "
        "to 1. The terms have only the bias of the logarithm, which falls with M.",
        evidence=_measured(weights),
    )


def _measured(weights: Weights) -> dict[str, float]:
    return {
        "M": weights.batch_size,
        "N": weights.dataset_size,
        "own weight times N": weights.own * weights.dataset_size,
        "sum of a row's weights": weights.row_sum,
    }


def departed(findings: Findings, weights: Weights) -> Iterator[Verdict]:
    """Yield a fault for each departure of the form from the right one."""
    form = findings.form
    negated = [TERMS[i] for i, sign in zip(form.order, form.signs, strict=True) if sign < 0]
    lists = {"order": [TERMS[i] for i in form.order], "signs": negated}
    for name in form.departures:
        value = getattr(form, name)
        title, sentence, remedy = DEPARTURES.get((name, value)) or DEPARTURES[(name,)]
        sentence = sentence.format(value=", ".join(lists[name]) if name in lists else value)
        evidence = _measured(weights) if name == "estimator" else _effect(findings, name)
        yield fault(title, sentence, remedy, evidence)


def _effect(findings: Findings, name: str) -> dict[str, float]:
    """Return the answer that the departure changes most on one batch, with it and without it."""
    probe, answer = findings.pairs[0]
    without = replace(findings.form, **{name: getattr(Form(), name)}).predict(probe)
    index = int((answer.terms - without).abs().argmax())
    place = ("first", "second", "third")[index]
    return {f"{place} answer": answer.terms[index].item(), "without it": without[index].item()}


def axes(findings: Findings) -> Iterator[Verdict]:
    """Check whether rows and columns are mixed up."""
    if findings.axes:
        yield fault(
            "axes mixed up",
            f"With D = 1 the answers are those of {findings.axes.form.estimator}. With larger D "
            "they are wrong: rows and columns of z, mu or logvar are mixed up.",
            "Look for a view or reshape that should be a transpose or unsqueeze.",
        )


def unknown(
    findings: Findings, weights: tuple[Weights, ...], study: Study | None
) -> Iterator[Verdict]:
    """Judge code whose form is unknown by what holds for every right form."""
    if findings.known or findings.axes:
        return
    if not findings.finite:
        yield fault(
            "not finite",
            "Answers to ordinary batches are NaN or infinite.",
            "Look for the logarithm of 0 or of a negative number, and for half precision.",
        )
        return
    if not findings.repeatable:
        yield remark(
            "answers at random",
            "The same batch gives another answer each time: the code draws random numbers.",
            "Make the randomness an argument, and audit the code with it fixed.",
            {"largest relative change": findings.change},
        )
    if findings.always_zero.any():
        return  # which has a verdict of its own
    wrong = " ".join(_wrong(findings, weights, study))
    yield (fault if wrong else remark)(
        "unknown form",
        "The auditor knows no form with these answers. "
        + (wrong or "But the weights and the means in the study are right."),
        "Compare the weights and the study below with what they should be." if wrong else "",
    )


def _wrong(findings: Findings, weights: tuple[Weights, ...], study: Study | None) -> Iterator[str]:
    """Yield what no right form does."""
    if findings.repeatable:  # else single answers are noisy
        if _sum_error(findings) > findings.rounding:
            yield "The sum of the answers is not the KL."
        if _reading_error(findings) > READING * findings.rounding:
            yield (
                "A narrow posterior among wide ones has wrong terms, whatever the weights: see "
                "that every component has its own mu and logvar."
            )
        if _buried_error(findings) > BURIED:
            yield (
                "In 100 dimensions small densities are lost: see that nothing is added inside a "
                "logarithm."
            )
    if not all(_weighs_right(w) for w in weights):
        yield "The weights are wrong."
    if study is None or not _near(findings, study):
        yield "In the study the answers are farther from the truth than those of tcdecomp."


def _sum_error(findings: Findings) -> float:
    return max(
        relative_errors(answer.terms.sum(), Form().terms(probe).sum()).item()
        for probe, answer in findings.pairs
    )


def _reading_error(findings: Findings) -> float:
    """Return the error of the change in the answers when a narrow posterior meets wide ones."""
    near, far = (findings.subject.rounded(narrow_one(at)) for at in (0.0, -8 * SPACING))
    size, _ = near.shape
    got = findings.subject.read(near).terms - findings.subject.read(far).terms
    return relative_errors(size * got, size * (Form().terms(near) - Form().terms(far))).max().item()


def _buried_error(findings: Findings) -> float:
    probe = apart(4, 1000, dim=100)
    try:
        information = findings.subject.read(probe).terms[0]
    except RaisedError:
        return 0.0  # the check of the extremes tells
    return relative_errors(information, torch.tensor(probe.dataset_size).log()).item()


def _weighs_right(weights: Weights) -> bool:
    own = weights.own * weights.dataset_size
    return abs(own - 1) < WEIGHT and abs(weights.row_sum - 1) < PRECISE


def studied(findings: Findings, study: Study | None) -> Iterator[Verdict]:
    """Check whether the study confirms a form without a fault."""
    if study is None or not findings.known or findings.form.departures or _near(findings, study):
        return
    off = study.answers.mean(0) - study.truth
    index = int(off.abs().argmax())
    yield fault(
        "off in the study",
        "On small batches the answers are right. But in the study their mean is farther from the "
        f"truth than that of tcdecomp, in {TERMS[index]}.",
        "Compare the code with tcdecomp.decompose on a batch of the study's size.",
        {"mean error, nats": off[index].item()},
    )


def _near(findings: Findings, study: Study) -> bool:
    """Tell whether the means are those of MSS on the same batches, or nearer the truth.

    If MI, DWKL and KL are, TC need not be: the errors of two logarithms may cancel in it.
    """
    answers, reference = _with_kl(study.answers), _with_kl(study.reference)
    change, change_error = mean(answers - reference)
    middle, middle_error = mean((study.answers + study.reference) / 2)
    margin = OFFSET + findings.rounding * (1 + reference.mean(0).abs())
    alike = change.abs() <= ERRORS * change_error + margin
    # Of two means, the one on the truth's side of their middle is nearer.
    error = (middle_error.square() + study.truth_error.square()).sqrt()
    nearer = change[:3].sign() * (middle - study.truth) <= ERRORS * error
    mi, tc, dimension_wise_kl = alike[:3] | nearer
    return bool(mi & dimension_wise_kl & (tc | alike[3]))


def _with_kl(terms: Tensor) -> Tensor:
    """Return the terms and their sum."""
    return torch.cat([terms, terms.sum(1, keepdim=True)], 1)


def clamped(findings: Findings) -> Iterator[Verdict]:
    """Check whether answers are clamped at 0."""
    if findings.always_zero.any():
        yield fault(
            "always 0",
            f"Exactly 0 for every batch: {names_of(findings.always_zero)}.",
            "Return all three terms. Do not clamp them from above.",
        )
    elif findings.clamped.any():
        yield remark(
            "perhaps clamped at 0",
            f"Exactly 0 on some batches: {names_of(findings.clamped)}. The value below 0 that the "
            "code computes there is unknown.",
            "Do not clamp an estimate. Noise and bias may make it negative. A clamp changes its "
            "mean, and sets its gradient to 0.",
        )


def precision(findings: Findings) -> Iterator[Verdict]:
    """Check whether the answers are rounded more than in single precision."""
    if findings.known and findings.known.error > PRECISE:
        yield remark(
            "low precision",
            "The answers are right up to the rounding of a half-precision dtype.",
            "Convert z, mu and logvar to float32, and switch autocast off.",
            {"largest relative error": findings.known.error},
        )


def order(findings: Findings) -> Iterator[Verdict]:
    """Check whether the answers depend on the order of the rows."""
    if findings.axes or not findings.repeatable:
        return  # another verdict explains the change
    probe, answer = findings.pairs[2]
    got = findings.subject.read(probe.shuffled()).terms
    change = relative_errors(got, answer.terms).max().item()
    if change > findings.tolerance(PRECISE):
        yield remark(
            "depends on the order of the batch",
            "The same batch with its rows in another order gives another answer."
            + (" The paper's own form does, without bias." * (findings.estimator == PAPER)),
            "Give all other components the same weight, (N-1)/(N(M-1)).",
            {"largest relative change": change},
        )
