"""All pairs in linear memory: plain torch, any device and float dtype.

With q_ikj = (z_ij - mu_kj) / sd_kj, l_ikj = -(q_ikj^2 + logvar_kj + log 2 pi) / 2 and the weights
w_ik of :mod:`tcdecomp.kernels.dense`,

    log q(z_i)  = log sum_k w_ik exp(sum_j l_ikj)
    log q(z_ij) = log sum_k w_ik exp(l_ikj)

From the gradients g_i and g_ij of these, with each component's share of its sums,

    W_ikj       = g_i w_ik exp(sum_j l_ikj) / q(z_i) + g_ij w_ik exp(l_ikj) / q(z_ij)
    dz_ij       = -sum_k W_ikj q_ikj / sd_kj
    dmu_kj      = sum_i W_ikj q_ikj / sd_kj
    dlogvar_kj  = sum_i W_ikj (q_ikj^2 - 1) / 2

A block holds a few points and all components, laid out (dimensions, points, components), with the
joint as one more dimension, the last. It is small enough to stay in cache where possible.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, inf

from tcdecomp.kernels.dense import log_weights
from tcdecomp.posterior import LOG_2PI

__all__ = ["CUT", "log_mixture", "log_mixture_backward", "mean_log_mixture", "softmax", "with_kl"]

# Elements of a block on the CPU, where it should fit in a core's cache, and elsewhere.
BLOCK_ON_CPU = 2**17
BLOCK_ELSEWHERE = 2**22

# A weight below e^-60 of its row's largest cannot count. From e^-87 on it is subnormal in float32,
# with which processors are slow.
CUT = -60.0


def log_mixture(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    log_own: Tensor,
    log_other: Tensor,
    items: Tensor | None = None,
    ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return log q(z), shape (M,), and log q(z_j), shape (M, D); see :mod:`.dense`."""
    blocks = _blocks(z, mu, logvar, log_own, log_other, items, ids)
    sums = torch.cat([softmax(block.logs)[0] for block in blocks], 1)
    return sums[-1].clone(), sums[:-1].T.contiguous()


