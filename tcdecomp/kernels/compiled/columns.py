"""Components as the compiled loops read them: one row for each dimension."""

# The kernels are in numba's dialect, which mypy does not know.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from tcdecomp.kernels.compiled.arithmetic import F, exp64, jit
from tcdecomp.posterior import LOG_2PI

__all__ = ["columns_of", "put_rows"]


class Columns(NamedTuple):
    """Components, with dimensions first: D, or one more where D is odd, of scale 0."""

    mu: Any  # (D, K)
    logvar: Any  # (D, K)
    scale: Any  # (D, K): exp(-logvar / 2) / sqrt(2)
    height: Any  # (K,): the log-density at mu


@jit
def columns_of(mu, logvar):
    """Return components (K, D) as columns."""
    components, dim = mu.shape
    shape = dim + dim % 2, components
    # One array each: numba does not know that parts of an array are contiguous.
    columns = Columns(
        np.zeros(shape, F), np.zeros(shape, F), np.zeros(shape, F), np.empty(components, F)
    )
    for k in range(components):
        total = 0.0
        for j in range(dim):
            columns.mu[j, k] = mu[k, j]
            columns.logvar[j, k] = logvar[k, j]
            total += logvar[k, j]
        columns.height[k] = -0.5 * (total + dim * LOG_2PI)
    for j in range(dim):
        for k in range(components):
            columns.scale[j, k] = math.sqrt(0.5) * exp64(-0.5 * columns.logvar[j, k])
    return columns


@jit
def put_rows(parts, of):
    """Add up gradients in columns, (threads, 2, D, K), and put them into rows, (2, K, D)."""
    for k in range(of.shape[1]):
        for j in range(of.shape[2]):
            of[0, k, j], of[1, k, j] = parts[0, 0, j, k], parts[0, 1, j, k]
    for part in parts[1:]:
        for k in range(of.shape[1]):
            for j in range(of.shape[2]):
                of[0, k, j] += part[0, j, k]
                of[1, k, j] += part[1, j, k]
