"""The search for the form that reproduces what the code answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tcdecomp.auditor.forms import (
    COUNTED,
    DENSITIES,
    JACKKNIFE,
    MATRICES,
    PAPER,
    SCALES,
    Form,
    Matrix,
)
from tcdecomp.auditor.probes import Probe
from tcdecomp.auditor.subject import Answer

__all__ = ["COARSE", "PRECISE", "Explanation", "departures", "explain"]

PRECISE = 1e-4  # relative error of code in single precision, with a margin
COARSE = 0.03  # the same, in half precision
SAME = 1e-4  # relative error below which forms reproduce equally well
MOST = 3  # a form departs in fewer things than this, its outputs left aside
UNFAULTED = ("symmetric MSS", PAPER, JACKKNIFE)

_ORDERS = tuple(itertools.permutations(range(3)))
_SIGNS = tuple(itertools.product((1, -1), repeat=3))
_OUTPUTS = tuple(itertools.product(SCALES, _ORDERS, _SIGNS))


@dataclass(frozen=True)
class Explanation:
    """A form, and the largest relative error with which it reproduces the answers."""

    form: Form
    error: float


def departures(form: Form) -> list[str]:
    """Return the names of the fields in which a form departs from what is right."""
    right = Form()
    names = [] if form.estimator in UNFAULTED else ["estimator"]
    fields = ("counted", "densities", "scale", "order", "signs")
    return names + [name for name in fields if getattr(form, name) != getattr(right, name)]


def explain(
    probes: list[Probe],
    answers: list[Answer],
    accepted: float = PRECISE,
    matrices: Mapping[str, Matrix] = MATRICES,
) -> Explanation | None:
    """Return the form with the fewest departures that reproduces the answers, or None.

    Parameters
    ----------
    probes : list of Probe
        What was put to the code.
    answers : list of Answer
        What it answered.
    accepted : float
        Relative error that it may have.
    matrices : mapping of str to callable
        The weights to try, by name.
    """
    candidates: list[Explanation] = []
    for number in range(MOST):
        for core in _cores(matrices, number):
            candidates += _outputs(core, probes, answers, accepted)
        limit = max(SAME, 4 * min((c.error for c in candidates), default=0.0))
        # In full precision no two forms agree; in half precision all have to be compared.
        if candidates and (limit == SAME or number == MOST - 1):
            fitting = (c for c in candidates if c.error <= limit)
            return min(fitting, key=lambda c: (_cost(c.form), c.error))
    return None


def _cores(matrices: Mapping[str, Matrix], number: int) -> Iterator[Form]:
    """Yield the forms that differ in more than their outputs, in so many things."""
    for (name, matrix), counted, densities in itertools.product(
        matrices.items(), COUNTED, DENSITIES
    ):
        form = Form(name, matrix, counted, densities)
        if len(departures(form)) == number:
            yield form


def _cost(form: Form) -> int:
    """Return how many things must have gone wrong; each sign counts."""
    extra = form.signs.count(-1) - 1 if form.signs.count(-1) else 0
    return len(departures(form)) + extra


def _outputs(
    core: Form, probes: list[Probe], answers: list[Answer], accepted: float
) -> Iterator[Explanation]:
    """Yield the core with every order, sign and scale that fits."""
    worst = torch.zeros(len(_OUTPUTS), dtype=torch.float64)
    for probe, answer in zip(probes, answers, strict=True):
        worst = torch.maximum(worst, _errors(core, probe, answer))
        if not (worst <= accepted).any():
            return
    for index in (worst <= accepted).nonzero().flatten().tolist():
        scale, order, signs = _OUTPUTS[index]
        form = replace(core, scale=scale, order=order, signs=signs)
        yield Explanation(form, worst[index].item())


def _errors(core: Form, probe: Probe, answer: Answer) -> Tensor:
    """Return the relative error of each of the outputs, in their order."""
    scales = torch.tensor([scale(*probe.shape) for scale in SCALES.values()], dtype=torch.float64)
    signed = scales[:, None, None] * torch.tensor(_SIGNS) * core.terms(probe)
    predicted = signed[:, :, torch.tensor(_ORDERS)].transpose(1, 2)  # (scale, order, sign, 3)
    return answer.errors(predicted).amax(3).flatten()
