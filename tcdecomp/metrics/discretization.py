"""Numbers as integer labels: the bins of scikit-learn's ``KBinsDiscretizer``."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcdecomp.metrics.columns import FloatArray

__all__ = ["Binning", "Labels"]

STRATEGIES = ("uniform", "quantile")


class Labels(NamedTuple):
    """One column as integers: values of shape (n,) in 0..size-1. Some may not occur."""

    values: NDArray[np.intp]
    size: int


@dataclass(frozen=True)
class Binning:
    """How numbers are binned: ``n_bins`` >= 2 bins of equal width, or of equally many rows."""

    n_bins: int
    strategy: str

    def __post_init__(self) -> None:
        n_bins = np.asarray(self.n_bins)
        if n_bins.ndim or n_bins.dtype.kind not in "iu":
            raise TypeError(f"n_bins must be an integer >= 2; got {self.n_bins!r}")
        if n_bins < 2:
            raise ValueError(f"n_bins must be an integer >= 2; got {self.n_bins}")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy must be 'uniform' or 'quantile'; got {self.strategy!r}")

    def label(self, columns: FloatArray, weight: FloatArray | None) -> list[Labels]:
        """Bin each column of an array of shape (n, D). ``weight`` has shape (n,)."""
        return [
            Labels(np.searchsorted(edges, column, side="right"), len(edges) + 1)
            for column, edges in zip(columns.T, self._inner_edges(columns, weight), strict=True)
        ]

    def _inner_edges(self, columns: FloatArray, weight: FloatArray | None) -> list[FloatArray]:
        """Return the edges between the bins of each column. A constant column has none."""
        # scikit-learn is imported here so that `import tcdecomp` stays fast
        from sklearn.preprocessing import KBinsDiscretizer

        n_bins = int(self.n_bins)
        options: dict[str, Any] = {}
        if self.strategy == "uniform":
            weight = None  # the edges depend on the smallest and the largest value alone
        else:
            options["quantile_method"] = "averaged_inverted_cdf"
            if not _has_weighted_quantiles():
                return [_quantile_edges(column, weight, n_bins) for column in columns.T]
        # by default, KBinsDiscretizer takes a random sample above 200,000 rows
        binner = KBinsDiscretizer(
            n_bins, encode="ordinal", strategy=self.strategy, subsample=None, **options
        )
        with warnings.catch_warnings():
            # A constant column is allowed, and quantiles of few values coincide. Callers warn
            # where that loses information.
            warnings.filterwarnings("ignore", r"Feature \d+ is constant|Bins whose width")
            binner.fit(columns, sample_weight=weight)
        return [edges[1:-1] for edges in binner.bin_edges_]


def _has_weighted_quantiles() -> bool:
    """Tell whether scikit-learn is 1.8 or newer: weights and quantiles are right from there on."""
    import sklearn

    major, minor = sklearn.__version__.split(".")[:2]
    return (int(major), int(minor)) >= (1, 8)


def _quantile_edges(column: FloatArray, weight: FloatArray | None, n_bins: int) -> FloatArray:
    """Return the inner edges that scikit-learn 1.8 finds: averaged inverse of the weighted cdf."""
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
    return edges[np.ediff1d(edges, to_begin=np.inf) > 1e-8][1:-1]
