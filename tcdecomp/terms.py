"""The three terms of a batch, and what a loss makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

__all__ = ["Estimate", "Terms"]


class Estimate(NamedTuple):
    """A value in nats, and its standard error: 0 where the value is exact.

    Examples
    --------
    >>> from tcdecomp.terms import Estimate
    >>> print(Estimate(0.16591, 0.00342))
    0.1659 +- 0.0034
    """

    value: float
    standard_error: float

    def __str__(self) -> str:
        """Return "value +- standard error" with four decimals."""
        return f"{self.value:.4f} +- {self.standard_error:.4f}"


class Terms(NamedTuple):
    """The three terms of a batch, and its KL, in nats (per item with reduction "mean").

    They are differences of four mean log-densities (Chen et al. 2018, eq. 2)::

        MI   = log q(z|n) - log q(z)
        TC   = log q(z) - sum_j log q(z_j)
        DWKL = sum_j log q(z_j) - log p(z)

    The three come from the same samples, so that under every estimator they sum to the
    *sampled* KL, the mean of log q(z|n) - log p(z).

    Attributes
    ----------
    index_code_mi : Tensor, shape () or (M,)
        Index-code mutual information, KL(q(z, n) || q(z) p(n)).
    total_correlation : Tensor, shape () or (M,)
        Total correlation, KL(q(z) || prod_j q(z_j)).
    dimension_wise_kl : Tensor, shape () or (M,)
        Dimension-wise KL, sum_j KL(q(z_j) || p(z_j)).
    kl : Tensor, shape () or (M,), or None
        KL(q(z|n) || p(z)) in closed form; None with ``kl="sampled"``.
    """

    index_code_mi: Tensor
    total_correlation: Tensor
    dimension_wise_kl: Tensor
    kl: Tensor | None

    @classmethod
    def from_log_densities(
        cls,
        log_qz_n: Tensor,
        log_qz: Tensor,
        log_product: Tensor,
        log_pz: Tensor,
        kl: Tensor | None,
    ) -> Terms:
        """Return the terms as differences of log q(z|n), log q(z), sum_j log q(z_j) and log p(z).

        Chen et al. 2018, eq. 2. All are of one shape, as the terms then are.
        """
        return cls(log_qz_n - log_qz, log_qz - log_product, log_product - log_pz, kl)

    @property
    def sampled_kl(self) -> Tensor:
        """The sum of the three terms, which is the KL as the same samples give it."""
        return self.index_code_mi + self.aggregate_kl

    @property
    def aggregate_kl(self) -> Tensor:
        """KL(q(z) || p(z)) = TC + dimension-wise KL (ELBO surgery, Hoffman & Johnson 2016)."""
        return self.total_correlation + self.dimension_wise_kl

    def detach(self) -> Terms:
        """Return the same values cut from the graph."""
        return self.map(Tensor.detach)

    def map(self, function: Callable[[Tensor], Tensor]) -> Terms:
        """Return the terms that ``function`` makes of these; a ``kl`` of None stays None."""
        mi, tc, dimension_wise_kl = map(function, self[:3])
        return Terms(mi, tc, dimension_wise_kl, None if self.kl is None else function(self.kl))

    def weigh(self, alpha: float, beta: float, gamma: float) -> Tensor:
        """Return gamma * KL + (alpha - gamma) * MI + (beta - gamma) * TC, in the terms' shape."""
        loss = gamma * (self.sampled_kl if self.kl is None else self.kl)
        if alpha != gamma:  # keeps the unused term's graph out of the backward
            loss = loss + (alpha - gamma) * self.index_code_mi
        if beta != gamma:
            loss = loss + (beta - gamma) * self.total_correlation
        return loss
