"""What a batch knows of q(z): components, which of them are each point's own, and their weights.

The own components of a point are those of its item, all the rest are its others. Rows of other
processes, earlier posteriors of a bank and several rows of one item add components. With r rows
of the point's item among R rows of d + 1 items, an estimator's weights (own, other) for d others
become own / r for each row of the item, and other * d / (R - r) for each other row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tcdecomp.kernels import (
    Components,
    Kernel,
    LogSums,
    log_mixture,
    log_sum,
    log_sums,
    mean_log_mixture,
)
from tcdecomp.minibatch.estimators import log_weight
from tcdecomp.posterior import Posterior, log_normal

__all__ = ["Mixture", "mixture_of", "weigh"]


@dataclass(frozen=True)
class Mixture:
    """The components of q(z) for the points of a batch, in the order of its M rows.

    Attributes
    ----------
    components : Components
        The first M are the batch's own rows, in order. They have items where ``items`` are given.
    others : int
        How many other items than a point's own they are of.
    dataset_size : int
        N.
    kernel : str
        As in :func:`tcdecomp.decompose`.
    items : Tensor, shape (M,), optional
        Each point's item, if an item has several rows.
    own_rows : Tensor, shape (M,), optional
        How many rows each point's item has then.
    damped : Posterior, optional
        The own rows with a part of their gradient; see :func:`damped`.
    """

    components: Components
    others: int
    dataset_size: int
    kernel: Kernel
    items: Tensor | None = None
    own_rows: Tensor | None = None
    damped: Posterior | None = None

    def weighed(self, z: Tensor, own: float, other: float) -> tuple[Tensor, Tensor]:
        """Return the estimated log q(z), shape (M,), and log q(z_j), shape (M, D)."""
        weights = self._log_weights(own, other)
        if self.damped is None:
            return log_mixture(z, self.components, *weights, self.items, kernel=self.kernel)
        return self.weighed_by(z, [(own, other)])[0]

    def weighed_by(
        self, z: Tensor, weights: Sequence[tuple[float, float]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return :meth:`weighed` for several weights of the same log-sums."""
        sums = log_sums(z, self.components, self.items, kernel=self.kernel)
        if self.damped is not None:
            own, own_j = self.own_log_sums(z)
            sums = sums._replace(own=own, own_j=own_j)
        return [weigh(sums, *self._log_weights(*pair)) for pair in weights]

    @property
    def plain(self) -> bool:
        """Whether each point has one own component, and that all of its gradient."""
        return self.damped is None and self.items is None

    def mean_weighed(
        self, z: Tensor, own: float, other: float, *, joint: float, marginal: float, kl: float = 0.0
    ) -> Tensor:
        """Return ``joint * mean log q(z) + marginal * mean sum_j log q(z_j)``, a scalar.

        A plain mixture adds ``kl`` times the mean KL to the standard normal.
        """
        if self.plain:
            return mean_log_mixture(
                z,
                self.components,
                log_weight(own),
                log_weight(other),
                joint=joint,
                marginal=marginal,
                kl=kl,
                kernel=self.kernel,
            )
        log_qz, log_qz_j = self.weighed(z, own, other)
        return joint * log_qz.mean() + marginal * log_qz_j.sum(1).mean()

    def own_log_sums(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-sums of a point's own components, shapes (M,) and (M, D)."""
        rows = self.damped
        mu, logvar = self.components[:2] if rows is None else (rows.mu, rows.logvar)
        if self.items is not None:
            own = Components(mu[: len(z)], logvar[: len(z)], self.items)
            return log_sum(z, own, self.items, keep="own", kernel=self.kernel)
        own_j = log_normal(z, mu[: len(z)], logvar[: len(z)])
        return own_j.sum(1), own_j

    def _log_weights(self, own: float, other: float) -> tuple[float | Tensor, float | Tensor]:
        log_own, log_other = log_weight(own), log_weight(other)
        if self.own_rows is None:
            return log_own, log_other
        rows = self.own_rows.to(self.components.mu.dtype)
        if self.others == 0:
            return log_own - rows.log(), rows.new_full(rows.shape, -math.inf)
        rest = len(self.components.mu) - rows
        return log_own - rows.log(), log_other + math.log(self.others) - rest.log()


def mixture_of(
    rows: Posterior,
    dataset_size: int,
    kernel: Kernel,
    *,
    others: Posterior | None = None,
    held: Posterior | None = None,
    items: Tensor | None = None,
) -> Mixture:
    """Return the mixture of a batch.

    Parameters
    ----------
    rows : Posterior, shape (M, D)
        The batch, in working precision.
    dataset_size, kernel
        As in :class:`Mixture`.
    others : Posterior, optional
        Rows of other processes.
    held : Posterior, optional
        Earlier posteriors of a bank, without a graph; each of an item that no row is of.
    items : Tensor, optional
        The items of ``rows`` and ``others``, in this order.
    """
    parts = [part for part in (rows, others, held) if part is not None]
    mu, logvar = rows.mu, rows.logvar
    if len(parts) > 1:
        mu = torch.cat([part.mu for part in parts])
        logvar = torch.cat([part.logvar for part in parts])
    mixture = Mixture(Components(mu, logvar), len(mu) - 1, dataset_size, kernel)
    if items is not None:
        mixture = _told_by_items(mixture, items, len(rows.mu))
    if held is not None and len(held.mu) > 0:
        own_rows = 1 if mixture.own_rows is None else mixture.own_rows[:, None].to(mu.dtype)
        attached = len(mu) - len(held.mu) - own_rows
        mixture = replace(mixture, damped=_damped(rows, attached / (attached + len(held.mu))))
    return mixture


def _told_by_items(mixture: Mixture, items: Tensor, size: int) -> Mixture:
    """Return the mixture with components told apart by item, if an item has several rows."""
    _, numbers, counts = torch.unique(items, return_inverse=True, return_counts=True)
    distinct, every = len(counts), len(mixture.components.mu)
    if distinct == len(items):
        return mixture
    held = torch.arange(distinct, distinct + every - len(items), device=items.device)
    return replace(
        mixture,
        components=mixture.components._replace(items=torch.cat([numbers, held])),
        others=distinct + len(held) - 1,
        items=numbers[:size],
        own_rows=counts[numbers[:size]],
    )


def _damped(rows: Posterior, share: float | Tensor) -> Posterior:
    """Return the same values, of whose gradient mu and logvar get a share; z keeps its own.

    The gradient of log q(z) for the components has expectation 0 over all of them. The entries of
    a bank have no gradient. To keep the rest unbiased, the gradient of a point's own component,
    and of log q(z|n), is scaled by the share of the other components that have one.
    """
    mu, logvar = (t.detach() + share * (t - t.detach()) for t in (rows.mu, rows.logvar))
    return Posterior(rows.z, mu, logvar)


def weigh(
    sums: LogSums, log_own: float | Tensor, log_other: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Return log q(z), shape (M,), and log q(z_j), shape (M, D), from log-sums of components."""
    own_j, other_j = (
        weight[:, None] if isinstance(weight, Tensor) else weight for weight in (log_own, log_other)
    )
    return (
        torch.logaddexp(sums.own + log_own, sums.others + log_other),
        torch.logaddexp(sums.own_j + own_j, sums.others_j + other_j),
    )
