"""The readable kernel, and the reference for the others: plain broadcasting, O(M K D) memory.

With l_ikj = log N(z_ij; mu_kj, exp(logvar_kj)), over the components k that are kept for point i,

    joint_i      = log sum_k exp(sum_j l_ikj)
    marginals_ij = log sum_k exp(l_ikj)

Everything is differentiable to any order, and works under every transform of torch.func.
"""

from __future__ import annotations

import torch
from torch import Tensor, inf

from tcdecomp.kernels.contract import Keep
from tcdecomp.posterior import log_normal

__all__ = ["log_sum"]


def log_sum(
    z: Tensor,
    items: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    component_items: Tensor | None,
    keep: Keep,
) -> tuple[Tensor, Tensor]:
    """Return the joint log-sums, shape (M,), and the marginal ones, shape (M, D)."""
    marginals = log_normal(z[:, None, :], mu, logvar)
    joint = marginals.sum(-1)
    if keep != "all":
        if items is None or component_items is None:
            items = torch.arange(z.shape[0], device=z.device)
            component_items = torch.arange(mu.shape[0], device=z.device)
        is_own = items[:, None] == component_items
        dropped = is_own if keep == "others" else ~is_own
        joint = joint.masked_fill(dropped, -inf)
        marginals = marginals.masked_fill(dropped[..., None], -inf)
    return joint.logsumexp(1), marginals.logsumexp(1)
