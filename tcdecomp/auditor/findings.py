"""What the probes show of the code: one short function for each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from tcdecomp.auditor import probes
from tcdecomp.auditor.explanation import COARSE, PRECISE, Explanation
from tcdecomp.auditor.forms import Form
from tcdecomp.auditor.gradient import Gradient, gradient
from tcdecomp.auditor.measured import Weights, weigh
from tcdecomp.auditor.probes import CPU, Probe
from tcdecomp.auditor.search import search
from tcdecomp.auditor.study import Study, study
from tcdecomp.auditor.subject import (
    Answer,
    RaisedError,
    Subject,
    largest_change,
    relative_error,
    relative_errors,
)

__all__ = ["Findings", "examine"]

WEIGHED_AT = ((4, 1000), (16, 1000), (16, 100_000))  # (M, N)
# Log-variances that only code with a floor under the variance, at these extremes, takes for one.
ALIKE = {
    probes.LARGE: (probes.SHARPEST, -38.0),
    probes.SHARP: (-25.0, -38.0),
    probes.FAR_OUT: (-5.5, -38.0),
}


@dataclass(frozen=True)
class Findings:
    """Everything that the verdicts are made from.

    Attributes
    ----------
    accepted : float
        Relative error that answers may have in the precision of the probes.
    finite : bool
        Whether all answers to ordinary batches are.
    explanation : Explanation or None
        The form that reproduces the code's answers.
    in_one_dimension : Explanation or None
        The form that does so for D = 1, if none does for all, and nothing is left to chance.
    weights : tuple of Weights
        Measured weights, with the form's scale, order and signs undone.
    unrepeated, reordered : float
        Largest relative change of an answer to the same batch, and to its rows in another order.
    unsummed : float
        Largest relative error of the sum of the answers, which is the KL whatever the weights.
    misread : float
        The same of the answers for a narrow posterior among wide ones.
    buried : float
        The same of the MI of posteriors that are apart in 100 dimensions, with small densities.
    always_zero, clamped : Tensor of bool, shape (3,)
        Which answers are 0 whatever the batch, and on some where only a clamp makes them so.
    example : tuple of (Probe, Tensor)
        One batch, and the code's answers.
    gradient : Gradient or None
        None where the precision is too low to tell, or the backward pass raised.
    extremes : dict of str to float
        Largest relative error at each extreme; infinite if an answer is not finite.
    floored : tuple of str
        The extremes where the code has the same answer for all lower log-variances.
    study : Study or None
        None where the code raised, or cannot take a negative logvar.
    raised : tuple of str
        What the code raised, in its backward pass, at extremes or in the study.
    """

    accepted: float
    finite: bool
    explanation: Explanation | None
    in_one_dimension: Explanation | None
    weights: tuple[Weights, ...]
    unrepeated: float
    reordered: float
    unsummed: float
    misread: float
    buried: float
    always_zero: Tensor
    clamped: Tensor
    example: tuple[Probe, Tensor]
    gradient: Gradient | None
    extremes: dict[str, float]
    floored: tuple[str, ...]
    study: Study | None
    raised: tuple[str, ...]


def examine(subject: Subject, generator: Generator) -> Findings:
    """Put all probes to the code.

    Raises
    ------
    RaisedError
        If it raises on an ordinary batch.
    """
    ordinary = [probe.to(CPU, subject.dtype) for probe in probes.ordinary(generator)]
    answers = [subject.read(probe) for probe in ordinary]
    unrepeated = largest_change(subject, ordinary, answers)
    explanation = in_one_dimension = None
    always_zero = _always_zero(subject, ordinary, answers)
    if unrepeated <= PRECISE and not always_zero.any():  # else there is no one form
        explanation, in_one_dimension = search(subject, ordinary, answers)
    form = explanation.form if explanation else Form()
    raised: list[str] = []
    goes_on = form.takes_negative_logvar
    return Findings(
        PRECISE if subject.dtype in (torch.float32, torch.float64) else COARSE,
        all(bool(answer.terms.isfinite().all()) for answer in answers),
        explanation,
        in_one_dimension,
        tuple(weigh(subject, form, *sizes) for sizes in WEIGHED_AT),
        unrepeated,
        largest_change(subject, [probes.shuffled(ordinary[2])], answers[2:3]),
        _unsummed(ordinary, answers),
        _misread(subject),
        _buried(subject),
        always_zero,
        _clamped(ordinary, answers, explanation),
        (ordinary[0], answers[0].terms),
        _gradient(subject, generator, raised),
        _extremes(subject, explanation, generator, raised) if goes_on else {},
        tuple(at for at in ALIKE if goes_on and _floored(subject, ordinary[0], ALIKE[at])),
        _study(subject, generator, raised) if goes_on else None,
        tuple(raised),
    )


def _unsummed(ordinary: list[Probe], answers: list[Answer]) -> float:
    return max(
        relative_error(answer.terms.sum(), Form().terms(probe).sum())
        for probe, answer in zip(ordinary, answers, strict=True)
    )


def _misread(subject: Subject) -> float:
    """Return the error of the change in the answers when a narrow posterior sees wide ones."""
    near, far = (probes.narrow_one(at).to(CPU, subject.dtype) for at in (0.0, -8 * probes.SPACING))
    size, _ = near.shape
    got = subject.read(near).terms - subject.read(far).terms
    return relative_error(size * got, size * (Form().terms(near) - Form().terms(far)))


def _buried(subject: Subject) -> float:
    probe = probes.apart(4, 1000, dim=100)
    try:
        information = subject.read(probe).terms[0]
    except RaisedError:  # which the extremes tell
        return 0.0
    return relative_error(information, information.new_tensor(probe.dataset_size).log())


def _extremes(
    subject: Subject, explanation: Explanation | None, generator: Generator, raised: list[str]
) -> dict[str, float]:
    """Return the relative error at each extreme; without a form, whether answers are finite."""
    errors = {}
    for name, make in probes.EXTREMES.items():
        probe = make(generator).to(CPU, subject.dtype)
        try:
            got = subject.read(probe)
            expected = explanation.form.predict(probe) if explanation else got.terms
        except RaisedError as error:
            raised.append(str(error))
        else:
            errors[name] = got.errors(expected).max().item()
    return errors


def _floored(subject: Subject, probe: Probe, alike: tuple[float, float]) -> bool:
    """Tell whether posteriors of both log-variances, around one z, have the same answer."""
    sharp = replace(probe, logvar=torch.full_like(probe.mu, -12.0))
    sharp = sharp.to(subject.device, subject.dtype)
    z, total = next(sharp.samples()), probe.dataset_size
    try:
        high, low = (
            subject.terms(z.clone(), sharp.mu.clone(), torch.full_like(z, logvar), total)
            for logvar in alike
        )
    except RaisedError:
        return False
    return relative_error(low, high) <= PRECISE


def _always_zero(subject: Subject, ordinary: list[Probe], answers: list[Answer]) -> Tensor:
    """Tell which answers are 0 even where posteriors are far apart, and no right term is."""
    several = [
        answer for probe, answer in zip(ordinary, answers, strict=True) if probe.shape[1] > 1
    ]
    several.append(subject.read(probes.apart(4, 1000, dim=2)))
    return torch.stack([answer.terms == 0 for answer in several]).all(0)


def _clamped(
    ordinary: list[Probe], answers: list[Answer], explanation: Explanation | None
) -> Tensor:
    """Tell which answers are exactly 0 where the form has another value; in one dimension TC is."""
    clamped = torch.zeros(3, dtype=torch.bool)
    for probe, answer in zip(ordinary, answers, strict=True):
        if explanation:
            off = relative_errors(answer.terms, explanation.form.predict(probe))
            clamped |= answer.at_zero & (off > max(PRECISE, 4 * explanation.error))
        elif probe.shape[1] > 1:
            clamped |= answer.at_zero
    return clamped


def _gradient(subject: Subject, generator: Generator, raised: list[str]) -> Gradient | None:
    try:
        return gradient(subject, probes.steep(generator))
    except RaisedError as error:
        raised.append(str(error))
        return None


def _study(subject: Subject, generator: Generator, raised: list[str]) -> Study | None:
    try:
        return study(subject, generator)
    except RaisedError as error:
        raised.append(str(error))
        return None
