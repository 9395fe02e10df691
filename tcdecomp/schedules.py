"""Weights that change with the step, and targets for terms.

A schedule is any callable that takes a step, an int from 0 on, and returns a number. It holds no
state of its own: a training that resumes at a step goes on as if it had never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from typing import Any, SupportsIndex

from torch import Tensor

from tcdecomp._checks import checked_int
from tcdecomp.terms import Terms

__all__ = ["Capacity", "Cyclic", "Schedule", "WarmUp", "known_values"]

Schedule = Callable[[int], float]

_TERMS = (*Terms._fields, "sampled_kl", "aggregate_kl")


@dataclass(frozen=True)
class WarmUp:
    """A straight line from ``start`` at step 0 to ``end`` at step ``steps``, and ``end`` after it.

    Parameters
    ----------
    end : float
        The last value, which may lie below ``start``.
    steps : int
        At least 0, which is ``end`` at once.
    start : float
        The first value.

    Raises
    ------
    TypeError, ValueError
        If a value is not a finite number, or ``steps``, or the step it is called with, not an
        int >= 0.

    References
    ----------
    Bowman et al. (2016). Generating Sentences from a Continuous Space. Section 3.1: the KL's weight
    is raised from 0 to 1; that is alpha, beta and gamma together.
    Sønderby et al. (2016). Ladder Variational Autoencoders. On a straight line.

    Examples
    --------
    >>> from tcdecomp.schedules import WarmUp
    >>> beta = WarmUp(6, steps=1000, start=1)
    >>> beta(0), beta(500), beta(5000)
    (1.0, 3.5, 6.0)
    """

    end: float
    steps: int
    _: KW_ONLY
    start: float = 0.0

    def __post_init__(self) -> None:
        _store(self, end=_number("end", self.end), start=_number("start", self.start))
        _store(self, steps=checked_int("steps", self.steps, 0))

    def __call__(self, step: SupportsIndex) -> float:
        """Return the value at a step."""
        step = checked_int("step", step, 0)
        return self.end if step >= self.steps else _between(self.start, self.end, step / self.steps)


@dataclass(frozen=True)
class Cyclic:
    """From ``low`` to ``high`` on a straight line, then ``high``, anew in every period.

    Parameters
    ----------
    high : float
        The value at the end of each period.
    period : int
        Steps of one cycle, at least 2; of the paper, the training's steps over its M cycles.
    low : float
        The value at the start of each period, at most ``high``.
    ramp : float
        The part of a period in which the value rises, above 0 and at most 1; the paper's R.

    Raises
    ------
    TypeError, ValueError
        If an option is not of its type or out of its range, or the step that it is called with is
        not an int >= 0.

    References
    ----------
    Fu et al. (2019). Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing.
    Of the KL's weight, which is alpha, beta and gamma together, from 0 to 1 with R = 0.5.

    Examples
    --------
    >>> from tcdecomp.schedules import Cyclic
    >>> beta = Cyclic(4, period=8)
    >>> [beta(step) for step in range(10)]
    [0.0, 1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 4.0, 0.0, 1.0]
    """

    high: float
    period: int
    _: KW_ONLY
    low: float = 0.0
    ramp: float = 0.5

    def __post_init__(self) -> None:
        _store(self, high=_number("high", self.high), low=_number("low", self.low))
        _store(self, period=checked_int("period", self.period, 2), ramp=_number("ramp", self.ramp))
        if self.low > self.high:
            raise ValueError(f"low must be at most high, {self.high}; got {self.low}")
        if not 0 < self.ramp <= 1:
            raise ValueError(f"ramp must be above 0 and at most 1; got {self.ramp}")

    def __call__(self, step: SupportsIndex) -> float:
        """Return the value at a step."""
        position = checked_int("step", step, 0) % self.period
        return _between(self.low, self.high, position / (self.ramp * self.period))


@dataclass(frozen=True)
class Capacity:
    """A target for one term: its distance from the target, times a strength, to be added to a loss.

    It stands in the place of the term's own weight, which is to be 0: ``alpha`` with a target for
    ``"index_code_mi"``, ``beta`` for ``"total_correlation"``, all three for ``"kl"``.

    Parameters
    ----------
    term : str
        An attribute of :class:`~tcdecomp.Terms`: "index_code_mi", "total_correlation",
        "dimension_wise_kl", "kl", "sampled_kl" or "aggregate_kl".
    target : float or callable
        In nats, at least 0; or a schedule of it.
    strength : float
        Weight of the distance, at least 0; the paper's gamma.

    Raises
    ------
    TypeError, ValueError
        If an option is not of its type or out of its range; when it is called, if the target at
        this step is, if the step is not an int >= 0, or if the terms have no ``kl`` to compare.

    References
    ----------
    Burgess et al. (2018). Understanding disentangling in beta-VAE. Section 5: of the KL, with a
    target that rises during the training.
    Alemi et al. (2018). Fixing a Broken ELBO. The KL as the rate, and models of a given rate.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import Terms
    >>> from tcdecomp.schedules import Capacity, WarmUp
    >>> capacity = Capacity("kl", target=WarmUp(25, steps=10_000), strength=100)
    >>> terms = Terms(*torch.tensor([5.0, 1.0, 2.0, 8.0]))
    >>> capacity(terms, step=4000)  # where the target is 10 nats
    tensor(200.)
    """

    term: str
    target: float | Schedule
    strength: float

    def __post_init__(self) -> None:
        if self.term not in _TERMS:
            names = ", ".join(map(repr, _TERMS))
            raise ValueError(f"term must be one of {names}; got {self.term!r}")
        _store(self, strength=_number("strength", self.strength, low=0))
        for value in known_values(self.target):
            _number("target", value, low=0)

    def __call__(self, terms: Terms, step: SupportsIndex) -> Tensor:
        """Return the distance of the term from its target, times the strength, in its shape.

        Parameters
        ----------
        terms : Terms
            As :meth:`TCDecomposition.decompose <tcdecomp.TCDecomposition.decompose>` returned them,
            with their graph. With reduction "mean" it is the batch's mean that is compared, with
            "none" every item's value.
        step : int
            From 0 on; of no effect where the target is a number.
        """
        step = checked_int("step", step, 0)
        if not isinstance(terms, Terms):
            raise TypeError(f"terms must be Terms; got {type(terms).__name__}")
        value: Tensor | None = getattr(terms, self.term)
        if value is None:
            raise ValueError(
                f"terms.{self.term} must be there to have a target; got None, as of a criterion "
                'with kl="sampled": take term="sampled_kl"'
            )
        target = _number("target", _at(self.target, step), low=0)
        return self.strength * (value - target).abs()


def known_values(schedule: float | Schedule) -> tuple[float, ...]:
    """Return values of a schedule by which it can be refused before the first step.

    Parameters
    ----------
    schedule : callable or float
        Of a :class:`WarmUp` or :class:`Cyclic` the two ends, of any other its value at step 0; a
        number is a schedule that stays there.
    """
    if isinstance(schedule, WarmUp):
        return schedule.start, schedule.end
    if isinstance(schedule, Cyclic):
        return schedule.low, schedule.high
    return (_at(schedule, 0),)


def _at(schedule: float | Schedule, step: int) -> float:
    return schedule(step) if callable(schedule) else schedule


def _between(start: float, end: float, progress: float) -> float:
    return end if progress >= 1 else start + (end - start) * progress


def _store(frozen: object, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(frozen, name, value)


def _number(name: str, value: Any, low: float = -math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number; got {type(value).__name__}")
    number = float(value)
    if not (math.isfinite(number) and number >= low):
        expected = "finite" if low == -math.inf else f"finite and at least {low}"
        raise ValueError(f"{name} must be {expected}; got {value}")
    return number
