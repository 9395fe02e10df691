"""Values with their intervals: gaps of factors, scores by sample size, several models."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcdecomp.displays.axes import DARK, Display, check_kind, ink, name_columns, name_rows
from tcdecomp.metrics import Interval, mutual_info_gap, score_interval
from tcdecomp.metrics.columns import warn_caller
from tcdecomp.metrics.inputs import check_rows, read_columns
from tcdecomp.metrics.intervals import check_resamples, check_score, scores_of_parts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ComparisonDisplay", "GapsDisplay", "SampleSizeDisplay"]


def _errors(intervals: Sequence[Interval]) -> list[list[float]]:
    """Return how far the intervals reach below and above their values; NaN draws nothing."""
    return [[i.value - i.low for i in intervals], [i.high - i.value for i in intervals]]


def _check_intervals(argument: str, values: Iterable[object], remedy: str) -> None:
    for value in values:
        if not isinstance(value, Interval):
            raise TypeError(
                f"{argument} must hold values of type tcdecomp.metrics.Interval; got "
                f"{type(value).__name__}. {remedy}"
            )


@dataclass(eq=False)
class GapsDisplay(Display):
    """The gap of each factor, of which the MIG is the mean, with its confidence interval.

    Parameters
    ----------
    gaps : dict of str to Interval
        By factor.

    Raises
    ------
    TypeError
        If it is something else.
    """

    gaps: dict[str, Interval]

    def __post_init__(self) -> None:
        remedy = "GapsDisplay.from_codes(codes, factors) computes them"
        check_kind("gaps", self.gaps, Mapping, remedy)
        _check_intervals("gaps", self.gaps.values(), remedy)

    @classmethod
    def from_codes(
        cls, codes: ArrayLike, factors: ArrayLike, *, confidence: float = 0.95, **options: Any
    ) -> GapsDisplay:
        """Compute the gaps and their intervals.

        Parameters
        ----------
        codes : array_like, shape (n, D)
            One row per item.
        factors : array_like, shape (n, K) or (n,)
            The true factors of the same items.
        confidence : float, optional
            Of the intervals over rows.
        **options
            Those of :func:`tcdecomp.mig_score`, ``n_resamples`` and ``random_state`` of
            :func:`tcdecomp.metrics.score_interval`.
        """
        names = read_columns(factors, "factors", "v", vector=True).names
        numbers = make_dataclass("Numbers", [(f"gap{k}", float) for k in range(len(names))])

        def gaps(codes: Any, factors: Any, **own: Any) -> Any:
            return numbers(*map(float, mutual_info_gap(codes, factors, **own).gaps))

        found = score_interval(gaps, codes, factors, confidence=confidence, **options)
        clipped = (i._replace(low=max(i.low, 0), high=min(i.high, 1)) for i in found.values())
        return cls(dict(zip(names, clipped, strict=True)))

    def _draw(self, ax: Axes) -> None:
        intervals = list(self.gaps.values())
        values = [interval.value for interval in intervals]
        options: dict[str, Any] = {"color": DARK, "ecolor": ink(ax), "capsize": 3}
        ax.bar(range(len(values)), values, yerr=_errors(intervals), **options)
        name_columns(ax, list(self.gaps))
        ax.set_ylim(0, 1)
        ax.set(title=f"MIG {np.mean(values):.3f}", xlabel="factor", ylabel="gap / entropy")


@dataclass(eq=False)
class SampleSizeDisplay(Display):
    """A score against the number of rows: where it levels off, there are rows enough.

    Parameters
    ----------
    sizes : sequence of int
        Numbers of rows.
    scores : sequence of Interval
        The score for each, with an interval of two standard deviations over random subsets.
    name : str
        The score's name.

    Raises
    ------
    TypeError
        If the scores are something else.
    """

    sizes: Sequence[int]
    scores: Sequence[Interval]
    name: str = "score"

    def __post_init__(self) -> None:
        remedy = "SampleSizeDisplay.from_codes(score, codes, factors) computes them"
        check_kind("scores", self.scores, Sequence, remedy)
        _check_intervals("scores", self.scores, remedy)

    @classmethod
    def from_codes(
        cls,
        score: Callable[..., float],
        codes: ArrayLike,
        factors: ArrayLike,
        *,
        sizes: Sequence[int] | None = None,
        n_resamples: int = 10,
        random_state: Any = 0,
        **options: Any,
    ) -> SampleSizeDisplay:
        """Score random subsets of the rows.

        Parameters
        ----------
        score : callable
            Such as :func:`tcdecomp.mig_score`.
        codes : array_like, shape (n, D)
            One row per item.
        factors : array_like, shape (n, K) or (n,)
            The true factors of the same items.
        sizes : sequence of int, optional
            From 1 to n. By default eight sizes from n / 100, at least 50, to n.
        n_resamples : int, optional
            Subsets of each size, at least 2.
        random_state : int, RandomState or None, optional
            For the subsets.
        **options
            Options of the score.

        Raises
        ------
        TypeError, ValueError
            As the score of all rows does, or if an argument is out of its range.

        Warns
        -----
        UserWarning
            If fewer than a quarter of the subsets of a size have a score, for example because a
            factor takes a single value in the others. Such a size has NaN, and no point.
        """
        from sklearn.utils import check_random_state

        latents = read_columns(codes, "codes", "z")
        targets = read_columns(factors, "factors", "v", vector=True)
        check_rows(latents, targets)
        n, rng = latents.shape[0], check_random_state(random_state)
        check_score(score)
        check_resamples(n_resamples)
        if sizes is None:
            sizes = sorted({int(s) for s in np.geomspace(min(max(n // 100, 50), n), n, 8).round()})

        if outside := [size for size in sizes if not 1 <= size <= n]:
            raise ValueError(
                f"sizes must be from 1 to the number of rows, {n}; "
                f"got {', '.join(map(str, outside))}"
            )

        def of_rows(rows: NDArray[np.intp]) -> float:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".* rows are few")  # the picture shows that
                return score(latents.rows(rows), targets.rows(rows), **options)

        of_rows(np.arange(n))  # an error of all rows is the caller's
        scores = []
        for size in sizes:
            found, error = scores_of_parts(of_rows, n, size, n_resamples, rng)
            if error is not None:
                warn_caller(
                    f"there is no point at {size} rows: fewer than a quarter of the subsets have "
                    f"the score. The error of the last subset: {error}"
                )
                scores.append(Interval(math.nan, math.nan, math.nan, math.nan))
                continue
            mean, spread = float(np.mean(found)), float(np.std(found, ddof=1))
            scores.append(Interval(mean, mean - 2 * spread, mean + 2 * spread, spread))
        return cls(list(sizes), scores, getattr(score, "__name__", "score"))

    def _draw(self, ax: Axes) -> None:
        values = [score.value for score in self.scores]
        ax.errorbar(
            self.sizes, values, yerr=_errors(self.scores), color=DARK, marker="o", capsize=3
        )
        ax.set_xscale("log")
        ax.set(title=f"{self.name} by sample size", xlabel="rows", ylabel=self.name)


@dataclass(eq=False)
class ComparisonDisplay(Display):
    """One number of several models, with its intervals.

    Parameters
    ----------
    models : mapping
        The number of each model.
    name : str
        Its name.

    Raises
    ------
    TypeError
        If the numbers are something else.
    """

    models: Mapping[str, Interval]
    name: str = ""

    def __post_init__(self) -> None:
        remedy = (
            "compare(reports).plot() draws reports; a number x without an interval is "
            "Interval(x, nan, nan, nan)"
        )
        check_kind("models", self.models, Mapping, remedy)
        _check_intervals("models", self.models.values(), remedy)

    def _draw(self, ax: Axes) -> None:
        intervals = list(self.models.values())
        rows = range(len(intervals))
        values = [interval.value for interval in intervals]
        ax.errorbar(values, rows, xerr=_errors(intervals), fmt="o", color=DARK, capsize=3)
        for row, value in zip(rows, values, strict=True):
            if not math.isnan(value):
                place, offset = (value, row), (0, 6)
                ax.annotate(f"{value:.3f}", place, offset, textcoords="offset points", ha="center")
        name_rows(ax, list(self.models))
        ax.set_ylim(len(intervals) - 0.5, -0.5)
        ax.margins(x=0.15)
        ax.set(title=self.name)