def log_mixture_backward(
    grad: Tensor,
    grad_j: Tensor,
    joint: Tensor,
    marginals: Tensor,
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    log_own: Tensor,
    log_other: Tensor,
    items: Tensor | None = None,
    ids: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of z, mu and logvar from those of :func:`log_mixture`'s results."""
    upstream = torch.cat([grad_j.T, grad[None]])[..., None]
    sums = torch.cat([marginals.T, joint[None]])[..., None]
    # A sum without components has no gradient: -inf - 0 gives its components weights of 0.
    sums.masked_fill_(sums == -inf, 0)
    gradients = _Gradients.zeros(z, mu)
    for block in _blocks(z, mu, logvar, log_own, log_other, items, ids):
        weights = block.logs.sub_(sums[:, block.rows]).clamp_min_(CUT).exp_()
        torch.threshold_(weights, math.exp(CUT + 1e-3), 0.0)
        gradients.add(block, weights.mul_(upstream[:, block.rows]))
    return gradients.finish()


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
    """Return a loss made of means over points, a scalar, and its gradients for the three inputs.

    The loss is ``joint * log q(z) + marginal * sum_j log q(z_j) + kl * KL(q(z|n) || N(0, I))``. The
    upstream factors are known before the backward. So a block gives its share of the gradient
    while its exponentials are there: half the exponentials of a forward and a backward.
    """
    size, dim = z.shape
    factors = z.new_full((dim + 1,), marginal / size)
    factors[-1] = joint / size
    sums, value = _Gradients.zeros(z, mu), z.new_zeros(())
    for block in _blocks(z, mu, logvar, log_own - log_other, None):
        log_sums, shares = softmax(block.logs)
        value = value + factors @ log_sums.sum(1)
        if gradients:
            sums.add(block, shares.mul_(factors[:, None, None]))
    value = value + (joint + dim * marginal) * log_other
    return with_kl(value, mu, logvar, kl, size, sums.finish() if gradients else ())


def with_kl(
    value: Tensor, mu: Tensor, logvar: Tensor, kl: float, size: int, of: tuple[Tensor, ...] = ()
) -> tuple[Tensor, ...]:
    """Add the mean KL of the first components to a value and to its gradients, if there are any."""
    if kl == 0:
        return value, *of
    mu, logvar, factor = mu[:size], logvar[:size], kl / size
    if of:
        of[1][:size].add_(mu, alpha=factor)
        of[2][:size].add_(logvar.expm1(), alpha=0.5 * factor)
    return value + 0.5 * factor * (mu.square() + logvar.expm1() - logvar).sum(), *of


def softmax(logs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-sum over the last axis, and each weight's share of it; ``logs`` are used up.

    Weights below the cut are 0. torch's softmax is faster than its exp, and the largest share
    tells the normaliser.
    """
    top = logs.amax(-1, keepdim=True)
    shares = torch.threshold_(logs.sub_(top), CUT, -inf).softmax(-1)
    log_sum = torch.where(top == -inf, top, top - shares.amax(-1, keepdim=True).log_())
    return log_sum[..., 0], shares


class _Block(NamedTuple):
    """Some points against all components."""

    rows: slice
    inv_std: Tensor  # (D, 1, K)
    residuals: Tensor  # (D, B, K): q
    logs: Tensor  # (D + 1, B, K): weighted l, and its sum over D


def _blocks(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    log_own: float | Tensor,
    log_other: Tensor | None,
    items: Tensor | None = None,
    ids: Tensor | None = None,
) -> Iterator[_Block]:
    """Yield the blocks of points. Without ``log_other``, only own components have a weight."""
    (size, dim), components = z.shape, len(mu)
    elements = BLOCK_ON_CPU if z.device.type == "cpu" else BLOCK_ELSEWHERE
    points = max(1, min(size, elements // (dim * components)))
    z, mu, half = z.T[..., None], mu.T[:, None], -0.5 * logvar.T[:, None]
    z, mu, half = z.contiguous(), mu.contiguous(), half.contiguous()
    inv_std = half.exp()
    log_scale = half - 0.5 * LOG_2PI
    for start in range(0, size, points):
        rows = slice(start, min(start + points, size))
        residuals = (z[:, rows] - mu).mul_(inv_std)
        logs = residuals.new_empty(dim + 1, *residuals.shape[1:])
        torch.addcmul(log_scale, residuals, residuals, value=-0.5, out=logs[:-1])
        torch.sum(logs[:-1], 0, out=logs[-1])
        if log_other is None or isinstance(log_own, float):
            logs.diagonal(start, 1, 2).add_(log_own)
        else:
            given = None if items is None else items[rows]
            weights = log_weights(log_own[rows], log_other[rows], components, given, ids, start)
            logs.add_(weights).masked_fill_(weights == -inf, -inf)
        yield _Block(rows, inv_std, residuals, logs)


class _Gradients(NamedTuple):
    """Sums over the blocks, from which the gradients are made."""

    z: list[Tensor]  # (D, B) each
    mu: Tensor  # (D, K)
    logvar: Tensor  # (D, K), twice the gradient

    @classmethod
    def zeros(cls, z: Tensor, mu: Tensor) -> _Gradients:
        return cls([], *z.new_zeros(2, *mu.T.shape))

    def add(self, block: _Block, weights: Tensor) -> None:
        """Add a block with the weights W of its marginals and its joint, which are used up."""
        weights = weights[:-1].add_(weights[-1])
        slopes = weights * block.residuals
        self.logvar.add_(block.residuals.mul_(slopes).sum(1)).sub_(weights.sum(1))
        slopes *= block.inv_std
        self.mu.add_(slopes.sum(1))
        self.z.append(slopes.sum(2).neg_())

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of z, mu and logvar, shapes (M, D), (K, D) and (K, D)."""
        of_z = torch.cat(self.z, 1)
        return of_z.T.contiguous(), self.mu.T.contiguous(), 0.5 * self.logvar.T.contiguous()
