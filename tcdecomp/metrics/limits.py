"""What few bins and few rows do to a gap of information."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from tcdecomp.metrics.columns import FloatArray, warn_caller
from tcdecomp.metrics.information import Information, entropy
from tcdecomp.metrics.tables import Tables

__all__ = ["ceilings", "warn_of_few_rows"]


def ceilings(tables: Tables) -> FloatArray:
    """Return the entropy that is left in as many classes as there are bins, as a share."""
    n_bins = tables.labels.max()
    largest = []
    for part in tables.split():
        counts = part[0].sum(0)
        merged = counts[counts > 0].tolist()
        heapq.heapify(merged)
        while len(merged) > n_bins:  # the two rarest become one
            heapq.heapreplace(merged, heapq.heappop(merged) + merged[0])
        left, whole = (entropy(np.array(c)) for c in (merged, counts))
        largest.append(1.0 if len(merged) == np.count_nonzero(counts) else left / whole)
    return np.array(largest)


def warn_of_few_rows(
    tables: Tables, info: Information, share: FloatArray, runner_up: NDArray[np.intp]
) -> None:
    """Warn if more than 2 % of the entropy is bias in the information of a runner-up."""
    if (tables.counts % 1).any():  # weights: their sum is not the number of rows
        return
    occupied = np.append(tables.counts.any(2).sum(1), 1)  # of no runner-up: 1
    shares = np.vstack([share, np.zeros_like(info.factor)])
    cards = np.array([np.count_nonzero(part[0].sum(0)) for part in tables.split()])
    bias = (occupied[runner_up] - 1) * (cards - 1) / (2 * tables.total * info.factor)
    least = np.minimum(bias, shares[runner_up, np.arange(len(cards))])
    if least.max() > 0.02:
        worst = int(least.argmax())
        warn_caller(
            f"{tables.total:.0f} rows are few for so many bins: the gap of good codes is too low, "
            f"by about {least[worst]:.2f} for factor {tables.factor_names[worst]!r}. Use at least "
            f"{tables.total * bias.max() / 0.02:.0f} rows or fewer bins, or pass "
            "correction='miller-madow'"
        )
