"""The readable kernel, and the reference for the others: plain broadcasting, O(M K D) memory.

With l_ikj = log N(z_ij; mu_kj, var_kj), for each point i,

    own_i     = log sum_{k: item of k  = item of i} exp(sum_j l_ikj)
    others_i  = log sum_{k: item of k != item of i} exp(sum_j l_ikj)

and own_ij, others_ij the same sums of exp(l_ikj), one dimension at a time.
"""

from __future__ import annotations

from torch import Tensor, inf

from tcdecomp.components import Components
from tcdecomp.kernels.contract import LogSums
from tcdecomp.posterior import log_normal

__all__ = ["log_sums"]


def log_sums(z: Tensor, items: Tensor, components: Components) -> LogSums:
    """Return the log-sums of :class:`LogSums`; any device, any order of derivative."""
    marginals = log_normal(z[:, None, :], components.mu, components.logvar)
    joint = marginals.sum(-1)
    is_own = items[:, None] == components.items
    is_own_j = is_own[..., None]
    return LogSums(
        own=joint.masked_fill(~is_own, -inf).logsumexp(1),
        others=joint.masked_fill(is_own, -inf).logsumexp(1),
        own_j=marginals.masked_fill(~is_own_j, -inf).logsumexp(1),
        others_j=marginals.masked_fill(is_own_j, -inf).logsumexp(1),
    )
