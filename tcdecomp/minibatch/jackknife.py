r"""The delete-one jackknife of MSS, which corrects the bias of log q(z).

MSS is unbiased for q(z). By Jensen's inequality its log q(z) is too small on average. Let m be the
number of others, n = N - 1 the number of items that they stand for, and::

    L    = log( e^own / N + (N - 1) / (N m) sum_k e^l_k ),
    L_-k = the same without the other k, the rest weighted (N - 1) / (N (m - 1)).

For m of n drawn without replacement the bias of L is of the order 1/m - 1/n. The jackknife removes
it::

    log q_J = a L - (a - 1) mean_k L_-k,    a = m (n - m + 1) / n.

At m = n it is L, which is then exact. (Quenouille 1956; with n infinite a is m, the plain form.)

To leave out by subtraction loses all digits where one other outweighs the rest. So each row's
largest other is left out exactly. None of the rest weighs more than half of the sum, and log1p of
the negative share is accurate for those.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, inf
from torch.utils.checkpoint import checkpoint

from tcdecomp.posterior import log_normal

if TYPE_CHECKING:
    from tcdecomp.minibatch.mixture import Mixture

__all__ = ["jackknifed", "log_densities"]

TILE = 2**20  # elements of an intermediate tensor


def log_densities(mixture: Mixture, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the jackknifed log q(z), shape (M,), and log q(z_j), shape (M, D), in nats.

    Memory is linear in the number of components: rows are taken a few at a time, in the backward
    again. With the kernel "dense" all rows are taken at once, which every transform of torch.func
    allows.

    Parameters
    ----------
    mixture : Mixture
        With at least 3 components, or 1 where N = 1, each of another item.
    z : Tensor, shape (M, D)
        The points, float32 or float64.
    """
    mu, logvar, _ = mixture.components
    own_sum, own = mixture.own_log_sums(z)
    own = torch.cat([own, own_sum[:, None]], 1)
    size = mixture.dataset_size
    rows = max(1, TILE // (mu.shape[0] * (mu.shape[1] + 1)))
    if mixture.kernel == "dense" or rows >= len(own):
        densities = _rows(z, own, mu, logvar, 0, size)
        return densities[:, -1], densities[:, :-1]
    parts = zip(torch.split(z, rows), torch.split(own, rows), strict=True)
    options: Any = {"use_reentrant": False, "preserve_rng_state": False}
    densities = torch.cat(
        [
            checkpoint(_rows, *part, mu, logvar, index * rows, size, **options)
            for index, part in enumerate(parts)
        ]
    )
    return densities[:, -1], densities[:, :-1]


def _rows(
    z: Tensor, own: Tensor, mu: Tensor, logvar: Tensor, start: int, dataset_size: int
) -> Tensor:
    """Return the log-densities of some points, shape (B, D + 1), the joint last."""
    logs = log_normal(z[:, None, :], mu, logvar)
    logs = torch.cat([logs, logs.sum(-1, keepdim=True)], -1)  # (B, K, D + 1)
    index = torch.arange(start, start + len(z), device=z.device)
    is_own = torch.arange(mu.shape[0], device=z.device) == index[:, None]
    return jackknifed(own, logs.masked_fill(is_own[..., None], -inf), dataset_size)


def jackknifed(own: Tensor, logs: Tensor, dataset_size: int) -> Tensor:
    """Return log q_J of shape (B, D + 1) from own and others' log-densities, own's place -inf."""
    others, population = logs.shape[1] - 1, dataset_size - 1
    log_own = own - math.log(dataset_size)
    if others == population:  # all items are there: exact
        return torch.logaddexp(log_own, logs.logsumexp(1) - math.log(dataset_size))
    factor = others * (population - others + 1) / population
    log_weight = math.log(population / (dataset_size * others))
    log_weight_less_one = math.log(population / (dataset_size * (others - 1)))

    top = logs.argmax(1, keepdim=True)
    largest = logs.gather(1, top).squeeze(1)
    rest = logs.scatter(1, top, -inf)
    without_largest = rest.logsumexp(1)
    log_others = torch.logaddexp(largest, without_largest)
    full = torch.logaddexp(log_own, log_others + log_weight)

    # Relative to the full estimate, since m times it and the sum of m others nearly cancel. With
    # one other left out, the sum over the rest is weighted anew.
    raised = torch.log1p((log_others + log_weight - full).exp() / (others - 1))
    share = (rest + (log_weight_less_one - full - raised)[:, None]).exp()
    change = raised * (others - 1) + torch.log1p(-share).sum(1)
    change = change + torch.logaddexp(log_own, without_largest + log_weight_less_one) - full
    return full - (factor - 1) / others * change
