"""The weights of a row as they are measured, and the forms that have them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations, product

import torch
from torch import Tensor

from tcdecomp.auditor.explanation import PRECISE, Explanation, explain
from tcdecomp.auditor.forms import MISPLACED, PAPER, UNKNOWN, Form, paper, symmetric
from tcdecomp.auditor.probes import CPU, Probe, apart, overlapping_pair, together
from tcdecomp.auditor.subject import Answer, Subject

__all__ = ["Weights", "explain_by_choice", "explain_by_weights", "weigh"]

ANY = 10**6  # data-set size at which the special components make no difference
LARGEST = 8  # batch size above which they make none that the probes show
EITHER_WAY = tuple(product((False, True), repeat=2))  # two rows, each special to the other or not


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


def weigh(subject: Subject, form: Form, size: int, dataset_size: int) -> Weights:
    """Measure the weights, once the form's scale, order and signs are undone."""
    own, row_sum = (
        form.undo(subject.read(probe).terms, probe)[0].neg().exp().item()
        for probe in (apart(size, dataset_size), together(size, dataset_size))
    )
    return Weights(size, dataset_size, own, row_sum)


def explain_by_weights(
    subject: Subject, ordinary: list[Probe], answers: list[Answer], accepted: float
) -> Explanation | None:
    """Return the form whose own weight, and others' equal one, are those measured, or None."""

    @cache
    def pair(others: int, total: int) -> tuple[float, float]:
        weights = weigh(subject, Form(), others + 1, total)
        return weights.own, max(weights.row_sum - weights.own, 0.0) / others

    return explain(ordinary, answers, accepted, {UNKNOWN: symmetric(pair)})


def explain_by_choice(
    subject: Subject, probes: list[Probe], answers: list[Answer], accepted: float
) -> Explanation | None:
    """Return the form whose weights are the paper's, with the code's own choices, or None.

    What the form is besides is told first, on a data set so large that the choices do not matter;
    then the choices are measured. In low precision they are too unsure to find fault with.
    """
    large = [replace(probe, dataset_size=ANY) for probe in probes]
    found = explain(large, [subject.read(probe) for probe in large], accepted, {PAPER: paper})
    if found is None:
        return None
    special = cache(partial(_special, subject, found.form))
    one_each = all((special(probe.shape[0]).sum(1) == 1).all() for probe in probes)
    if accepted > PRECISE and not one_each:
        return None

    def matrix(size: int, dataset_size: int) -> Tensor:
        return paper(size, dataset_size, special(size) if size <= LARGEST else None)

    return explain(probes, answers, accepted, {PAPER if one_each else MISPLACED: matrix})


def _special(subject: Subject, form: Form, size: int) -> Tensor:
    """Tell whether the column's component is special to the row, shape (M, M)."""
    special = torch.zeros(size, size, dtype=torch.bool)
    for first, second in combinations(range(size), 2):
        probe = overlapping_pair(first, second, size, size + 1).to(CPU, subject.dtype)
        guesses = special.repeat(4, 1, 1)
        guesses[:, [first, second], [second, first]] = torch.tensor(EITHER_WAY)
        special = _best(guesses, form, probe, subject.read(probe))
    return special


def _best(guesses: Tensor, form: Form, probe: Probe, answer: Answer) -> Tensor:
    """Return the guess that comes nearest to the answer."""

    def error(special: Tensor) -> float:
        guess = replace(form, matrix=lambda size, total: paper(size, total, special))
        return answer.errors(guess.predict(probe)).sum().item()

    return min(guesses.unbind(), key=error)
