"""The training loss's kernel: value and gradient of a batch's mean log-densities in one pass.

With a mean-reduced loss the upstream weights of log q(z) and of log q(z_j) are known before the
backward, so that a tile with all components of its points gives its share of the gradient while
its exponentials are still in cache: half the exponentials of a forward and a backward. For the
batch's own M posteriors as components, and weights w_own and w_other,

    log q(z_i)  = log sum_k w_ik exp(sum_j l_ikj)
    log q(z_ij) = log sum_k w_ik exp(l_ikj)
    value       = joint * mean_i log q(z_i) + marginal * mean_i sum_j log q(z_ij)

with l and the gradients as in :mod:`tcdecomp.kernels.blocked`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tcdecomp.kernels.blocked import Gradients, softmax, tiles, transposed
from tcdecomp.posterior import LOG_2PI

__all__ = ["mean_log_mixture"]

# Densities of a batch that is not cut into tiles.
AT_ONCE = 2**16


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
    factors = z.new_full((dim + 1,), marginal / size)
    factors[-1] = joint / size
    compute = _at_once if size * size * dim <= AT_ONCE else _in_tiles
    value, of_z, of_mu, of_logvar = compute(z, mu, logvar, log_own - log_other, factors)
    return value + (joint + dim * marginal) * log_other, of_z, of_mu, of_logvar


def _in_tiles(
    z: Tensor, mu: Tensor, logvar: Tensor, log_ratio: float, factors: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gradients = Gradients.like(z, mu)
    value = z.new_zeros(())
    for tile in tiles(z, mu, logvar, whole_rows=True):
        tile.fill()
        tile.logs.diagonal(tile.rows.start, 1, 2).add_(log_ratio)
        value += factors @ tile.log_sum().sum(1)
        tile.weights.mul_(factors[:, None, None])
        gradients.add(tile)
    return value, *gradients.finish()


def _at_once(
    z: Tensor, mu: Tensor, logvar: Tensor, log_ratio: float, factors: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Do the same in the fewest operations: they are what a small batch's time goes to."""
    z, mu, logvar = torch.stack([z, mu, logvar]).mT.contiguous()
    half = -0.5 * logvar
    inv_std = half.exp()[:, None]
    residuals = (z[..., None] - mu[:, None]).mul_(inv_std)
    logs = residuals.new_empty(len(factors), *residuals.shape[1:])
    torch.addcmul(half[:, None] - 0.5 * LOG_2PI, residuals, residuals, value=-0.5, out=logs[:-1])
    torch.sum(logs[:-1], 0, out=logs[-1])
    logs.diagonal(0, 1, 2).add_(log_ratio)
    shares = logs
    value = factors @ softmax(logs, out=shares).sum(1)
    shares.mul_(factors[:, None, None])
    weights = shares[:-1].add_(shares[-1])
    slopes = weights * residuals
    of_logvar = (slopes * residuals).sum(1).sub_(weights.sum(1)).mul_(0.5)
    slopes *= inv_std
    of_z, of_mu = slopes.sum(2).neg_(), slopes.sum(1)
    return value, transposed(of_z), transposed(of_mu), transposed(of_logvar)
