"""Bands of standard deviations, and the grid of each, on which components and points meet.

See :mod:`tcdecomp.kernels.linear`. The arrays hold one dimension of all components, in float64.
"""

# The kernels are in numba's dialect, which mypy does not know.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from tcdecomp.kernels.compiled.arithmetic import exp64
from tcdecomp.kernels.compiled.pairs import SQRT_2PI
from tcdecomp.kernels.linear import BLOCK, HEIGHT, PER_BAND, REACH, TAU, WIDTH

__all__ = ["Bands", "bands_of", "collect", "sort", "tabulate"]

MARGIN = 2 * BLOCK  # grid points beyond the outermost component
FEW = 32  # components that are summed directly
LONGEST = 2**18  # grid points of a band, and 64 for each component


class Bands(NamedTuple):
    """Components in the order of their bands, and the grid of each band, one after another."""

    start: Any  # (bands + 1,): of each band's components
    centre: Any  # (K,)
    scale: Any  # (K,): inverse standard deviations
    origin: Any  # (bands,): the first grid point
    inverse: Any  # (bands,): grid points in 1
    offset: Any  # (bands + 1,): of each band's grid points; a band of few components has none


@njit(inline="always")
def sort(mu, logvar, numbers):
    """Return where each band starts, the components' order by bands, and their ranks in it.

    Also the width of all bands: the ratio of the largest standard deviation to the smallest.
    ``numbers`` is room for three rows of K integers.
    """
    components, low = mu.shape[0], logvar.min()
    span = 0.5 * (logvar.max() - low)
    bands = int(span / math.log(WIDTH)) + 1
    band, order, rank = numbers[0], numbers[1], numbers[2]
    per_unit = bands / max(span, 1e-9)
    for k in range(components):
        band[k] = min(int(0.5 * (logvar[k] - low) * per_unit), bands - 1)
    start = np.zeros(bands + 1, np.int64)
    for k in range(components):
        start[band[k] + 1] += 1
    for o in range(start.shape[0] - 1):
        start[o + 1] += start[o]
    at = start.copy()
    for k in range(components):
        rank[k] = at[band[k]]
        order[rank[k]] = k
        at[band[k]] += 1
    return start, order, rank, math.exp(span / bands)


@njit(inline="always")
def bands_of(mu, logvar, start, order, width, room):
    """Return the bands of components that :func:`sort` has sorted, and lay their grids.

    ``room`` is for two rows of K numbers.
    """
    bands = start.shape[0] - 1
    centre, scale = room[0], room[1]
    for k in range(scale.shape[0]):
        centre[k], scale[k] = mu[order[k]], exp64(-0.5 * logvar[order[k]])
    origin, offset = np.zeros(bands), np.zeros(bands + 1, np.int64)
    inverse = PER_BAND * math.exp(-0.5 * logvar.min()) * width ** -np.arange(bands)
    for o in range(bands):
        part, points = centre[start[o] : start[o + 1]], 0
        if part.shape[0] > FEW:
            origin[o] = part.min() - MARGIN / inverse[o]
            length = (part.max() - origin[o]) * inverse[o] + MARGIN
            if length < LONGEST + 64 * mu.shape[0]:
                points = (int(length) // BLOCK + 1) * BLOCK
        offset[o + 1] = offset[o] + points
    return Bands(start, centre, scale, origin, inverse, offset)


@njit(inline="always")
def _place(mu, scale, origin, inverse):
    """Return a component's first grid point, their number, its centre among them, and its fall."""
    variance = (inverse / scale) ** 2 - TAU**2
    position = (mu - origin) * inverse
    half = int(REACH * math.sqrt(variance)) + 1
    first = int(position) - half
    return first, (2 * half + 9) // 8 * 8, position - first, 0.5 / variance


@njit(inline="always")
def _spread(grid, centre, fall, height):
    for g in range(grid.shape[0]):
        d = g - centre
        grid[g] += height * exp64(-fall * d * d)


@njit(inline="always")
def tabulate(bands):
    """Return all grids, and the maximum of each block of their points and its neighbours."""
    start, centre, scale, origin, inverse, offset = bands
    grid = np.zeros(offset[-1])
    for o in range(origin.shape[0]):
        part = grid[offset[o] : offset[o + 1]]
        for k in range(start[o], start[o + 1] if part.shape[0] else start[o]):
            first, count, at, fall = _place(centre[k], scale[k], origin[o], inverse[o])
            height = math.sqrt(2 * fall) * inverse[o] / SQRT_2PI
            _spread(part[first : first + count], at, fall, height)
    peaks = np.zeros(grid.shape[0] // BLOCK)
    for b in range(peaks.shape[0]):
        peaks[b] = grid[b * BLOCK : (b + 1) * BLOCK].max()
    for b in range(1, peaks.shape[0]):
        peaks[b - 1] = max(peaks[b - 1], peaks[b])
    for b in range(peaks.shape[0] - 1, 0, -1):
        peaks[b] = max(peaks[b - 1], peaks[b])
    return grid, peaks


@njit(inline="always")
def _gather(grid, centre, fall):
    """Return the slope and the bend of what points have left on the grid: sums of d and d^2 - v."""
    slope = bend = 0.0
    for g in range(grid.shape[0]):
        d = g - centre
        f = fall * d * d
        w = grid[g] * exp64(-f)
        slope += w * d
        bend += w * (2 * f - 1)
    return slope, bend


@njit(inline="always")
def collect(left, bands, of_mu, of_logvar):
    """Add what points have left on the grids to the gradients of mu, and twice that of logvar."""
    start, centre, scale, origin, inverse, offset = bands
    for o in range(origin.shape[0]):
        part = left[offset[o] : offset[o + 1]]
        for k in range(start[o], start[o + 1] if part.shape[0] else start[o]):
            first, count, at, fall = _place(centre[k], scale[k], origin[o], inverse[o])
            slope, bend = _gather(part[first : first + count], at, fall)
            factor = HEIGHT * math.sqrt(2 * fall) * inverse[o] / SQRT_2PI * 2 * fall
            of_mu[k] += factor * slope * inverse[o]
            of_logvar[k] += factor * bend * (inverse[o] / scale[k]) ** 2
