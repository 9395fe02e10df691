"""The joint log q(z), in float32.

With s_ikj = (z_ij - mu_kj) exp(-logvar_kj / 2) / sqrt(2), h_k = -sum_j (logvar_kj + log 2 pi) / 2,
and g_ik the upstream factor of log q(z_i) times component k's share of it,

    log q(z_i)  = log sum_k w_ik exp(h_k - sum_j s_ikj^2)
    dmu_kj      = sqrt(2) exp(-logvar_kj / 2) sum_i g_ik s_ikj
    dlogvar_kj  = sum_i g_ik (s_ikj^2 - 1/2)

Four points at a time meet a stretch of components, whose numbers stay in the cache. The gradient
uses the weights while they are there, and leaves out a stretch in which no weight can count.
Arrays of components have dimensions first, (D, K), so that the compiler does many at once.
"""

# The kernels are in numba's dialect, which mypy does not know.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from tcdecomp.kernels.compiled.arithmetic import F, exp32, exp64, highest, jit, times

__all__ = ["add_joint", "add_kl"]

STRETCH = 2**14  # elements of mu in a stretch
ROWS = 2**21  # elements of the weights that are kept at one time
NEGLIGIBLE = F(1e-8)  # share of a point's sum


@njit(inline="always")
def _copy(height, rows):
    l0, l1, l2, l3 = rows
    for k in range(height.shape[0]):
        l0[k] = l1[k] = l2[k] = l3[k] = height[k]


@njit(inline="always")
def _subtract_squares(points, mu, scale, rows):
    """Do two dimensions at a time, for which each log is loaded and stored once."""
    (z0, z1, z2, z3), (y0, y1, y2, y3) = points
    l0, l1, l2, l3 = rows
    for k in range(l0.shape[0]):
        m, s, n, t = mu[0][k], scale[0][k], mu[1][k], scale[1][k]
        s0, s1, s2, s3 = (z0 - m) * s, (z1 - m) * s, (z2 - m) * s, (z3 - m) * s
        t0, t1, t2, t3 = (y0 - n) * t, (y1 - n) * t, (y2 - n) * t, (y3 - n) * t
        l0[k] -= s0 * s0 + t0 * t0
        l1[k] -= s1 * s1 + t1 * t1
        l2[k] -= s2 * s2 + t2 * t2
        l3[k] -= s3 * s3 + t3 * t3


@njit(inline="always")
def _exponentiate(row):
    """Put the weights, relative to the largest, in place of the logs; return log-sum and sum."""
    top, total = highest(row), F(0.0)
    for k in range(row.shape[0]):
        e = exp32(row[k] - top)
        row[k] = e
        total += e
    return top + math.log(total), total


@njit(inline="always")
def _scale(rows, factors, sums):
    """Give weights their factors, add them up over points, and return their total size."""
    w0, w1, w2, w3 = rows
    f0, f1, f2, f3 = factors
    total = F(0.0)
    for k in range(sums.shape[0]):
        w0[k] *= f0
        w1[k] *= f1
        w2[k] *= f2
        w3[k] *= f3
        sums[k] += (w0[k] + w1[k]) + (w2[k] + w3[k])
        total += (abs(w0[k]) + abs(w1[k])) + (abs(w2[k]) + abs(w3[k]))
    return total


@njit(inline="always")
def _add_slopes(points, mu, scale, rows, of_components):
    z0, z1, z2, z3 = points
    w0, w1, w2, w3 = rows
    of_mu, of_logvar = of_components
    d0 = d1 = d2 = d3 = F(0.0)
    for k in range(mu.shape[0]):
        m, s = mu[k], scale[k]
        s0, s1, s2, s3 = (z0 - m) * s, (z1 - m) * s, (z2 - m) * s, (z3 - m) * s
        g0, g1 = times(w0[k], s0), times(w1[k], s1)
        g2, g3 = times(w2[k], s2), times(w3[k], s3)
        d0 += g0 * s
        d1 += g1 * s
        d2 += g2 * s
        d3 += g3 * s
        of_mu[k] += (g0 + g1) + (g2 + g3)
        of_logvar[k] += (g0 * s0 + g1 * s1) + (g2 * s2 + g3 * s3)
    return d0, d1, d2, d3


@njit(inline="always")
def _four(first, end):
    """Return the numbers of four points, the last of them again and again beyond the end."""
    return first, min(first + 1, end - 1), min(first + 2, end - 1), min(first + 3, end - 1)


@njit(inline="always")
def _at(z, i, j):
    return z[i[0], j], z[i[1], j], z[i[2], j], z[i[3], j]


@njit(inline="always")
def _cut(rows, r, a, b):
    return rows[r, a:b], rows[r + 1, a:b], rows[r + 2, a:b], rows[r + 3, a:b]


