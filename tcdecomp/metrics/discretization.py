"""Numbers as integer labels: the bins of scikit-learn."""

from __future__ import annotations

import operator
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcdecomp.metrics.columns import Columns, FloatArray, list_names

__all__ = ["Binning", "Labels", "label_latents"]

STRATEGIES = ("uniform", "quantile")


class Labels(NamedTuple):
    """One column as integers: values of shape (n,) in 0..size-1, not all of which need occur."""

    values: NDArray[np.intp]
    size: int


@dataclass(frozen=True)
class Binning:
    """How numbers are cut into bins: ``n_bins`` >= 2 of equal width, or of equally many rows."""

    n_bins: int
    strategy: str

    def __post_init__(self) -> None:
        if not _is_integer(self.n_bins):
            raise TypeError(f"n_bins must be an integer >= 2; got {self.n_bins!r}")
        if self.n_bins < 2:
            raise ValueError(f"n_bins must be an integer >= 2; got {self.n_bins}")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy must be 'uniform' or 'quantile'; got {self.strategy!r}")

    def apply(self, columns: FloatArray, weight: FloatArray | None) -> list[Labels]:
        """Bin each column of an array of shape (n, D), rows counted by weight (n,) if given."""
        # imported here, so that importing tcdecomp stays light
        from sklearn.preprocessing import KBinsDiscretizer

        binner = KBinsDiscretizer(
            operator.index(self.n_bins),
            encode="ordinal",
            strategy=self.strategy,
            quantile_method="averaged_inverted_cdf",
            dtype=np.float64,
            subsample=None,  # the default takes a random sample above 200,000 rows
        ).set_output(transform="default")  # arrays, also where sklearn.set_config asks for frames
        with warnings.catch_warnings():
            # A constant latent has no information, and quantiles of a discrete one coincide:
            # both are answers, not faults. What a caller should know, label_latents says by name.
            warnings.filterwarnings("ignore", r"Feature \d+ is constant|Bins whose width")
            binned = binner.fit(columns, sample_weight=weight).transform(columns)
        return [Labels(column, int(column.max()) + 1) for column in binned.T.astype(np.intp)]


def label_latents(codes: Columns, binning: Binning, weight: FloatArray | None) -> list[Labels]:
    """Bin every latent, and warn of those that vary and yet fall into a single bin."""
    columns = codes.as_floats()
    labels = binning.apply(columns, weight)
    lost = [
        name
        for name, column, label in zip(codes.names, columns.T, labels, strict=True)
        if label.size == 1 and column.min() < column.max()
    ]
    if lost:
        warnings.warn(
            f"codes vary in {list_names(lost)}, but fall into one {binning.strategy} bin there, "
            "which counts as no information: nearly all rows share one value, or lie within "
            "1e-8, where scikit-learn merges bins. Rescale the codes, or use strategy='uniform'",
            stacklevel=3,
        )
    return labels


def _is_integer(value: object) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    try:
        operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True
