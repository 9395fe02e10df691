"""The marginals log q(z_j) of :mod:`tcdecomp.kernels.linear`, compiled for the CPU by numba.

One dimension at a time, in float64. Components are sorted into bands of their standard deviation,
all of one width in its logarithm. A band of few components is summed directly, any other over its
grid. A point at which the grids are not accurate enough is summed directly, too.
"""

# The kernels are in numba's dialect, which mypy does not know.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from tcdecomp.kernels.compiled.arithmetic import exp64, jit
from tcdecomp.kernels.compiled.pairs import SQRT_2PI, add_moments, add_pairs, densities, exactly
from tcdecomp.kernels.linear import (
    BLOCK,
    CUT_OFF,
    HEIGHT,
    PER_BAND,
    REACH,
    TAU,
    TRUSTED,
    WIDTH,
    WINDOW,
)

__all__ = ["add_marginals"]

HALF = WINDOW // 2 - 1
FALL = 0.5 / TAU**2
MARGIN = 2 * BLOCK  # grid points beyond the outermost component
FEW = 32  # components that are summed directly
SMALL = 400  # the same of a whole dimension
LONGEST = 2**18  # grid points of a band, and 64 for each component


@njit(inline="always")
def _spread(grid, centre, fall, height):
    for g in range(grid.shape[0]):
        d = g - centre
        grid[g] += height * exp64(-fall * d * d)


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
def _read(grid, centre, window):
    total = slope = 0.0
    for g in range(WINDOW):
        d = g - centre
        w = exp64(-FALL * d * d)
        window[g] = w
        total += w * grid[g]
        slope += w * d * grid[g]
    return HEIGHT * total, HEIGHT * slope / TAU**2


@njit(inline="always")
def _add_window(grid, window, factor):
    for g in range(WINDOW):
        grid[g] += factor * window[g]


@njit(inline="always")
def _have_grids(mu, logvar):
    """Tell whether components are put on grids: they are not few, and all are finite."""
    if mu.shape[0] <= SMALL:
        return False
    finite = True
    for k in range(mu.shape[0]):
        finite &= abs(mu[k]) < math.inf and abs(logvar[k]) < 700.0
    return finite


@njit(inline="always")
def _sort(mu, logvar):
    """Return where each band starts, the components' order by bands, and their ranks in it.

    Also the width of all bands: the ratio of the largest standard deviation to the smallest.
    """
    components, low = mu.shape[0], logvar.min()
    span = 0.5 * (logvar.max() - low)
    bands = int(span / math.log(WIDTH)) + 1
    band, per_unit = np.empty(components, np.int32), bands / max(span, 1e-9)
    for k in range(components):
        band[k] = min(int(0.5 * (logvar[k] - low) * per_unit), bands - 1)
    start = np.zeros(bands + 1, np.int64)
    for k in range(components):
        start[band[k] + 1] += 1
    for o in range(start.shape[0] - 1):
        start[o + 1] += start[o]
    order, rank, at = np.empty_like(band), np.empty_like(band), start.copy()
    for k in range(components):
        rank[k] = at[band[k]]
        order[rank[k]] = k
        at[band[k]] += 1
    return start, order, rank, math.exp(span / bands)


class Bands(NamedTuple):
    """Components in the order of their bands, and the grid of each band, one after another."""

    start: Any  # (bands + 1,): of each band's components
    centre: Any  # (K,)
    scale: Any  # (K,): inverse standard deviations
    origin: Any  # (bands,): the first grid point
    inverse: Any  # (bands,): grid points in 1
    offset: Any  # (bands + 1,): of each band's grid points; a band of few components has none


@njit(inline="always")
def _bands(mu, logvar, start, order, width):
    bands = start.shape[0] - 1
    centre, scale = np.empty(mu.shape[0]), np.empty(mu.shape[0])
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
def _tabulate(bands):
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
def _collect(left, bands, of_mu, of_logvar):
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


@njit(inline="always")
def _own_parts(x, mu, logvar, log_ratio):
    """Return what a point's own component lacks on the grid: its density, slope and bend."""
    own, slope, bend = np.zeros(x.shape[0]), np.zeros(x.shape[0]), np.zeros(x.shape[0])
    factor = (math.exp(log_ratio) - 1) / SQRT_2PI
    for i in range(x.shape[0] if log_ratio != 0.0 else 0):
        scale = exp64(-0.5 * logvar[i])
        q = (x[i] - mu[i]) * scale
        own[i] = factor * scale * exp64(-0.5 * q * q)
        slope[i] = -own[i] * q * scale
        bend[i] = own[i] * (q * q - 1.0)
    return own, slope, bend


