"""The readable kernel, and the reference for the others: plain broadcasting, O(M K D) memory.

With l_ikj = log N(z_ij; mu_kj, exp(logvar_kj)) and the weight w_ik of component k at point i, which
is one number for the point's own components and another for all others,

    log q(z_i)  = log sum_k w_ik exp(sum_j l_ikj)
    log q(z_ij) = log sum_k w_ik exp(l_ikj)

Everything is differentiable to any order, and works under every transform of torch.func.
"""

from __future__ import annotations

import torch
from torch import Tensor, inf

from tcdecomp.posterior import log_normal

__all__ = ["log_mixture", "log_weights"]


def log_mixture(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    log_own: Tensor,
    log_other: Tensor,
    items: Tensor | None = None,
    ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return log q(z), shape (M,), and log q(z_j), shape (M, D).

    Parameters
    ----------
    z : Tensor, shape (M, D)
        Points.
    mu, logvar : Tensor, shape (K, D)
        Components.
    log_own, log_other : Tensor, shape (M,)
        Log-weights of each point's own components and of its others.
    items, ids : Tensor, shapes (M,) and (K,), or both None
        The item of each point and of each component. None: component i is point i's own.
    """
    marginals = log_normal(z[:, None, :], mu, logvar)
    weights = log_weights(log_own, log_other, len(mu), items, ids)
    # Masked: a component of no weight gets no gradient, not even where it is the only one.
    without = weights == -inf
    joint = (marginals.sum(-1) + weights).masked_fill(without, -inf)
    marginals = (marginals + weights[..., None]).masked_fill(without[..., None], -inf)
    return joint.logsumexp(1), marginals.logsumexp(1)


def log_weights(
    log_own: Tensor,
    log_other: Tensor,
    components: int,
    items: Tensor | None = None,
    ids: Tensor | None = None,
    start: int = 0,
) -> Tensor:
    """Return the log-weight of each component at each point, shape (M, K).

    Without items, the own component of the first point is number ``start``.
    """
    if items is None or ids is None:
        items = torch.arange(start, start + len(log_own), device=log_own.device)
        ids = torch.arange(components, device=log_own.device)
    return torch.where(items[:, None] == ids, log_own[:, None], log_other[:, None])
