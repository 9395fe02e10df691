"""The one-pass kernel compiled for the CPU by numba, in float32.

It computes what :mod:`tcdecomp.kernels.onepass` does, a point at a time: the exponentials of its
row stay in the first levels of the cache between the sum and the gradient, and nothing else is
stored. Each thread takes a stretch of the points, and sums the components' gradients on its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

from tcdecomp.posterior import LOG_2PI

__all__ = ["mean_log_mixture"]

F = np.float32
# All of fastmath but its licence to assume that there are no NaN and no infinities.
FAST = {"contract", "reassoc", "arcp", "nsz"}
# Densities above which a second thread is worth its start.
THREADED_ABOVE = 2**20


def mean_log_mixture(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    log_own: float,
    log_other: float,
    joint: float,
    marginal: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the value, a scalar, and its gradients for z, mu and logvar, each (M, D)."""
    size, dim = z.shape
    threads = torch.get_num_threads() if size * size * dim > THREADED_ABOVE else 1
    columns = [mu.T, (-0.5 * logvar).exp().T, -0.5 * (logvar + LOG_2PI).T]
    inputs = [t.contiguous().resolve_neg().numpy() for t in (z, *columns)]
    of_z = torch.empty_like(z, memory_format=torch.contiguous_format)
    of_columns = np.zeros((threads, 2, dim, size), F)
    scalars = F(log_own - log_other), F(joint / size), F(marginal / size)
    of_points = of_z.numpy()

    def stretch(t: int) -> float:
        rows = t * size // threads, (t + 1) * size // threads
        return float(_stretch(*inputs, *scalars, *rows, of_points, *of_columns[t]))

    value = stretch(0) if threads == 1 else _in_threads(stretch, threads)
    of_mu, of_logvar = torch.from_numpy(of_columns.sum(0))
    value += (joint + dim * marginal) * log_other
    return z.new_tensor(value), of_z, of_mu.T.contiguous(), 0.5 * of_logvar.T.contiguous()


def _in_threads(stretch: Callable[[int], float], threads: int) -> float:
    # A pool of its own for each call: one that is kept would not survive a fork.
    with ThreadPoolExecutor(threads) as pool:
        rest = [pool.submit(stretch, t) for t in range(1, threads)]
        return stretch(0) + sum(future.result() for future in rest)


def _cached_jit(function: Any) -> Any:
    options = {"nogil": True, "fastmath": FAST}
    try:
        return njit(**options, cache=True)(function)
    except RuntimeError:  # numba finds no folder that it may write to
        return njit(**options)(function)


@intrinsic
def _as_float32(typing_context: Any, bits: Any) -> Any:
    """Reinterpret the bits of an int32."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), code


@njit(inline="always")
def _exp(x: Any) -> Any:
    """Return exp(x) for x <= 0 to float32's precision, and 0 below -60.

    A weight below e^-60 of its row's largest cannot count, and from e^-87 on it is subnormal, with
    which processors are slow.

    exp(x) = 2^n exp(r) with |r| <= log(2) / 2, and exp(r) by the Cephes library's polynomial: it
    has no branch, so that the compiler can do many at once.
    """
    cut = x < F(-60.0)
    x = max(x, F(-60.0))
    n = np.floor(x * F(1.44269504) + F(0.5))
    r = x - n * F(0.693359375) + n * F(2.12194440e-4)
    p = F(1.9875691500e-4)
    p = p * r + F(1.3981999507e-3)
    p = p * r + F(8.3334519073e-3)
    p = p * r + F(4.1665795894e-2)
    p = p * r + F(1.6666665459e-1)
    p = p * r + F(5.0000001201e-1)
    p = p * r * r + r + F(1.0)
    p *= _as_float32((np.int32(n) + np.int32(127)) << np.int32(23))
    return F(0.0) if cut else p


@njit(inline="always", fastmath=FAST)
def _weigh(logs: Any, factor: Any) -> Any:
    """Return the log-sum of exp(logs), and put ``factor`` times the softmax in their place."""
    top = F(-np.inf)
    for k in range(logs.shape[0]):
        top = max(top, logs[k])
    total = F(0.0)
    for k in range(logs.shape[0]):
        logs[k] = _exp(logs[k] - top)
        total += logs[k]
    scale = F(factor / total)
    for k in range(logs.shape[0]):
        logs[k] *= scale
    return top + math.log(total)


@_cached_jit
def _stretch(
    z: Any,
    mu: Any,
    inv_std: Any,
    log_scale: Any,
    log_ratio: Any,
    joint: Any,
    marginal: Any,
    start: Any,
    stop: Any,
    of_z: Any,
    of_mu: Any,
    of_logvar: Any,
) -> Any:
    """Return the share of points ``start`` to ``stop``; z (M, D), components (D, K)."""
    dim, components = mu.shape
    weights, joint_weights = np.empty((dim, components), F), np.empty(components, F)
    value = 0.0
    for i in range(start, stop):
        joint_weights[:] = F(0.0)
        for j in range(dim):
            row, x = weights[j], z[i, j]
            for k in range(components):
                q = (x - mu[j, k]) * inv_std[j, k]
                row[k] = log_scale[j, k] - F(0.5) * q * q
                joint_weights[k] += row[k]
            row[i] += log_ratio
            value += marginal * _weigh(row, marginal)
        joint_weights[i] += log_ratio
        value += joint * _weigh(joint_weights, joint)
        for j in range(dim):
            row, x, slope = weights[j], z[i, j], F(0.0)
            for k in range(components):
                q = (x - mu[j, k]) * inv_std[j, k]
                w = row[k] + joint_weights[k]
                g = w * q * inv_std[j, k]
                slope += g
                of_mu[j, k] += g
                of_logvar[j, k] += w * (q * q - F(1.0))
            of_z[i, j] = -slope
            value += 0.0 * slope  # a maximum drops a NaN, the residuals keep it
    return value
