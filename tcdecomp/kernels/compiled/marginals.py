"""The marginals log q(z_j) of :mod:`tcdecomp.kernels.linear`, compiled for the CPU by numba.

One dimension at a time, in float64. Components are sorted into octaves of their standard
deviation. An octave of few components is summed directly, any other over its grid. A point at
which the grids are not accurate enough is summed directly, too.
"""

# The kernels are in numba's dialect, which mypy does not know.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from tcdecomp.kernels.compiled.arithmetic import exp64, jit
from tcdecomp.kernels.compiled.pairs import SQRT_2PI, add_moments, add_pairs, densities, exactly

__all__ = ["add_marginals"]

PER_OCTAVE = 2.3  # grid points in the smallest standard deviation of an octave
REACH = 6.76  # standard deviations at which a Gaussian ends
WINDOW = 24  # grid points that a point reads
HALF = WINDOW // 2 - 1
TAU = PER_OCTAVE * math.sqrt(0.5)  # standard deviation of the window, in grid points
FALL = 0.5 / TAU**2
HEIGHT = 1 / (TAU * SQRT_2PI)
BLOCK = 48  # grid points that share a maximum: no error comes from beyond the next block
MARGIN = 2 * BLOCK  # grid points beyond the outermost component
WIDTH = 3.0  # largest standard deviation of a band, over its smallest
UNDERFLOW = 1e-200
TRUSTED = 1e-4  # of the grid's maximum nearby: below it, the error of 1e-11 counts
FEW = 32  # components that are summed directly
SMALL = 400  # the same of a whole dimension
LONGEST = 2**18  # grid points of an octave, and 64 for each component


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

    Also the ratio of the smallest standard deviations of bands that follow each other.
    """
    components, low = mu.shape[0], logvar.min()
    range_ = 0.5 * (logvar.max() - low)
    bands = int(range_ / math.log(WIDTH)) + 1
    band = np.empty(components, np.int64)
    for k in range(components):
        band[k] = min(int((logvar[k] - low) * (0.5 * bands / max(range_, 1e-9))), bands - 1)
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
    return start, order, rank, math.exp(range_ / bands)


@njit(inline="always")
def _lay_grids(mu, low, start, width):
    """Return each octave's grid points: the first, the distance, and where they start; or none."""
    octaves = start.shape[0] - 1
    origin, step, offset = np.zeros(octaves), np.zeros(octaves), np.zeros(octaves + 1, np.int64)
    for o in range(octaves):
        a, b = start[o], start[o + 1]
        points = 0
        step[o] = math.exp(0.5 * low) * width**o / PER_OCTAVE
        if b - a > FEW:
            origin[o] = mu[a:b].min() - MARGIN * step[o]
            length = (mu[a:b].max() - origin[o]) / step[o] + MARGIN
            if length < LONGEST + 64 * mu.shape[0]:
                points = (int(length) // BLOCK + 1) * BLOCK
        offset[o + 1] = offset[o] + points
    return origin, step, offset


@njit(inline="always")
def _place(mu, std, origin, step):
    """Return a component's first grid point, their number, its centre among them, and its fall."""
    variance = (std / step) ** 2 - TAU**2
    position = (mu - origin) / step
    half = int(REACH * math.sqrt(variance)) + 1
    first = int(position) - half
    return first, (2 * half + 9) // 8 * 8, position - first, 0.5 / variance


@njit(inline="always")
def _tabulate(centre, scale, start, origin, step, offset):
    """Return all grids, and the maximum of each block of their points."""
    grid = np.zeros(offset[-1])
    for o in range(step.shape[0]):
        part = grid[offset[o] : offset[o + 1]]
        for k in range(start[o], start[o + 1] if part.shape[0] else start[o]):
            first, count, at, fall = _place(centre[k], 1 / scale[k], origin[o], step[o])
            height = math.sqrt(2 * fall) / (step[o] * SQRT_2PI)
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
def _collect(left, centre, scale, start, origin, step, offset, of_mu, of_logvar):
    """Add what points have left on the grids to the components' gradients."""
    for o in range(step.shape[0]):
        part = left[offset[o] : offset[o + 1]]
        for k in range(start[o], start[o + 1] if part.shape[0] else start[o]):
            std = 1 / scale[k]
            first, count, at, fall = _place(centre[k], std, origin[o], step[o])
            slope, bend = _gather(part[first : first + count], at, fall)
            factor = HEIGHT * math.sqrt(2 * fall) / (step[o] * SQRT_2PI) * 2 * fall
            of_mu[k] += factor * slope / step[o]
            of_logvar[k] += factor * bend * (std / step[o]) ** 2


@njit(inline="always")
def _add_dimension(x, mu, logvar, log_ratio, log_other, grad, log_q, of_x, of_mu, of_logvar):
    """Put log q(z_j) of one dimension into ``log_q``, and add gradients to those that are there."""
    if not _have_grids(mu, logvar):
        add_pairs(x, mu, logvar, log_ratio, log_other, grad, log_q, of_x, of_mu, of_logvar)
        return
    start, order, rank, width = _sort(mu, logvar)
    centre, log_scale, scale = mu[order], -0.5 * logvar[order], np.empty_like(mu)
    for k in range(scale.shape[0]):
        scale[k] = exp64(log_scale[k])
    ratio = math.exp(log_ratio)
    origin, step, offset = _lay_grids(centre, logvar.min(), start, width)
    inverse = 1 / step
    grid, peaks = _tabulate(centre, scale, start, origin, step, offset)
    windows, at = np.empty((start.shape[0], WINDOW)), np.empty(start.shape[0], np.int64)
    left, weights = np.zeros(grid.shape[0]), np.empty(mu.shape[0])
    moments = np.zeros((2, mu.shape[0]))
    for i in range(x.shape[0]):
        total = slope = nearby = own = q = 0.0
        if log_ratio != 0.0:
            own_scale = scale[rank[i]]
            q = (x[i] - mu[i]) * own_scale
            own = (ratio - 1) / SQRT_2PI * own_scale * exp64(-0.5 * q * q)
            total, slope = own, -own * q * own_scale
        for o in range(step.shape[0]):
            a, b, points = start[o], start[o + 1], offset[o + 1] - offset[o]
            at[o] = -1
            if a == b:
                continue
            if points == 0:
                t, s = densities(x[i], centre[a:b], scale[a:b], weights[a:b])
                total += t
                slope += s
                continue
            position = (x[i] - origin[o]) * inverse[o]
            if BLOCK < position < points - BLOCK:
                at[o] = offset[o] + int(position) - HALF
                part = grid[at[o] : at[o] + WINDOW]
                t, s = _read(part, position - int(position) + HALF, windows[o])
                total += t
                slope += s * inverse[o]
                nearby += peaks[at[o] // BLOCK]
        if not (total > TRUSTED * nearby and total > UNDERFLOW):
            log_q[i], slope = exactly(
                x[i],
                centre,
                scale,
                log_scale,
                rank[i] if log_ratio != 0.0 else -1,
                log_ratio,
                weights,
            )
            log_q[i] += log_other
            if grad.shape[0]:
                add_moments(x[i], centre, scale, weights, grad[i], moments[0], moments[1])
                of_x[i] += grad[i] * slope
            continue
        log_q[i] = math.log(total) + log_other
        if grad.shape[0] == 0:
            continue
        factor = grad[i] / total
        of_x[i] += factor * slope
        if log_ratio != 0.0:
            of_mu[i] += factor * own * q * scale[rank[i]]
            of_logvar[i] += 0.5 * factor * own * (q * q - 1.0)
        for o in range(step.shape[0]):
            a, b = start[o], start[o + 1]
            if at[o] >= 0:
                _add_window(left[at[o] : at[o] + WINDOW], windows[o], factor)
            elif offset[o] == offset[o + 1]:
                part = moments[:, a:b]
                f = factor / SQRT_2PI
                add_moments(x[i], centre[a:b], scale[a:b], weights[a:b], f, part[0], part[1])
    if grad.shape[0]:
        _collect(left, centre, scale, start, origin, step, offset, moments[0], moments[1])
        for k in range(mu.shape[0]):
            of_mu[order[k]] += moments[0, k]
            of_logvar[order[k]] += 0.5 * moments[1, k]


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
            x, columns.mu[j].astype(np.float64), columns.logvar[j].astype(np.float64),
            log_own - log_other, log_other, upstream, density, of_x, of_component[0],
            of_component[1],
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
