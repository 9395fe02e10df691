"""Mixtures in float32 on the CPU, compiled by numba: the joint by pairs, the marginals by grids.

Threads share the points of the joint, and the dimensions of the marginals.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tcdecomp.kernels.compiled.arithmetic import F
from tcdecomp.kernels.compiled.joint import add_joint
from tcdecomp.kernels.compiled.marginals import add_marginals

__all__ = ["log_mixture", "log_mixture_backward", "mean_log_mixture"]

# Densities of the joint above which a second thread is worth its start.
THREADED_ABOVE = 2**20
NO_VECTOR, NO_MATRIX = np.empty(0, F), np.empty((0, 0), F)


def log_mixture(
    z: Tensor, mu: Tensor, logvar: Tensor, log_own: Tensor, log_other: Tensor, *_: None
) -> tuple[Tensor, Tensor]:
    """Return log q(z), shape (M,), and log q(z_j), shape (M, D); see :mod:`tcdecomp.kernels.dense`.

    All points have the same weights, and there are no items.
    """
    log_q, log_q_j = z.new_empty(z.shape[0]), z.new_empty(z.shape)
    weights = log_own[0].item(), log_other[0].item()
    _run(z, mu, logvar, *weights, log_q=log_q.numpy(), log_q_j=log_q_j.numpy())
    return log_q, log_q_j


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
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of z, mu and logvar from those of :func:`log_mixture`'s results."""
    upstream = [t.contiguous().resolve_neg().numpy() for t in (grad, grad_j)]
    weights = log_own[0].item(), log_other[0].item()
    return _run(z, mu, logvar, *weights, grad=upstream[0], grad_j=upstream[1])[1]


def mean_log_mixture(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    log_own: float,
    log_other: float,
    joint: float,
    marginal: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the value, a scalar, and its gradients for z, mu and logvar."""
    factors = joint / z.shape[0], marginal / z.shape[0]
    value, gradients = _run(z, mu, logvar, log_own, log_other, factors=factors)
    return z.new_tensor(value), *gradients


def _run(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    log_own: float,
    log_other: float,
    *,
    log_q: Any = NO_VECTOR,
    log_q_j: Any = NO_MATRIX,
    grad: Any = NO_VECTOR,
    grad_j: Any = NO_MATRIX,
    factors: tuple[float, float] = (0.0, 0.0),
) -> tuple[float, tuple[Tensor, Tensor, Tensor]]:
    """Return sum_i grad_i log_q_i + sum_ij grad_ij log_q_ij, and its gradients.

    The upstream gradients are arrays, or else ``factors`` for all points. Where the densities are
    to be put into ``log_q`` and ``log_q_j`` there are no gradients.
    """
    (size, dim), components = z.shape, mu.shape[0]
    threads = torch.get_num_threads() if size * components * dim > THREADED_ABOVE else 1
    inputs = [t.contiguous().resolve_neg().numpy() for t in (z, mu, logvar)]
    of_z = np.zeros((min(threads, 2), size, dim), F)
    of_components = np.zeros((threads, 2, dim, components), F)
    trained = len(log_q) == 0

    def share(t: int) -> Any:
        rows, dims = ((t * n // threads, (t + 1) * n // threads) for n in (size, dim))
        mixture, of = (*inputs, log_own, log_other), of_components[t]
        joint = add_joint(*mixture, grad, factors[0], trained, *rows, log_q, of_z[0], of)
        return joint + add_marginals(
            *mixture, grad_j, factors[1], trained, *dims, log_q_j, of_z[-1], of
        )

    value = share(0) if threads == 1 else _in_threads(share, threads)
    for t in range(1, threads):
        of_components[0] += of_components[t]
    if threads > 1:
        of_z[0] += of_z[1]
    of_mu, of_logvar = (torch.from_numpy(of).T.contiguous() for of in of_components[0])
    return value, (torch.from_numpy(of_z[0]), of_mu, of_logvar)


def _in_threads(share: Any, threads: int) -> Any:
    # A pool of its own for each call: one that is kept would not survive a fork.
    with ThreadPoolExecutor(threads) as pool:
        rest = [pool.submit(share, t) for t in range(1, threads)]
        return sum((future.result() for future in rest), share(0))
