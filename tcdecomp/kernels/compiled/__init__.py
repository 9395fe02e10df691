"""Mixtures in float32 on the CPU, compiled by numba: the joint by pairs, the marginals by grids.

Threads share the points of the joint, and the dimensions of the marginals.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tcdecomp.kernels.compiled.arithmetic import F, jit, largest
from tcdecomp.kernels.compiled.columns import columns_of, put_rows
from tcdecomp.kernels.compiled.joint import add_joint, add_kl
from tcdecomp.kernels.compiled.marginals import add_marginals

__all__ = [
    "log_joint",
    "log_mixture",
    "log_mixture_backward",
    "mean_log_mixture",
]

# Densities of the joint above which a second thread is worth its start.
THREADED_ABOVE = 2**20
NO_VECTOR, NO_MATRIX = np.empty(0, F), np.empty((0, 0), F)

Gradients = tuple[Tensor, ...]


def log_mixture(
    z: Tensor, mu: Tensor, logvar: Tensor, log_own: Tensor, log_other: Tensor, *_: None
) -> tuple[Tensor, Tensor]:
    """Return log q(z), shape (M,), and log q(z_j), shape (M, D); see :mod:`tcdecomp.kernels.dense`.

    All points have the same weights, and there are no items.
    """
    log_q, log_q_j = z.new_empty(z.shape[0]), z.new_empty(z.shape)
    weights = log_own[0].item(), log_other[0].item()
    _run(z, mu, logvar, *weights, log_q=log_q.numpy(), log_q_j=log_q_j.numpy(), gradients=False)
    return log_q, log_q_j


def log_joint(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Return the log-sums of all components' densities, shape (M,)."""
    log_q = z.new_empty(len(z))
    _run(z, mu, logvar, 0.0, 0.0, log_q=log_q.numpy(), gradients=False, marginals=False)
    return log_q


def log_mixture_backward(
    grad: Tensor,
    grad_j: Tensor,
    log_q: Tensor,
    log_q_j: Tensor,
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    log_own: Tensor,
    log_other: Tensor,
    *_: None,
) -> Gradients:
    """Return the gradients of z, mu and logvar from those of :func:`log_mixture`'s results."""
    weights = log_own[0].item(), log_other[0].item()
    return _run(z, mu, logvar, *weights, grad=_array(grad), grad_j=_array(grad_j))[1]


def mean_log_mixture(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    log_own: float,
    log_other: float,
    joint: float,
    marginal: float,
    kl: float,
    *,
    gradients: bool = True,
) -> tuple[Tensor, ...]:
    """Return the value, a scalar, and its gradients; see :mod:`tcdecomp.kernels.blocked`."""
    factors = tuple(factor / z.shape[0] for factor in (joint, marginal, kl))
    value, of = _run(z, mu, logvar, log_own, log_other, factors=factors, gradients=gradients)
    return torch.tensor(value, dtype=torch.float32), *of


def _run(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    log_own: float,
    log_other: float,
    *,
    grad: Any = NO_VECTOR,
    grad_j: Any = NO_MATRIX,
    factors: tuple[float, ...] = (0.0, 0.0, 0.0),
    log_q: Any = NO_VECTOR,
    log_q_j: Any = NO_MATRIX,
    gradients: bool = True,
    marginals: bool = True,
) -> tuple[float, Gradients]:
    """Return the densities times their upstream gradients, added up, and the gradients of that.

    The upstream gradients are arrays, or else ``factors`` for all points: of log q(z), of
    log q(z_j), and of the KL. The densities are put into ``log_q`` and ``log_q_j`` unless these
    are empty.
    """
    (size, dim), components, wanted = z.shape, mu.shape[0], int(gradients)
    of_z, of = np.zeros((wanted * size, dim), F), np.empty((2, wanted * components, dim), F)
    inputs = _array(z), _array(mu), _array(logvar)
    options = log_own, log_other, grad, grad_j, factors
    threads = torch.get_num_threads() if size * components * dim > THREADED_ABOVE else 1
    dims = dim if marginals else 0
    add: Any = _add_all if threads == 1 else partial(_add_in_threads, threads)
    value = add(*inputs, *options, dims, log_q, log_q_j, of_z, of)
    if not gradients:
        return value, ()
    return value, tuple(map(torch.from_numpy, (of_z, *of)))


def look_at(z: Tensor, mu: Tensor, logvar: Tensor) -> tuple[float, bool]:
    """Return the largest size of a value, NaN if there is one, and whether z equals mu."""
    return _look_at(_array(z), _array(mu), _array(logvar))  # type: ignore[no-any-return]


@jit
def _look_at(z: Any, mu: Any, logvar: Any) -> Any:
    return largest((z, mu, logvar)), (z == mu).all()


def _array(tensor: Tensor) -> Any:
    return tensor.contiguous().resolve_neg().numpy()


@jit
def _add_all(
    z: Any,
    mu: Any,
    logvar: Any,
    log_own: float,
    log_other: float,
    grad: Any,
    grad_j: Any,
    factors: tuple[float, float, float],
    dims: int,
    log_q: Any,
    log_q_j: Any,
    of_z: Any,
    of: Any,
) -> Any:
    """Add up the joint, the KL and ``dims`` dimensions of the marginals; see :func:`_run`."""
    columns, parts = columns_of(mu, logvar), np.zeros((1, 2, mu.shape[1], of.shape[1]), F)
    weights, points = (log_own, log_other), (0, z.shape[0])
    value = add_joint(z, columns, weights, grad, factors[0], points, log_q, of_z, parts[0])
    value += add_kl(columns, factors[2], points, parts[0])
    value += add_marginals(
        z, columns, weights, grad_j, factors[1], (0, dims), log_q_j, of_z, parts[0]
    )
    put_rows(parts, of)
    return value


def _add_in_threads(threads: int, *arguments: Any) -> Any:
    """Do what :func:`_add_all` does with the same arguments.

    Threads share the points of the joint and of the KL, and then the dimensions of the marginals.
    """
    z, mu, logvar, log_own, log_other, grad, grad_j, factors, dims, *results = arguments
    log_q, log_q_j, of_z, of = results
    columns, parts = columns_of(mu, logvar), np.zeros((threads, 2, mu.shape[1], of.shape[1]), F)
    weights, size = (log_own, log_other), z.shape[0]

    def share_points(t: int) -> Any:
        points = t * size // threads, (t + 1) * size // threads
        value = add_joint(z, columns, weights, grad, factors[0], points, log_q, of_z, parts[t])
        return value + add_kl(columns, factors[2], points, parts[t])

    def share_dimensions(t: int) -> Any:
        some = t * dims // threads, (t + 1) * dims // threads
        return add_marginals(z, columns, weights, grad_j, factors[1], some, log_q_j, of_z, parts[t])

    # A pool of its own for each call: one that is kept would not survive a fork.
    with ThreadPoolExecutor(threads) as pool:
        values = [
            *pool.map(share_points, range(threads)),
            *pool.map(share_dimensions, range(threads)),
        ]
    put_rows(parts, of)
    return sum(values)
