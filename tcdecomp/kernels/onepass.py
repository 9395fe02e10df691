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

from torch import Tensor

from tcdecomp.kernels.blocked import Gradients, tiles

__all__ = ["mean_log_mixture"]


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
    gradients = Gradients.like(z, mu)
    factors = z.new_full((dim + 1, 1, 1), marginal / size)
    factors[-1] = joint / size
    value = z.new_zeros(())
    for tile in tiles(z, mu, logvar, longest=size):
        tile.fill()
        tile.logs.diagonal(tile.rows.start, 1, 2).add_(log_own - log_other)
        value += (tile.log_sum() * factors[..., 0]).sum()
        tile.weights.mul_(factors)
        gradients.add(tile)
    return value + (joint + dim * marginal) * log_other, *gradients.finish()
