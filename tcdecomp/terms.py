"""The three terms, what a loss makes of them, and a value with its standard error."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tcdecomp._text import decimal

__all__ = ["TERM_LABELS", "Estimate", "Terms", "zero_of"]

# How tables and pictures name the KL and its terms, in their order.
TERM_LABELS = {
    "kl": "KL",
    "index_code_mi": "index-code MI",
    "total_correlation": "total correlation",
    "dimension_wise_kl": "dimension-wise KL",
}


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
        return f"{decimal(self.value)} +- {decimal(self.standard_error)}"


class Terms(NamedTuple):
    """The three terms and the KL, in nats (per item with reduction "mean").

    The terms are differences of four mean log-densities (Chen et al. 2018, eq. 2)::

        MI   = log q(z|n) - log q(z)
        TC   = log q(z) - sum_j log q(z_j)
        DWKL = sum_j log q(z_j) - log p(z)

    All three come from the same samples. Under every estimator they therefore sum to the
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

        All four have one shape, and the terms have it too.
        """
        return cls(log_qz_n - log_qz, log_qz - log_product, log_product - log_pz, kl)

    @property
    def sampled_kl(self) -> Tensor:
        """The KL that the samples give, which is the sum of the three terms."""
        return self.index_code_mi + self.aggregate_kl

    @property
    def aggregate_kl(self) -> Tensor:
        """KL(q(z) || p(z)) = TC + dimension-wise KL (ELBO surgery, Hoffman & Johnson 2016)."""
        return self.total_correlation + self.dimension_wise_kl

    def detach(self) -> Terms:
        """Return the same values cut from the graph."""
        return self.map(Tensor.detach)

    def to_dict(self) -> dict[str, float | list[float] | None]:
        """Return plain numbers by name, lists for terms of shape (M,); waits for an accelerator."""
        return {
            name: None if term is None else term.detach().cpu().tolist()
            for name, term in zip(self._fields, self, strict=True)
        }

    def __str__(self) -> str:
        """Return a table in nats: of terms of shape (M,), the means."""
        rows = (
            f"{name:20}{'-' if term is None else decimal(term.detach().mean().item()):>10}"
            for name, term in zip(self._fields, self, strict=True)
        )
        return "\n".join([f"{'':20}{'nats':>10}", *rows])

    def map(self, function: Callable[[Tensor], Tensor]) -> Terms:
        """Return the terms with ``function`` applied to each; a ``kl`` of None stays None."""
        mi, tc, dimension_wise_kl, kl = self
        kl = None if kl is None else function(kl)
        return Terms(function(mi), function(tc), function(dimension_wise_kl), kl)

    def weigh(self, alpha: float, beta: float, gamma: float) -> Tensor:
        """Return gamma * KL + (alpha - gamma) * MI + (beta - gamma) * TC, in the terms' shape."""
        kl = self.sampled_kl if self.kl is None else self.kl
        # A term of weight 0 stays out of the backward, and may overflow.
        weighted = [
            weight * term
            for weight, term in (
                (gamma, kl),
                (alpha - gamma, self.index_code_mi),
                (beta - gamma, self.total_correlation),
            )
            if weight != 0
        ]
        return sum(weighted[1:], weighted[0]) if weighted else zero_of(kl)


def zero_of(values: Tensor) -> Tensor:
    """Return zeros in the place of values, with a gradient of 0 even where the values overflow."""
    return values.masked_fill(torch.ones((), dtype=torch.bool, device=values.device), 0)
