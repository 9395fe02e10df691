"""What the probes show of the code: one short function for each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Generator, Tensor

from tcdecomp.auditor import probes
from tcdecomp.auditor.explanation import Explanation, departures, explain
from tcdecomp.auditor.forms import Form, symmetric
from tcdecomp.auditor.gradient import Gradient, gradient
from tcdecomp.auditor.probes import CPU, Probe
from tcdecomp.auditor.study import Study, study
from tcdecomp.auditor.subject import RaisedError, Subject, relative_error

__all__ = ["PRECISE", "UNKNOWN", "Findings", "Weights", "examine"]

PRECISE = 1e-4  # relative error of code in single precision, with a margin
WEIGHED_AT = ((4, 1000), (16, 1000), (16, 100_000))  # (M, N)
UNKNOWN = "unknown"  # estimator


@dataclass(frozen=True)
class Weights:
    """The weights of a row, as measured: geometric means over the rows.

    Attributes
    ----------
    batch_size, dataset_size : int
        M and N.
    own, row_sum : float
        Weight of the own component, and sum over all components.
    """

    batch_size: int
    dataset_size: int
    own: float
    row_sum: float


@dataclass(frozen=True)
class Findings:
    """Everything that the verdicts are made from.

    Attributes
    ----------
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
    example : tuple of (Probe, Tensor)
        One batch, and the code's answers.
    gradient : Gradient or None
        None where the precision is too low to tell.
    extremes : dict of str to float
        Largest relative error at each extreme; infinite if an answer is not finite.
    study : Study or None
        None where the code raised, or cannot take a negative logvar.
    raised : tuple of str
        What the code raised, at extremes or in the study.
    """

    finite: bool
    explanation: Explanation | None
    in_one_dimension: Explanation | None
    weights: tuple[Weights, ...]
    unrepeated: float
    reordered: float
    example: tuple[Probe, Tensor]
    gradient: Gradient | None
    extremes: dict[str, float]
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
    answers = _answers(subject, ordinary)
    unrepeated = relative_error(_answers(subject, ordinary), answers)
    explanation = None
    if unrepeated <= PRECISE:  # else there is no one form
        explanation = explain(ordinary, answers) or _by_its_weights(subject, ordinary, answers)
    form = explanation.form if explanation else Form()
    raised: list[str] = []
    goes_on = form.takes_negative_logvar
    return Findings(
        bool(answers.isfinite().all()),
        explanation,
        None if explanation or unrepeated > PRECISE else _in_one_dimension(ordinary, answers),
        tuple(weigh(subject, form, *sizes) for sizes in WEIGHED_AT),
        unrepeated,
        relative_error(subject.read(probes.shuffled(ordinary[2])), answers[2]),
        (ordinary[0], answers[0]),
        gradient(subject, ordinary[2], generator),
        _extremes(subject, explanation, generator, raised) if goes_on else {},
        _study(subject, generator, raised) if goes_on else None,
        tuple(raised),
    )


def _answers(subject: Subject, ordinary: list[Probe]) -> Tensor:
    return torch.stack([subject.read(probe) for probe in ordinary])


def weigh(subject: Subject, form: Form, size: int, dataset_size: int) -> Weights:
    """Measure the weights, once the form's scale, order and signs are undone."""
    apart, together = (
        form.undo(subject.read(probe), probe)[0].neg().exp().item()
        for probe in (probes.apart(size, dataset_size), probes.together(size, dataset_size))
    )
    return Weights(size, dataset_size, apart, together)


def _by_its_weights(subject: Subject, ordinary: list[Probe], answers: Tensor) -> Explanation | None:
    """Explain the answers by the weights that are measured, if no known ones do."""

    @cache
    def pair(others: int, total: int) -> tuple[float, float]:
        weights = weigh(subject, Form(), others + 1, total)
        return weights.own, max(weights.row_sum - weights.own, 0.0) / others

    return explain(ordinary, answers, {UNKNOWN: symmetric(pair)})


def _in_one_dimension(ordinary: list[Probe], answers: Tensor) -> Explanation | None:
    """Return the form that the code has for D = 1, where its only departure is in the weights."""
    rows = [i for i, probe in enumerate(ordinary) if probe.shape[1] == 1]
    explanation = explain([ordinary[i] for i in rows], answers[rows])
    if explanation and set(departures(explanation.form)) <= {"estimator"}:
        return explanation
    return None


def _extremes(
    subject: Subject, explanation: Explanation | None, generator: Generator, raised: list[str]
) -> dict[str, float]:
    """Return the relative error at each extreme; without a form, whether answers are finite."""
    errors = {}
    for name, make in probes.EXTREMES.items():
        probe = make(generator).to(CPU, subject.dtype)
        try:
            got = subject.read(probe)
            expected = explanation.form.predict(probe) if explanation else got
        except RaisedError as error:
            raised.append(str(error))
        else:
            errors[name] = relative_error(got, expected)
    return errors


def _study(subject: Subject, generator: Generator, raised: list[str]) -> Study | None:
    try:
        return study(subject, generator)
    except RaisedError as error:
        raised.append(str(error))
        return None
