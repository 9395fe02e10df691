"""Checks of the answers to ordinary batches and in the study."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from tcdecomp.auditor.fit import PRECISE, Findings
from tcdecomp.auditor.forms import PAPER, Form
from tcdecomp.auditor.probes import SPACING, apart, narrow_one
from tcdecomp.auditor.report import DEPARTURES, TERMS, Verdict, fault, mean, names_of, remark
from tcdecomp.auditor.subject import RaisedError, Study, relative_errors

__all__ = ["CHECKS", "unbiased"]

ERRORS = 4  # standard errors by which a mean may be off
OFFSET = 0.02  # nats by which it may be off besides
WEIGHT = 0.01  # relative error of the own weight
BURIED = 0.01  # relative error of the MI in many dimensions
RESOLVED = 10_000  # an N up to this is found exactly, and the first four digits of a larger one
READING = 10  # how much larger the error of one component's density may be than that of a sum


def unbiased(findings: Findings) -> Verdict:
    """Return the verdict on a form without a fault."""
    if findings.plain:
        return Verdict(
            "fine",
            "plain KL",
            "The loss gives all three terms the same weight. It is the KL, and estimates nothing.",
        )
    return Verdict(
        "fine",
        "unbiased",
        "q(z) is estimated without bias: the own component has the weight 1/N, and every row sums "
        "to 1. The terms have only the bias of the logarithm, which falls with M.",
        evidence=_measured(findings),
    )


def _measured(findings: Findings) -> dict[str, float]:
    if not findings.weights:
        return {}
    weights = findings.weights[-1]
    return {
        "M": weights.batch_size,
        "N": weights.dataset_size,
        "own weight times N": weights.own * weights.dataset_size,
        "sum of a row's weights": weights.row_sum,
    }


def departed(findings: Findings) -> Iterator[Verdict]:
    """Yield a fault for each departure of the form from the right one."""
    form = findings.form
    names = [TERMS[i] for i in form.order]
    values = {
        "order": ", ".join(names),
        "signs": ", ".join(n for n, sign in zip(names, form.signs, strict=True) if sign < 0),
    }
    right = ", ".join(TERMS[i] for i in form.right.order)
    for name in form.departures:
        value = getattr(form, name)
        title, sentence, remedy = DEPARTURES.get((name, value)) or DEPARTURES[(name,)]
        sentence = sentence.format(value=values.get(name, value), right=right)
        evidence = _measured(findings) if name == "estimator" else _effect(findings, name)
        yield fault(title, sentence, remedy.format(right=right), evidence)


def _effect(findings: Findings, name: str) -> dict[str, float]:
    """Return the answer that the departure changes most on one batch, with it and without it."""
    probe, answer = findings.pairs[0]
    form = findings.form
    without = replace(form, **{name: getattr(form.right, name)}).predict(probe)
    changed = (answer.values - without).abs()
    index = int(changed.argmax())
    place = names_of(torch.arange(len(changed)) == index)
    return {place: answer.values[index].item(), "without it": without[index].item()}


def size(findings: Findings) -> Iterator[Verdict]:
    """Check whether the code uses the N that it gets."""
    passed = findings.subject.takes_size
    if not findings.repeatable or (passed and findings.uses_size):
        return
    cause = (
        "the code does not use the N that it gets" if passed else "the code was called without N"
    )
    rename = "" if passed else "name the parameter for N dataset_size, or "
    remedy = (
        f"To audit it for other N, {rename}pass N on in a lambda: lambda z, mu, logvar, N: "
        "Loss(N)(...), or with len(z) / N where the code wants the ratio of batch and data set."
    )
    if fixed := findings.form.fixed:
        told = f"about {float(f'{fixed:.4g}'):,.0f}" if fixed > RESOLVED else f"{fixed:,}"
        yield remark(
            "N is fixed",
            f"N is fixed at {told}: {cause}. All verdicts are for this N, without the study.",
            remedy,
        )
    elif not (findings.known and (passed or findings.plain)):
        yield remark("N is not used", f"The answers are the same for another N: {cause}.", remedy)


def axes(findings: Findings) -> Iterator[Verdict]:
    """Check whether rows and columns are mixed up."""
    if findings.axes:
        yield fault(
            "axes mixed up",
            f"With D = 1 the answers are those of {findings.axes.form.estimator}. With larger D "
            "they are wrong: rows and columns of z, mu or logvar are mixed up.",
            "Look for a view or reshape that should be a transpose or unsqueeze.",
        )


def unknown(findings: Findings) -> Iterator[Verdict]:
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
            "not repeatable",
            "The same batch gives another answer each time: the code draws random numbers, or "
            "counts its calls, as a warm-up does.",
            "Fix the random numbers, or the step of the warm-up, and audit the code again. In a "
            "module, eval() may do that.",
            {"largest relative change": findings.change},
        )
    if findings.constant.any():
        return  # which has a verdict of its own
    wrong = " ".join(_wrong(findings))
    yield (fault if wrong else remark)(
        "unknown form",
        "The auditor knows no form with these answers. "
        + (wrong or "But the weights and the means in the study are right."),
        "Audit a function that returns the three terms, or the total correlation, on its own."
        if findings.subject.returns == "loss"
        else "Compare the weights and the study below with what they should be." * bool(wrong),
    )


def _wrong(findings: Findings) -> Iterator[str]:
    """Yield what no right form does."""
    if findings.subject.returns == "loss":
        yield "No weights of MI, TC and DWKL fit." if findings.repeatable else "The loss changes."
        return
    # If the code does not use N, then its own weight must be 1/N for one N.
    if not (findings.weights and findings.weights[0].own):
        yield "The weights are wrong."
        return
    fixed = None if findings.uses_size else 1 / findings.weights[0].own
    right = replace(findings.subject.right, fixed=fixed)
    if findings.repeatable:  # else single answers are noisy
        if findings.subject.returns == "terms" and _sum_error(findings) > findings.rounding:
            yield "The sum of the answers is not the KL."
        if _reading_error(findings, right) > READING * findings.rounding:
            yield (
                "A narrow posterior among wide ones has wrong terms, whatever the weights: see "
                "that every component has its own mu and logvar."
            )
        if _buried_error(findings, right) > BURIED:
            yield (
                "In 100 dimensions small densities are lost: see that nothing is added inside a "
                "logarithm."
            )
    for weights in findings.weights:
        own = weights.own * (fixed or weights.dataset_size)
        if abs(own - 1) > WEIGHT or abs(weights.row_sum - 1) > PRECISE:
            yield "The weights are wrong."
            break
    # The errors of two logarithms may cancel in TC, so that TC alone says nothing.
    judged = findings.subject.returns == "terms" and findings.uses_size
    if judged and not (findings.study and _near(findings, findings.study)):
        yield "In the study the answers are farther from the truth than those of tcdecomp."


def _sum_error(findings: Findings) -> float:
    return max(
        relative_errors(answer.values.sum(), Form().terms(probe).sum()).item()
        for probe, answer in findings.pairs
    )


def _reading_error(findings: Findings, right: Form) -> float:
    """Return the error of the change in the answers when a narrow posterior meets wide ones."""
    subject, probes = findings.subject, (narrow_one(at) for at in (0.0, -8 * SPACING))
    near, far = map(subject.rounded, probes)
    rows, _ = near.shape
    got = subject.read(near).values - subject.read(far).values
    expected = right.predict(near) - right.predict(far)
    return relative_errors(rows * got, rows * expected).max().item()


def _buried_error(findings: Findings, right: Form) -> float:
    probe = apart(4, 1000, dim=100)
    try:
        got = findings.subject.read(probe).values
    except RaisedError:
        return 0.0  # the check of the extremes tells
    return relative_errors(got, right.predict(probe)).max().item()


def studied(findings: Findings) -> Iterator[Verdict]:
    """Check whether the study confirms a form without a fault."""
    study = findings.study
    if study is None or not findings.known or findings.form.departures or _near(findings, study):
        return
    off = study.answers.mean(0) - study.truth
    index = int(off.abs().argmax())
    yield fault(
        "off in the study",
        "On small batches the answers are right. But in the study their mean is farther from the "
        f"truth than that of tcdecomp: {names_of(torch.arange(len(off)) == index)}.",
        "Compare the code with tcdecomp.decompose on a batch of the study's size.",
        {"mean error, nats": off[index].item()},
    )


def _near(findings: Findings, study: Study) -> bool:
    """Tell whether the means are those of MSS on the same batches, or nearer the truth.

    If MI, DWKL and KL are, TC need not be: the errors of two logarithms may cancel in it.
    """
    answers, reference = _with_sum(study.answers), _with_sum(study.reference)
    change, change_error = mean(answers - reference)
    middle, middle_error = mean((study.answers + study.reference) / 2)
    margin = OFFSET + findings.rounding * (1 + reference.mean(0).abs())
    alike = change.abs() <= ERRORS * change_error + margin
    # Of two means, the one on the truth's side of their middle is nearer.
    error = (middle_error.square() + study.truth_error.square()).sqrt()
    right = alike[:-1] | (change[:-1].sign() * (middle - study.truth) <= ERRORS * error)
    if len(right) == 3:
        right[1] |= alike[-1]
    return bool(right.all())


def _with_sum(answers: Tensor) -> Tensor:
    return torch.cat([answers, answers.sum(1, keepdim=True)], 1)


def clamped(findings: Findings) -> Iterator[Verdict]:
    """Check whether answers are clamped at 0, or the same for every batch."""
    zero = findings.pairs[0][1].values == 0
    for which, name, words in (
        (findings.constant & zero, "always 0", "Exactly 0 for every batch"),
        (findings.constant & ~zero, "constant", "Does not depend on the batch"),
    ):
        if which.any():
            remedy = "Compute all answers from the batch. Do not clamp them from above."
            yield fault(name, f"{words}: {names_of(which)}.", remedy)
    if findings.clamped.any() and not findings.constant.any():
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
    rows = torch.tensor([1, 3, 5, 4, 2, 0])  # of six
    got = findings.subject.read(probe.map(lambda tensor: tensor[rows])).values
    change = relative_errors(got, answer.values).max().item()
    if change > findings.tolerance(PRECISE):
        yield remark(
            "depends on the order of the batch",
            "The same batch with its rows in another order gives another answer."
            + (" The paper's own form does, without bias." * (findings.estimator == PAPER)),
            "Give all other components the same weight, (N-1)/(N(M-1)).",
            {"largest relative change": change},
        )


CHECKS = (departed, axes, unknown, clamped, studied, size, order, precision)
