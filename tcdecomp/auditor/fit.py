"""The search for the form that reproduces the code's answers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from tcdecomp.auditor.forms import (
    COUNTED,
    DENSITIES,
    MATRICES,
    MISPLACED,
    NONE,
    SCALES,
    UNKNOWN,
    Form,
    Matrix,
    symmetric,
)
from tcdecomp.auditor.probes import Probe, apart, ordinary
from tcdecomp.auditor.subject import Answer, Study, Subject, Weights, relative_errors, weigh

__all__ = ["COARSE", "PRECISE", "Explanation", "Findings", "Fit", "search"]

PRECISE = 1e-4  # relative error of code in single precision, with a margin
COARSE = 0.03  # the same in half precision
ROUNDING = 20  # how much larger an error may be elsewhere than on ordinary batches
MOST = 3  # a form has fewer departures than this, apart from scale, order and signs
LOG_SIZES = range(4, 20, 2)  # where the fixed N of code is sought first
STEPS = [2.0**-i for i in range(21)]  # by which it is then approached
LIKELY, CLOSE = 8, 1e-4  # for so many forms, until the steps are smaller; then for the best one
FREE = 2  # times as many batches identify a loss, whose weights are free
EQUAL = 1e-3  # relative difference of weights of a loss

Pairs = list[tuple[Probe, Answer]]
Loss = tuple[float, float, float]


class Explanation(NamedTuple):
    """A form, and the largest relative error of its predictions."""

    form: Form
    error: float


@dataclass(frozen=True)
class Findings:
    """What the answers to ordinary batches show."""

    subject: Subject
    generator: Generator  # of further batches
    pairs: Pairs  # the batches and the answers
    change: float  # the largest relative change of an answer when a batch is repeated
    constant: Tensor  # (answers,): which are the same for every batch
    uses_size: bool  # whether the answers depend on N
    known: Explanation | None = None  # the form that reproduces the answers
    axes: Explanation | None = None  # the form for D = 1, if dimensions are treated differently
    weights: tuple[Weights, ...] = ()
    study: Study | None = None

    @property
    def form(self) -> Form:
        """The form of the code, or else the right one."""
        return self.known.form if self.known else self.subject.right

    @property
    def estimator(self) -> str:
        """The name of the weights."""
        found = self.known or self.axes
        return NONE if self.plain else found.form.estimator if found else UNKNOWN

    @property
    def loss(self) -> Loss | None:
        """The weights of the terms in a loss, if they are known."""
        return self.known.form.loss if self.known else None

    @property
    def plain(self) -> bool:
        """Whether the code is a loss with equal weights: the KL, without an estimate."""
        loss = self.loss
        return loss is not None and max(loss) - min(loss) < EQUAL * max(map(abs, loss))

    @property
    def repeatable(self) -> bool:
        """Whether a batch has the same answers when it is repeated."""
        return self.change <= PRECISE

    @property
    def finite(self) -> bool:
        """Whether all answers are finite."""
        return all(bool(answer.values.isfinite().all()) for _, answer in self.pairs)

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
        clamped = torch.zeros_like(self.constant)
        for probe, answer in self.pairs:
            if self.known:
                off = relative_errors(answer.values, self.form.predict(probe))
                clamped |= answer.at_zero & (off > max(PRECISE, 4 * self.known.error))
            elif probe.shape[1] > 1:
                clamped |= answer.at_zero
        return clamped


def search(subject: Subject, generator: Generator) -> Findings:
    """Put ordinary batches to the code, and look for the form that reproduces the answers."""
    batches = FREE if subject.returns == "loss" else 1
    drawn = [probe for _ in range(batches) for probe in ordinary(generator)]
    pairs = [(probe, subject.read(probe)) for probe in map(subject.rounded, drawn)]
    changes = partial(_changes, subject, pairs)
    values = [answer.values for probe, answer in pairs if probe.shape[1] > 1]
    constant = (torch.stack(values) == subject.read(apart(4, 1000, dim=2)).values).all(0)
    uses_size = bool(changes(lambda p: replace(p, dataset_size=3 * p.dataset_size)).max() > 0)
    again = changes(lambda probe: probe).max().item()
    findings = Findings(subject, generator, pairs, again, constant, uses_size)
    if not findings.repeatable or findings.constant.any():
        return findings  # there is no one form
    accepted = (PRECISE, COARSE) if _rounds(subject, pairs) else (PRECISE,)
    for fit in (Fit(subject, pairs, error) for error in accepted):
        known = fit.explain()
        if known is None and not uses_size:
            known = fit.by_size()
        if known is None and subject.returns != "loss":
            known = fit.by_weights()
        if known:
            return replace(findings, known=known)
    turned = changes(lambda probe: probe.map(lambda tensor: tensor.flip(1)))
    if subject.returns != "terms" or turned.max() <= PRECISE:
        return findings
    one = [pair for pair in pairs if pair[0].shape[1] == 1]
    axes = Fit(subject, one, accepted[-1]).explain()
    only_weights = axes is not None and set(axes.form.departures) <= {"estimator"}
    return replace(findings, axes=axes) if only_weights else findings


def _changes(subject: Subject, pairs: Pairs, change: Callable[[Probe], Probe]) -> Tensor:
    """Return how the answers change when the probes do: relative, shape (probes, answers)."""
    again = torch.stack([subject.read(change(probe)).values for probe, _ in pairs])
    return relative_errors(again, torch.stack([answer.values for _, answer in pairs]))


def _rounds(subject: Subject, pairs: Pairs) -> bool:
    """Tell whether the code works, or answers, in less than single precision."""
    values = torch.stack([answer.by_sign for _, answer in pairs])
    if torch.equal(values, values.half().double()):
        return True
    # A shift changes DWKL, and a loss that contains it, but neither MI nor TC.
    unchanged = {"terms": 2, "tc": 1, "loss": 0}[subject.returns]
    changes = _changes(subject, pairs, lambda probe: replace(probe, mu=probe.mu + 3))
    return bool((changes.sort(1).values[:, :unchanged] > PRECISE).any())


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
            alike = 4 * min((c.error for c in candidates), default=0.0)
            limit = max(PRECISE, alike)
            # No two forms agree in full precision; in half precision all must be compared.
            if candidates and (limit == PRECISE or number == MOST - 1):
                best = (c for c in candidates if c.error <= limit)
                # With a large N the right forms are alike: the first is the simplest one.
                return min(best, key=lambda c: (c.form.cost, c.error > alike))
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
        error = cache(self._error)
        matrices = [(name, matrix) for name, matrix in MATRICES if name != MISPLACED]
        for number in range(MOST):
            cores = [core for core in _cores(matrices, number) if core.densities == "right"]
            near = {core: float(min(LOG_SIZES, key=partial(error, core))) for core in cores}
            for step in STEPS:
                likely = sorted(near, key=lambda core: error(core, near[core]))
                near = {
                    core: min((near[core] + i * step for i in (-1, 0, 1)), key=partial(error, core))
                    for core in likely[: LIKELY if step > CLOSE else 1]
                }
            for core, log_size in near.items():  # the one that is left
                if error(core, log_size) <= self.accepted:
                    return self.explain(fixed=_fewest_digits(partial(error, core), log_size))
        return None

    def _error(self, core: Form, log_size: float) -> float:
        """Return the error of the core with this N, without a scale or signs of its own."""
        form = replace(core, fixed=math.exp(log_size))
        if self.subject.returns == "loss":
            return _weighted(form, self.pairs)["mean"][1]
        right = self.subject.right
        form = replace(form, order=right.order, signs=right.signs)
        return max(answer.errors(form.predict(probe)).max().item() for probe, answer in self.pairs)

    def _fitting(self, core: Form) -> Iterator[Explanation]:
        """Yield the core with each scale, and order and signs or weights, that fit."""
        if self.subject.returns == "loss":
            few = _weighted(core, self.pairs[: len(self.pairs) // FREE])  # against most forms
            if any(error <= self.accepted for _, error in few.values()):
                for scale, (weights, error) in _weighted(core, self.pairs).items():
                    if error <= self.accepted:
                        yield Explanation(replace(core, scale=scale, loss=weights), error)
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


def _fewest_digits(error: Callable[[float], float], log_size: float) -> int:
    """Return the N of fewest digits that fits about as well."""
    exact = math.exp(log_size)
    sizes = (round(exact, digits) for digits in range(-8, 0))
    alike = (n for n in sizes if n and error(math.log(n)) <= 1.5 * error(log_size))
    return round(next(alike, exact))


def _cores(matrices: Sequence[tuple[str, Matrix]], number: int) -> Iterator[Form]:
    """Yield the forms with so many departures, apart from scale, order and signs."""
    parts = itertools.product(matrices, COUNTED, DENSITIES)
    cores = (Form(*weights, counted, densities) for weights, counted, densities in parts)
    return (core for core in cores if len(core.departures) == number)


def _weighted(core: Form, pairs: Pairs) -> dict[str, tuple[Loss, float]]:
    """Return, for each scale, the weights that fit a loss best, and the largest relative error."""
    terms = torch.stack([core.terms(probe) for probe, _ in pairs])
    answers = torch.stack([answer.values for _, answer in pairs])
    if not (terms.isfinite().all() and answers.isfinite().all()):
        return {"mean": ((math.nan, math.nan, math.nan), math.inf)}
    found = dict[str, tuple[Loss, float]]()
    for name, scale in SCALES.items():
        scaled = terms * terms.new_tensor([[scale(*probe.shape)] for probe, _ in pairs])
        weights = torch.linalg.lstsq(scaled, answers).solution
        alpha, beta, gamma = weights.flatten().tolist()
        error = relative_errors(scaled @ weights, answers).max().item()
        found[name] = (alpha, beta, gamma), error
    return found


@cache
def _outputs(count: int) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Return each scale, order and signs of so many answers."""
    orders = itertools.permutations(range(3), count)
    return list(itertools.product(SCALES, orders, itertools.product((1, -1), repeat=count)))


def _errors(core: Form, probe: Probe, answer: Answer) -> Tensor:
    """Return the error for each of _outputs, in their order."""
    count = len(answer.values)
    orders = torch.tensor(list(itertools.permutations(range(3), count)))
    signs = torch.tensor(list(itertools.product((1, -1), repeat=count)))
    scales = torch.tensor([scale(*probe.shape) for scale in SCALES.values()], dtype=torch.float64)
    signed = core.terms(probe)[orders][:, None] * signs  # (order, signs, answer)
    return answer.errors(scales[:, None, None, None] * signed).amax(3).flatten()
