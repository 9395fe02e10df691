"""The marginals log q(z_j) of :mod:`tcdecomp.kernels.linear`, compiled for the CPU by numba.

One dimension at a time, in float64. Components are sorted into bands of their standard deviation,
all of one width in its logarithm. A band of few components is summed directly, any other over its
grid. A point at which the grids are not accurate enough is summed directly, too.
"""

# The kernels are in numba's dialect, which mypy does not know.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from tcdecomp.kernels.compiled.arithmetic import exp64, jit
from tcdecomp.kernels.compiled.bands import bands_of, collect, sort, tabulate
from tcdecomp.kernels.compiled.pairs import SQRT_2PI, add_moments, add_pairs, densities, exactly
from tcdecomp.kernels.linear import BLOCK, CUT_OFF, HEIGHT, TAU, TRUSTED, WINDOW

__all__ = ["add_marginals"]

HALF = WINDOW // 2 - 1
FALL = 0.5 / TAU**2
SMALL = 400  # components that are summed directly


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
def _own_parts(x, mu, logvar, log_ratio, room):
    """Return what a point's own component lacks on the grid: its density, slope and bend."""
    room[:] = 0.0
    own, slope, bend = room[0], room[1], room[2]
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
def _add_dimension(x, mu, logvar, log_ratio, log_other, grad, log_q, of_x, of_mu, of_logvar, room):
    """Put log q(z_j) of one dimension into ``log_q``, and add gradients to those that are there."""
    if not _have_grids(mu, logvar):
        add_pairs(x, mu, logvar, log_ratio, log_other, grad, log_q, of_x, of_mu, of_logvar)
        return
    numbers, of_components, of_points, moments = room
    start, order, rank, width = sort(mu, logvar, numbers)
    bands = bands_of(mu, logvar, start, order, width, of_components)
    grid, peaks = tabulate(bands)
    own, own_slope, own_bend = _own_parts(x, mu, logvar, log_ratio, of_points)
    count = bands.origin.shape[0]
    at, windows = np.empty(count, np.int64), np.empty((count, WINDOW))
    left, weights = np.zeros(grid.shape[0]), of_components[2]
    least = CUT_OFF * bands.scale.sum()
    factor = of_points[3]
    moments[:] = 0.0
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
        collect(left, bands, moments[0], moments[1])
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
    components = columns.mu.shape[1]
    of_component, moments = np.empty((2, components)), np.empty((2, components))
    # Made once: large arrays that come and go cost as much as what is done with them.
    numbers = np.empty((3, components), np.int32)
    room = numbers, np.empty((3, components)), np.empty((4, size)), moments
    for j in range(dims[0], dims[1]):
        of_x[:], of_component[:] = 0.0, 0.0
        for i in range(size):
            x[i] = z[i, j]
            if grad.shape[0]:
                upstream[i] = grad[i, j]
        _add_dimension(
            x, columns.mu[j], columns.logvar[j], log_own - log_other, log_other, upstream, density,
            of_x, of_component[0], of_component[1], room,
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
