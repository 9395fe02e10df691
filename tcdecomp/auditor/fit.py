"""Which form reproduces the code's answers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor

from tcdecomp.auditor.forms import (
    COUNTED,
    DENSITIES,
    MATRICES,
    MISPLACED,
    SCALES,
    UNKNOWN,
    Form,
    Matrix,
    symmetric,
)
from tcdecomp.auditor.probes import Probe
from tcdecomp.auditor.subject import Answer, Subject, relative_errors, weigh

__all__ = ["Explanation", "Fit", "Pairs"]

SAME = 1e-4  # relative error below which forms fit equally well
MOST = 3  # a form has fewer departures than this, apart from scale, order and signs
STEP = 2
LOG_SIZES = range(4, 20, STEP)  # near which the one N of code is sought, to FINE
LIKELY = 3  # forms for which it is sought closely
FINE = 1e-6
FEWEST = 5  # batches that contradict a loss with wrong weights

Pairs = list[tuple[Probe, Answer]]


@dataclass(frozen=True)
class Explanation:
    """A form, and the largest relative error of its predictions."""

    form: Form
    error: float


@dataclass(frozen=True)
class Fit:
    """The search for a form whose predictions have no more than this relative error."""

    subject: Subject
    pairs: Pairs
    accepted: float

    def explain(
        self, matrices: Sequence[tuple[str, Matrix]] = MATRICES, fixed: int | None = None
    ) -> Explanation | None:
        """Return the form with the fewest departures that fits, or None."""
        candidates: list[Explanation] = []
        for number in range(MOST):
            for core in _cores(matrices, number):
                candidates += self._fitting(replace(core, fixed=fixed))
            limit = max(SAME, 4 * min((c.error for c in candidates), default=0.0))
            # No two forms agree in full precision; in half precision all must be compared.
            if candidates and (limit == SAME or number == MOST - 1):
                best = (c for c in candidates if c.error <= limit)
                return min(best, key=lambda c: (_cost(c.form), c.error))
        return None

    def by_weights(self) -> Explanation | None:
        """Return the form whose own weight, and equal other weights, are measured, or None."""

        @cache
        def pair(others: int, total: int) -> tuple[float, float]:
            weights = weigh(self.subject, self.subject.right, others + 1, total)
            return weights.own, max(weights.row_sum - weights.own, 0.0) / others

        return self.explain([(UNKNOWN, symmetric(pair))])

    def by_size(self) -> Explanation | None:
        """Return the form with the one N, for all batches, that fits, or None."""
        for number in range(MOST):
            cores = [
                core
                for core in _cores(list(dict(reversed(MATRICES)).items()), number)
                if core.densities == "right" and core.estimator != MISPLACED and core.uses_size
            ]
            nearest = {core: min(LOG_SIZES, key=partial(self._error, core)) for core in cores}
            likely = sorted(cores, key=lambda core: self._error(core, nearest[core]))[:LIKELY]
            sized = (self._sized(core, nearest[core]) for core in likely)
            best, size = min(sized, default=(math.inf, 0))
            if best <= self.accepted:
                return self.explain(fixed=size)
        return None

    def _sized(self, core: Form, log_size: float) -> tuple[float, int]:
        """Return the error of the core with the best N, and that N, with the fewest digits."""
        error, step = cache(partial(self._error, core)), float(STEP)
        while step > FINE:
            step /= 2
            log_size = min((log_size - step, log_size, log_size + step), key=error)
        least, exact = error(log_size), math.exp(log_size)
        sizes = (round(exact, digits) for digits in range(-8, 0))
        alike = (n for n in sizes if n and error(math.log(n)) <= 1.5 * least)
        return least, round(next(alike, exact))

    def _error(self, core: Form, log_size: float) -> float:
        """Return the error of the core with this N, without a scale or signs of its own."""
        form = replace(core, fixed=math.exp(log_size))
        if self.subject.returns == "loss":
            terms = torch.stack([form.terms(probe) for probe, _ in self.pairs])
            return _weighted(terms, self.pairs)[1]
        right = self.subject.right
        form = replace(form, order=right.order, signs=right.signs)
        return max(answer.errors(form.predict(probe)).max().item() for probe, answer in self.pairs)

    def _fitting(self, core: Form) -> Iterator[Explanation]:
        """Yield the core with each scale, order and signs that fit."""
        if self.subject.returns == "loss":
            yield from self._losses(core)
            return
        outputs = _outputs(len(self.subject.right.order))
        worst = torch.zeros(len(outputs), dtype=torch.float64)
        for probe, answer in self.pairs:
            worst = torch.maximum(worst, _errors(core, probe, answer))
            if not (worst <= self.accepted).any():
                return
        for index in (worst <= self.accepted).nonzero().flatten().tolist():
            scale, order, signs = outputs[index]
            form = replace(core, scale=scale, order=order, signs=signs)
            yield Explanation(form, worst[index].item())

    def _losses(self, core: Form) -> Iterator[Explanation]:
        """Yield the core with each scale, and the weights of the terms, that fit a loss."""
        for count in (FEWEST, len(self.pairs)):  # few batches contradict most forms
            pairs = self.pairs[:count]
            terms = torch.stack([core.terms(probe) for probe, _ in pairs])
            found = {scale: _weighted(terms, pairs, scale) for scale in SCALES}
            if all(error > self.accepted for _, error in found.values()):
                return
        for scale, (weights, error) in found.items():
            if error <= self.accepted:
                yield Explanation(replace(core, scale=scale, loss=weights), error)


def _cores(matrices: Sequence[tuple[str, Matrix]], number: int) -> Iterator[Form]:
    """Yield the forms with so many departures, apart from scale, order and signs."""
    parts = itertools.product(matrices, COUNTED, DENSITIES)
    cores = (Form(*weights, counted, densities) for weights, counted, densities in parts)
    return (core for core in cores if len(core.departures) == number)


def _weighted(
    terms: Tensor, pairs: Pairs, scale: str = "mean"
) -> tuple[tuple[float, float, float], float]:
    """Return the weights of the terms that fit a loss best, and the largest relative error."""
    factors = torch.tensor([SCALES[scale](*probe.shape) for probe, _ in pairs])
    scaled = terms * factors[:, None].double()
    answers = torch.stack([answer.values for _, answer in pairs])
    if not (scaled.isfinite().all() and answers.isfinite().all()):
        return (math.nan, math.nan, math.nan), math.inf
    weights = torch.linalg.lstsq(scaled, answers).solution
    alpha, beta, gamma = weights.flatten().tolist()
    return (alpha, beta, gamma), relative_errors(scaled @ weights, answers).max().item()


def _cost(form: Form) -> int:
    """Return the number of departures, where each wrong sign counts."""
    return len(form.departures) + max(form.signs.count(-1) - 1, 0)


@cache
def _outputs(count: int) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Return each scale, order and signs of so many answers."""
    orders = itertools.permutations(range(3), count)
    signs = itertools.product((1, -1), repeat=count)
    return list(itertools.product(SCALES, orders, signs))


def _errors(core: Form, probe: Probe, answer: Answer) -> Tensor:
    """Return the error for each of _outputs, in their order."""
    count = len(answer.values)
    orders = torch.tensor(list(itertools.permutations(range(3), count)))
    signs = torch.tensor(list(itertools.product((1, -1), repeat=count)))
    scales = torch.tensor([scale(*probe.shape) for scale in SCALES.values()], dtype=torch.float64)
    signed = core.terms(probe)[orders][:, None] * signs  # (order, signs, answer)
    return answer.errors(scales[:, None, None, None] * signed).amax(3).flatten()
