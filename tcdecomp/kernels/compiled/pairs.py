"""A marginal log q(z_j) by pairs: of few components, or where a grid is not accurate enough.

The arrays hold one dimension of all points and components. A scale is an inverse standard
deviation.
"""

# The kernels are in numba's dialect, which mypy does not know.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from tcdecomp.kernels.compiled.arithmetic import F, exp32, exp64, times

__all__ = ["SQRT_2PI", "add_moments", "add_pairs", "densities", "exactly"]

SQRT_2PI = math.sqrt(2 * math.pi)
LEAST = F(1e-15)  # of the sharpest component's density: below it, terms that are cut off count
SMALLEST = F(1e-30)  # sum: below it, terms lack digits in float32, and the inverse overflows


@njit(inline="always")
def densities(x, mu, scale, weights):
    """Return the sum of densities and its slope; the densities are left in ``weights``."""
    total = slope = 0.0
    for k in range(mu.shape[0]):
        q = (x - mu[k]) * scale[k]
        w = exp64(-0.5 * q * q) * scale[k]
        weights[k] = w
        total += w
        slope -= w * q * scale[k]
    return total / SQRT_2PI, slope / SQRT_2PI


@njit(inline="always")
def add_moments(x, mu, scale, weights, factor, of_mu, of_logvar):
    """Add a point's gradients: of mu, and twice that of logvar."""
    for k in range(mu.shape[0]):
        q = (x - mu[k]) * scale[k]
        w = factor * weights[k]
        of_mu[k] += w * q * scale[k]
        of_logvar[k] += w * (q * q - 1.0)


@njit(inline="always")
def exactly(x, mu, scale, own, log_ratio, weights):
    """Return the log of the weighted sum and its slope; the weights are left as shares of it."""
    for k in range(mu.shape[0]):
        q = (x - mu[k]) * scale[k]
        weights[k] = -0.5 * q * q
    top, total, slope = weights.max(), 0.0, 0.0
    for k in range(mu.shape[0]):
        weights[k] = exp64(weights[k] - top) * scale[k]
    if own >= 0:
        weights[own] *= math.exp(log_ratio)
    for k in range(mu.shape[0]):
        total += weights[k]
    for k in range(mu.shape[0]):
        weights[k] /= total
        slope -= weights[k] * (x - mu[k]) * scale[k] * scale[k]
    return top + math.log(total / SQRT_2PI), slope


@njit(inline="always")
def _weigh_pairs(x, mu, scale, height, weights):
    """Do what :func:`densities` does in float32, with the densities' heights as weights."""
    total = slope = F(0.0)
    for k in range(mu.shape[0]):
        q = (x - mu[k]) * scale[k]
        w = exp32(F(-0.5) * q * q) * height[k]
        weights[k] = w
        total += w
        slope -= times(w, q) * scale[k]
    return total, slope


@njit(inline="always")
def add_pairs(x, mu, logvar, log_ratio, log_other, grad, log_q, of_x, of_mu, of_logvar):
    """Put log q(z_j) of one dimension into ``log_q``, and add its gradients, without a grid.

    It is in float32, but for points at which that underflows or overflows. An own component's
    weight goes into its height: what is added and then taken off would cancel.
    """
    ratio, scale = F(math.exp(log_ratio)), np.empty(mu.shape[0], F)
    for k in range(mu.shape[0]):
        scale[k] = math.exp(-0.5 * logvar[k])
    height, weights, sums = scale.copy(), np.empty_like(scale), np.zeros((2, mu.shape[0]), F)
    least = max(LEAST * scale.max(), SMALLEST)
    for i in range(x.shape[0]):
        point = F(x[i])
        if log_ratio != 0.0:
            height[i] *= ratio
        total, slope = _weigh_pairs(point, mu, scale, height, weights)
        if log_ratio != 0.0:
            height[i] = scale[i]
        if not least < total < F(math.inf):
            wide, shares = np.exp(-0.5 * logvar.astype(np.float64)), np.empty(mu.shape[0])
            own = i if log_ratio != 0.0 else -1
            log_q[i], rise = exactly(x[i], mu, wide, own, log_ratio, shares)
            log_q[i] += log_other
            if grad.shape[0]:
                of_x[i] += grad[i] * rise
                add_moments(x[i], mu, wide, shares, grad[i], of_mu, of_logvar)
            continue
        log_q[i] = math.log(total / SQRT_2PI) + log_other
        if grad.shape[0]:
            factor = F(grad[i]) / total
            of_x[i] += factor * slope
            for k in range(mu.shape[0]):
                q, w = (point - mu[k]) * scale[k], factor * weights[k]
                g = times(w, q)
                sums[0, k] += g * scale[k]
                sums[1, k] += g * q - w
    for k in range(mu.shape[0]):
        of_mu[k] += sums[0, k]
        of_logvar[k] = 0.5 * (of_logvar[k] + sums[1, k])