@njit(inline="always")
def _read_bands(x, bands, grid, peaks, at, windows, weights):
    """Return the sum of densities at a point, its slope, and the largest of the grids nearby."""
    start, centre, scale, origin, inverse, offset = bands
    total = slope = nearby = 0.0
    for o in range(origin.shape[0]):
        a, b, points, at[o] = start[o], start[o + 1], offset[o + 1] - offset[o], -1
        if points == 0 and a < b:
            t, s = densities(x, centre[a:b], scale[a:b], weights[a:b])
            total += t
            slope += s
        position = (x - origin[o]) * inverse[o]
        if BLOCK < position < points - BLOCK:
            at[o] = offset[o] + int(position) - HALF
            part = grid[at[o] : at[o] + WINDOW]
            t, s = _read(part, position - int(position) + HALF, windows[o])
            total += t
            slope += s * inverse[o]
            nearby += peaks[at[o] // BLOCK]
    return total, slope, nearby


@njit(inline="always")
def _add_dimension(x, mu, logvar, log_ratio, log_other, grad, log_q, of_x, of_mu, of_logvar):
    """Put log q(z_j) of one dimension into ``log_q``, and add gradients to those that are there."""
    if not _have_grids(mu, logvar):
        add_pairs(x, mu, logvar, log_ratio, log_other, grad, log_q, of_x, of_mu, of_logvar)
        return
    start, order, rank, width = _sort(mu, logvar)
    bands = _bands(mu, logvar, start, order, width)
    grid, peaks = _tabulate(bands)
    own, own_slope, own_bend = _own_parts(x, mu, logvar, log_ratio)
    count = bands.origin.shape[0]
    at, windows = np.empty(count, np.int64), np.empty((count, WINDOW))
    left, weights = np.zeros(grid.shape[0]), np.empty(mu.shape[0])
    least = CUT_OFF * bands.scale.sum()
    factor, moments = np.zeros(x.shape[0]), np.zeros((2, mu.shape[0]))
    for i in range(x.shape[0]):
        total, slope, nearby = _read_bands(x[i], bands, grid, peaks, at, windows, weights)
        total, slope = total + own[i], slope + own_slope[i]
        if total > TRUSTED * nearby and total > least:
            log_q[i] = math.log(total)
            if grad.shape[0]:
                factor[i] = f = grad[i] / total
                of_x[i] += f * slope
                # As a function of its own, this takes longer.
                for o in range(count):
                    a, b = start[o], start[o + 1]
                    if at[o] >= 0:
                        _add_window(left[at[o] : at[o] + WINDOW], windows[o], f)
                    elif bands.offset[o] == bands.offset[o + 1]:
                        few, f_few = moments[:, a:b], f / SQRT_2PI
                        mu_few, scale_few = bands.centre[a:b], bands.scale[a:b]
                        add_moments(x[i], mu_few, scale_few, weights[a:b], f_few, few[0], few[1])
            continue
        mine = rank[i] if log_ratio != 0.0 else -1
        log_q[i], slope = exactly(x[i], bands.centre, bands.scale, mine, log_ratio, weights)
        if grad.shape[0]:
            of_x[i] += grad[i] * slope
            add_moments(x[i], bands.centre, bands.scale, weights, grad[i], moments[0], moments[1])
    for i in range(x.shape[0]):
        log_q[i] += log_other
    if grad.shape[0]:
        _collect(left, bands, moments[0], moments[1])
        for k in range(mu.shape[0]):
            of_mu[order[k]] += moments[0, k]
            of_logvar[order[k]] += 0.5 * moments[1, k]
        for i in range(x.shape[0] if log_ratio != 0.0 else 0):
            of_mu[i] -= factor[i] * own_slope[i]
            of_logvar[i] += 0.5 * factor[i] * own_bend[i]


@jit
def add_marginals(z, columns, log_weights, grad, factor, dims, log_q, of_z, of_components):
    """Add up some dimensions' log q(z_j), and their gradients; see :func:`.joint.add_joint`.

    ``grad`` and ``log_q`` have the shape (M, D).
    """
    size, value, (log_own, log_other) = z.shape[0], 0.0, log_weights
    x, upstream = np.empty(size), np.full(size if of_z.shape[0] else 0, factor)
    density, of_x = np.empty(size), np.empty(size)
    of_component = np.empty((2, columns.mu.shape[1]))
    for j in range(dims[0], dims[1]):
        of_x[:], of_component[:] = 0.0, 0.0
        for i in range(size):
            x[i] = z[i, j]
            if grad.shape[0]:
                upstream[i] = grad[i, j]
        _add_dimension(
            x, columns.mu[j], columns.logvar[j], log_own - log_other, log_other, upstream, density,
            of_x, of_component[0], of_component[1],
        )  # fmt: skip
        for i in range(size):
            value += (upstream[i] if upstream.shape[0] else factor) * density[i]
            if log_q.shape[0]:
                log_q[i, j] = density[i]
        for i in range(of_z.shape[0]):
            of_z[i, j] += of_x[i]
        for k in range(of_components.shape[2]):
            of_components[0, j, k] += of_component[0, k]
            of_components[1, j, k] += of_component[1, k]
    return value
