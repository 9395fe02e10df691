"""Plug-in entropy and mutual information of labelled columns, in nats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tcdecomp.metrics.columns import FloatArray
from tcdecomp.metrics.discretization import Labels

__all__ = ["entropies", "mutual_information"]


def entropies(labels: Sequence[Labels], weight: FloatArray | None) -> FloatArray:
    """Return the entropy of each column, shape (columns,)."""
    return np.array(
        [_entropy(np.bincount(label.values, weight).astype(np.float64)) for label in labels]
    )


def mutual_information(
    latents: Sequence[Labels], factors: Sequence[Labels], weight: FloatArray | None
) -> FloatArray:
    """Return the mutual information of each latent with each factor, shape (D, K)."""
    return np.array([[_information(_cells(z, v, weight)) for v in factors] for z in latents])


def _cells(z: Labels, v: Labels, weight: FloatArray | None) -> FloatArray:
    """Return the number of rows, or their weight, with each pair of labels (of z, of v)."""
    cells = np.bincount(z.values * v.size + v.values, weight, z.size * v.size)
    return cells.reshape(z.size, v.size).astype(np.float64)


def _entropy(counts: FloatArray) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-p @ np.log(p))


def _information(cells: FloatArray) -> float:
    z, v = np.nonzero(cells)
    total = cells.sum()
    p, p_z, p_v = cells[z, v] / total, cells.sum(1)[z] / total, cells.sum(0)[v] / total
    # Two divisions, because the product of two tiny weights can underflow. If z is constant,
    # p = p_v and p_z = 1 exactly, so the information is exactly 0.
    information = p @ np.log(p / p_v / p_z)
    return max(0.0, float(information))  # below 0 by rounding only
