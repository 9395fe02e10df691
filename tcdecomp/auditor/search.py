"""The search for the form that reproduces the code's answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Generator, Tensor

from tcdecomp.auditor.forms import (
    COUNTED,
    DENSITIES,
    MATRICES,
    SCALES,
    UNKNOWN,
    Form,
    Matrix,
    symmetric,
)
from tcdecomp.auditor.probes import Probe, apart, ordinary
from tcdecomp.auditor.subject import Answer, Subject, relative_errors, weigh

__all__ = ["COARSE", "PRECISE", "Explanation", "Findings", "explain", "search"]

PRECISE = 1e-4  # relative error of code in single precision, with a margin
COARSE = 0.03  # the same in half precision
SAME = 1e-4  # relative error below which forms fit equally well
MOST = 3  # a form has fewer departures than this, apart from scale, order and signs
ROUNDING = 20  # how much larger an error may be elsewhere than on ordinary batches

_ORDERS = tuple(itertools.permutations(range(3)))
_SIGNS = tuple(itertools.product((1, -1), repeat=3))
_OUTPUTS = tuple(itertools.product(SCALES, _ORDERS, _SIGNS))

Pairs = list[tuple[Probe, Answer]]


@dataclass(frozen=True)
class Explanation:
    """A form, and the largest relative error of its predictions."""

    form: Form
    error: float


@dataclass(frozen=True)
class Findings:
    """What the answers to ordinary batches show."""

    subject: Subject
    pairs: Pairs  # the batches and the answers
    change: float  # the largest relative change of an answer when a batch is repeated
    always_zero: Tensor  # (3,): which answers are 0 even for posteriors far apart
    known: Explanation | None = None  # the form that reproduces the answers
    axes: Explanation | None = None  # the form for D = 1, if dimensions are treated differently

    @property
    def form(self) -> Form:
        """The form of the code, or else the right one."""
        return self.known.form if self.known else Form()

    @property
    def estimator(self) -> str:
        """The name of the weights."""
        found = self.known or self.axes
        return found.form.estimator if found else UNKNOWN

    @property
    def repeatable(self) -> bool:
        """Whether a batch has the same answers when it is repeated."""
        return self.change <= PRECISE

    @property
    def finite(self) -> bool:
        """Whether all answers are finite."""
        return all(bool(answer.terms.isfinite().all()) for _, answer in self.pairs)

    @property
    def rounding(self) -> float:
        """The relative error that answers have by rounding."""
        least = PRECISE if self.subject.dtype in (torch.float32, torch.float64) else COARSE
        return max(least, self.known.error) if self.known else least

    def tolerance(self, least: float) -> float:
        """Return the relative error that answers may have elsewhere."""
        return max(least, ROUNDING * self.known.error) if self.known else least

    @property
    def clamped(self) -> Tensor:
        """Which answers are exactly 0 where the form has another value; for D = 1, TC is 0."""
        clamped = torch.zeros(3, dtype=torch.bool)
        for probe, answer in self.pairs:
            if self.known:
                off = relative_errors(answer.terms, self.form.predict(probe))
                clamped |= answer.at_zero & (off > max(PRECISE, 4 * self.known.error))
            elif probe.shape[1] > 1:
                clamped |= answer.at_zero
        return clamped


def search(subject: Subject, generator: Generator) -> Findings:
    """Put ordinary batches to the code, and look for the form that reproduces the answers."""
    probes = [subject.rounded(probe) for probe in ordinary(generator)]
    pairs = [(probe, subject.read(probe)) for probe in probes]
    change = subject.changes(pairs, lambda probe: probe).max().item()
    zero = [answer.terms == 0 for probe, answer in pairs if probe.shape[1] > 1]
    zero.append(subject.read(apart(4, 1000, dim=2)).terms == 0)
    findings = Findings(subject, pairs, change, torch.stack(zero).all(0))
    if not findings.repeatable or findings.always_zero.any():
        return findings  # there is no one form
    accepted = (PRECISE, COARSE) if _rounds(subject, pairs) else (PRECISE,)
    for error in accepted:
        known = explain(pairs, error) or _explain_by_weights(subject, pairs, error)
        if known:
            return replace(findings, known=known)
    if subject.changes(pairs, Probe.turned).max() <= PRECISE:
        return findings
    return replace(findings, axes=_in_one_dimension(pairs, accepted[-1]))


def _rounds(subject: Subject, pairs: Pairs) -> bool:
    """Tell whether the code works, or answers, in less than single precision."""
    values = torch.stack([answer.by_sign for _, answer in pairs])
    if torch.equal(values, values.half().double()):
        return True
    changes = subject.changes(pairs, Probe.shifted)
    return bool(changes.sort(1).values[:, 1].max() > PRECISE)  # of MI and TC: not of DWKL


def _in_one_dimension(pairs: Pairs, accepted: float) -> Explanation | None:
    """Return the form for D = 1, if only its weights may be wrong, or None."""
    found = explain([pair for pair in pairs if pair[0].shape[1] == 1], accepted)
    return found if found and set(found.form.departures) <= {"estimator"} else None


def _explain_by_weights(subject: Subject, pairs: Pairs, accepted: float) -> Explanation | None:
    """Return the form whose own weight, and equal other weights, are measured, or None."""

    @cache
    def pair(others: int, total: int) -> tuple[float, float]:
        weights = weigh(subject, Form(), others + 1, total)
        return weights.own, max(weights.row_sum - weights.own, 0.0) / others

    return explain(pairs, accepted, [(UNKNOWN, symmetric(pair))])


def explain(
    pairs: Pairs,
    accepted: float = PRECISE,
    matrices: Sequence[tuple[str, Matrix]] = MATRICES,
) -> Explanation | None:
    """Return the form with the fewest departures whose errors are accepted, or None."""
    parts = itertools.product(matrices, COUNTED, DENSITIES)
    cores = [Form(*weights, counted, densities) for weights, counted, densities in parts]
    candidates: list[Explanation] = []
    for number in range(MOST):
        for core in cores:
            if len(core.departures) == number:
                candidates += _fitting(core, pairs, accepted)
        limit = max(SAME, 4 * min((c.error for c in candidates), default=0.0))
        # No two forms agree in full precision; in half precision all must be compared.
        if candidates and (limit == SAME or number == MOST - 1):
            best = (c for c in candidates if c.error <= limit)
            return min(best, key=lambda c: (_cost(c.form), c.error))
    return None


def _cost(form: Form) -> int:
    """Return the number of departures, where each wrong sign counts."""
    return len(form.departures) + max(form.signs.count(-1) - 1, 0)


def _fitting(core: Form, pairs: Pairs, accepted: float) -> Iterator[Explanation]:
    """Yield the core with each scale, order and signs that fit."""
    worst = torch.zeros(len(_OUTPUTS), dtype=torch.float64)
    for probe, answer in pairs:
        worst = torch.maximum(worst, _errors(core, probe, answer))
        if not (worst <= accepted).any():
            return
    for index in (worst <= accepted).nonzero().flatten().tolist():
        scale, order, signs = _OUTPUTS[index]
        form = replace(core, scale=scale, order=order, signs=signs)
        yield Explanation(form, worst[index].item())


def _errors(core: Form, probe: Probe, answer: Answer) -> Tensor:
    """Return the error for each of _OUTPUTS."""
    signed = core.terms(probe)[torch.tensor(_ORDERS)][:, None] * torch.tensor(_SIGNS)
    scales = torch.tensor([scale(*probe.shape) for scale in SCALES.values()], dtype=torch.float64)
    return answer.errors(scales[:, None, None, None] * signed).amax(3).flatten()
