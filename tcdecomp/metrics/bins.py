"""Bins of numbers, as scikit-learn's ``KBinsDiscretizer`` finds them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcdecomp.metrics.columns import FloatArray
from tcdecomp.metrics.inputs import check_choice

__all__ = ["Binning", "Bins"]


@dataclass(frozen=True, eq=False)
class Bins:
    """The edges between the bins of one column, ascending: one edge less than bins.

    ``wanted`` is the number of bins that was asked for. Equal edges merge bins.
    """

    edges: FloatArray
    wanted: int
    uniform: bool = False

    def __len__(self) -> int:
        return len(self.edges) + 1

    def label(self, column: NDArray[Any]) -> NDArray[np.intp]:
        """Return the number of each value's bin. A value on an edge belongs to the upper bin."""
        column = np.asarray(column, np.float64)
        if not (self.uniform and len(self.edges) > 1):
            return np.searchsorted(self.edges, column, side="right")
        # The bin follows from the place between edges of equal distance, which is faster than a
        # search. Where rounding can change the bin, the search decides.
        low, high = self.edges[0], self.edges[-1]
        step = (high - low) / (len(self.edges) - 1)
        place = (column - low) / step
        error = 8 * np.finfo(float).eps * (len(self) + max(abs(low), abs(high)) / step)
        close = np.abs(place - np.rint(place)) <= error
        labels: NDArray[np.intp] = (np.clip(np.floor(place), -1, len(self.edges) - 1) + 1).astype(
            np.intp
        )
        labels[close] = np.searchsorted(self.edges, column[close], side="right")
        return labels


@dataclass(frozen=True)
class Binning:
    """How numbers are binned.

    Attributes
    ----------
    n_bins : int, sequence of int, or KBinsDiscretizer
        At least 2; one for all columns, or one for each. A fitted discretizer brings its edges.
    strategy : {"uniform", "quantile", "robust"}
        Bins of equal width; of equally many rows; or one bin for each distinct value of a column
        if there are at most ``n_bins``, and else bins of equally many rows.
    """

    n_bins: Any = 20
    strategy: str = "uniform"

    def __post_init__(self) -> None:
        check_choice("strategy", self.strategy, ("uniform", "quantile", "robust"))
        if hasattr(self.n_bins, "fit"):
            if not hasattr(self.n_bins, "bin_edges_"):
                raise ValueError(
                    "n_bins must be a fitted KBinsDiscretizer; got one without bin_edges_. Call "
                    "its method fit first"
                )
            return
        n_bins = np.asarray(self.n_bins)
        if n_bins.ndim > 1 or n_bins.dtype.kind not in "iu":
            raise TypeError(f"n_bins must be an integer >= 2; got {self.n_bins!r}")
        if (n_bins < 2).any():
            raise ValueError(f"n_bins must be an integer >= 2; got {self.n_bins}")

    def fit(self, columns: FloatArray, weight: FloatArray | None) -> list[Bins]:
        """Return the bins of each column of an array (n, D). ``weight`` is (n,), above 0."""
        count = columns.shape[1]
        if hasattr(self.n_bins, "bin_edges_"):
            given = self.n_bins.bin_edges_
            self._check_count(len(given), count)
            return [Bins(np.asarray(edges[1:-1], float), len(edges) - 1) for edges in given]
        n_bins = np.asarray(self.n_bins)
        if n_bins.ndim:
            self._check_count(len(n_bins), count)
        sizes = np.broadcast_to(n_bins, count).tolist()
        if self.strategy == "robust":
            pairs = zip(columns.T, sizes, strict=True)
            return [_robust_bins(column, weight, size) for column, size in pairs]
        return _scikit_bins(columns, weight, sizes, self.strategy)

    def _check_count(self, given: int, count: int) -> None:
        if given != count:
            raise ValueError(
                f"n_bins must hold one entry for each of the {count} latents; got {given}"
            )


def _scikit_bins(
    columns: FloatArray, weight: FloatArray | None, sizes: Sequence[int], strategy: str
) -> list[Bins]:
    # scikit-learn is imported here so that `import tcdecomp` stays fast
    from sklearn.preprocessing import KBinsDiscretizer

    uniform = strategy == "uniform"
    options: dict[str, Any] = {}
    if uniform:
        weight = None  # the edges depend on the smallest and the largest value alone
    elif _has_weighted_quantiles():
        options["quantile_method"] = "averaged_inverted_cdf"
    else:
        pairs = zip(columns.T, sizes, strict=True)
        return [Bins(_merged(_quantiles(column, weight, size)), size) for column, size in pairs]
    # by default, KBinsDiscretizer takes a random sample above 200,000 rows
    binner = KBinsDiscretizer(sizes, encode="ordinal", strategy=strategy, subsample=None, **options)
    with warnings.catch_warnings():
        # A constant column is allowed, and quantiles of few values coincide. Callers warn where
        # that loses information.
        warnings.filterwarnings("ignore", r"Feature \d+ is constant|Bins whose width")
        binner.fit(columns, sample_weight=weight)
    pairs = zip(binner.bin_edges_, sizes, strict=True)
    return [Bins(edges[1:-1], size, uniform) for edges, size in pairs]


def _robust_bins(column: FloatArray, weight: FloatArray | None, n_bins: int) -> Bins:
    distinct = np.unique(column)
    if len(distinct) <= n_bins:
        return Bins(distinct[1:], n_bins)
    edges = np.unique(_quantiles(column, weight, n_bins)[1:-1])
    return Bins(edges[edges > distinct[0]], n_bins)


def _has_weighted_quantiles() -> bool:
    """Tell whether scikit-learn is 1.8 or newer: weights and quantiles are right from there on."""
    import sklearn

    major, minor = sklearn.__version__.split(".")[:2]
    return (int(major), int(minor)) >= (1, 8)


def _quantiles(column: FloatArray, weight: FloatArray | None, n_bins: int) -> FloatArray:
    """Return n_bins + 1 quantiles: the averaged inverse of the weighted distribution function."""
    order = np.argsort(column, kind="stable")
    column = column[order]
    below = np.cumsum(np.ones(len(column)) if weight is None else weight[order])
    target = np.linspace(0, 100, n_bins + 1) / 100 * below[-1]
    # The last target can exceed the last sum by rounding.
    left, right = (
        np.minimum(np.searchsorted(below, target, side), len(column) - 1)
        for side in ("left", "right")
    )
    edges: FloatArray = (column[left] + column[right]) / 2
    return edges


def _merged(quantiles: FloatArray) -> FloatArray:
    """Return the inner edges, as scikit-learn merges bins: those wider than 1e-8."""
    return quantiles[np.ediff1d(quantiles, to_begin=np.inf) > 1e-8][1:-1]