@njit(inline="always")
def _two(columns, j, a, b):
    return columns[j, a:b], columns[j + 1, a:b]


@njit(inline="always")
def _add_points(z, columns, log_ratio, grad, points, log_q, of_z, of_mu, of_logvar):
    """Put log q of some points into ``log_q``, and add gradients unless ``grad`` is empty.

    z and of_z are (M, D), of_mu and of_logvar (D, K).
    """
    mu, _, scale, height = columns
    dim, components, (start, stop) = z.shape[1], mu.shape[1], points
    step = max(64, STRETCH // dim // 64 * 64)
    block = max(4, min(64, ROWS // components // 4 * 4))
    weights, sums = np.zeros((block, components), F), np.zeros(components)
    factors, part = np.zeros(block, F), np.empty((2, dim, min(step, components)), F)
    for first in range(start, stop, block):
        last = min(first + block, stop)
        for a in range(0, components, step):
            b = min(a + step, components)
            for i in range(first, last, 4):
                rows, four = _cut(weights, i - first, a, b), _four(i, last)
                _copy(height[a:b], rows)
                for j in range(0, dim, 2):
                    two_z = _at(z, four, j), _at(z, four, min(j + 1, dim - 1))
                    two_mu, two_scale = _two(mu, j, a, b), _two(scale, j, a, b)
                    _subtract_squares(two_z, two_mu, two_scale, rows)
        factors[:] = F(0.0)
        for i in range(first, last):
            if log_ratio != F(0.0):
                weights[i - first, i] += log_ratio
            log_q[i], total = _exponentiate(weights[i - first])
            if grad.shape[0]:
                factors[i - first] = grad[i] / total
        weights[last - first : last - first + 3] = F(0.0)  # else logs, and -inf * 0 is no number
        for a in range(0, components if grad.shape[0] else 0, step):
            b = min(a + step, components)
            part[:] = F(0.0)
            for i in range(first, last, 4):
                r, four = i - first, _four(i, last)
                rows = _cut(weights, r, a, b)
                total = _scale(
                    rows, (factors[r], factors[r + 1], factors[r + 2], factors[r + 3]), sums[a:b]
                )
                if total * components < NEGLIGIBLE * np.abs(grad[i : min(i + 4, last)]).sum():
                    continue
                for j in range(dim):
                    of = part[0, j, : b - a], part[1, j, : b - a]
                    slopes = _add_slopes(_at(z, four, j), mu[j, a:b], scale[j, a:b], rows, of)
                    for n in range(4):
                        of_z[four[n], j] -= F(2.0) * slopes[n]
            # Added up in parts: in one float32 the rounding of many points would add up, too.
            for j in range(dim):
                for k in range(b - a):
                    of_mu[j, a + k] += part[0, j, k]
                    of_logvar[j, a + k] += part[1, j, k]
    for j in range(dim if grad.shape[0] else 0):
        for k in range(components):
            of_mu[j, k] *= F(2.0) * scale[j, k]
            of_logvar[j, k] -= F(0.5 * sums[k])


@jit
def add_joint(z, columns, log_weights, grad, factor, points, log_q, of_z, of_components):
    """Add up some points' log q(z) by their upstream gradients, and make its gradients.

    z and of_z are (M, D), of_components (2, D, K). The upstream gradients are ``grad``, or else
    ``factor`` for all points. log q(z) is put into ``log_q`` unless that is empty. No gradients are
    made where ``of_z`` is empty.
    """
    value, joint, (log_own, log_other) = 0.0, np.empty(z.shape[0]), log_weights
    if grad.shape[0] == 0:
        grad = np.full(z.shape[0], F(factor))
    _add_points(
        z, columns, F(log_own - log_other), grad if of_z.shape[0] else grad[:0], points, joint,
        of_z, of_components[0], of_components[1],
    )  # fmt: skip
    for i in range(points[0], points[1]):
        joint[i] += log_other
        value += grad[i] * joint[i]
        if log_q.shape[0]:
            log_q[i] = joint[i]
    return value


@jit
def add_kl(columns, factor, points, of_components):
    """Add up the KL of some points to the standard normal, and its gradients."""
    value, (first, last) = 0.0, points
    rise = np.empty(last - first)
    for j in range(of_components.shape[1] if factor != 0 else 0):
        mu, logvar = columns.mu[j, first:last], columns.logvar[j, first:last]
        for k in range(rise.shape[0]):
            rise[k] = exp64(min(np.float64(logvar[k]), 709.0)) - 1.0
            value += 0.5 * factor * (mu[k] * mu[k] + rise[k] - logvar[k])
        for k in range(rise.shape[0] if of_components.shape[2] else 0):
            of_components[0, j, first + k] += factor * mu[k]
            of_components[1, j, first + k] += 0.5 * factor * rise[k]
    return value
