r"""Lower and upper values for the three terms, from the batches that estimate them.

The inclusive weights give a mutual information that is too small and a dimension-wise KL that is
too large, MSS the other way round, both in expectation: mutual information is concave and the KL
convex in what the batch makes of q(z), and MSS is unbiased for q(z) (Jensen). With the closed-form
KL the two bracket the total correlation, too:

    MI_incl <= MI <= MI_mss,  DW_mss <= DWKL <= DW_incl,
    KL - MI_mss - DW_incl <= TC <= KL - MI_incl - DW_mss.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import SupportsIndex

import torch
from torch import Tensor

from tcdecomp.kernels import Kernel
from tcdecomp.minibatch.batch import KL, Batch, check_options
from tcdecomp.minibatch.estimators import inclusive, mss
from tcdecomp.priors import Prior, check_prior
from tcdecomp.terms import Terms

__all__ = ["Bracket", "Interval"]

WIDENING = 2  # standard errors
MARGIN = 0.1  # nats below log M, the largest inclusive mutual information that a batch can show
_NAMES = ("index_code_mi", "total_correlation", "dimension_wise_kl")


@dataclass(frozen=True)
class Interval:
    """A term's value, and the bracket about it, in nats.

    Attributes
    ----------
    value : float
        Mean of the MSS estimates.
    low, high : float
        Means of the lower and the upper values, 2 standard errors further out. Those of a single
        batch have no standard error, and need not lie in this order.
    """

    value: float
    low: float
    high: float


class Bracket:
    """Brackets the three terms, over batches, at the price of their MSS estimates alone.

    It is a statement about expectations. One batch's values are estimates, with noise of their own:
    give it the batches of a pass, with the weights of the model unchanged, and it shows their
    means, widened by two standard errors: of normal values they cover 95 % where the batches are
    many, 92 % from 10 and 70 % from 2 (Student's t).

    Parameters
    ----------
    prior, kl, kernel : optional
        As in :func:`tcdecomp.decompose`. With ``kl="sampled"`` the noise of the samples' KL is
        in the bracket of the total correlation.

    Raises
    ------
    TypeError, ValueError
        If an option is not of its type, or unknown.

    Warns
    -----
    UserWarning
        Once, when a batch is too small to say anything: its inclusive mutual information comes
        within 0.1 nats of log M, which is the largest that M items can show.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import Bracket
    >>> g = torch.Generator().manual_seed(0)
    >>> bracket = Bracket()
    >>> for _ in range(20):
    ...     mu, logvar = torch.randn(256, 2, generator=g), torch.full((256, 2), -3.0)
    ...     z = mu + (0.5 * logvar).exp() * torch.randn(256, 2, generator=g)
    ...     terms = bracket.update(z, mu, logvar, 10_000)
    >>> tc = bracket.interval("total_correlation")
    >>> tc.low < 0 < tc.high
    True
    """

    def __init__(self, *, prior: Prior = None, kl: KL = "closed", kernel: Kernel = "auto") -> None:
        check_options(kl, "mean", kernel)
        check_prior(prior)
        self._options = {"prior": prior, "kl": kl, "kernel": kernel}
        self._count, self._rows = 0, 0
        # Sums over batches of value, lower and upper of each term, and of their squares.
        self._sums = torch.zeros(2, len(_NAMES), 3, dtype=torch.float64)
        self._warned = False

    @property
    def num_batches(self) -> int:
        """How many batches it has seen."""
        return self._count

    @torch.no_grad()
    def update(self, z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: SupportsIndex) -> Terms:
        """Add a batch, and return its terms as ``decompose`` does, without a graph.

        Parameters and errors are those of :func:`tcdecomp.decompose`.
        """
        batch = Batch(
            z,
            mu,
            logvar,
            dataset_size,
            estimator=mss,
            reduction="mean",
            validate=True,
            **self._options,  # type: ignore[arg-type]
        )
        upper, lower = batch.terms_by(mss, inclusive)
        if len(mu) < batch.dataset_size:  # else it is exact
            self._warn_of_small_batch(lower.index_code_mi.item(), len(mu))
        values = _endpoints(upper, lower)
        self._count, self._rows = self._count + 1, self._rows + len(mu)
        self._sums += torch.stack([values, values.square()])
        return upper

    def interval(self, term: str) -> Interval:
        """Return the value and the bracket of a term.

        Parameters
        ----------
        term : {"index_code_mi", "total_correlation", "dimension_wise_kl"}
            Its name in :class:`tcdecomp.Terms`.

        Raises
        ------
        ValueError
            If there is no such term, or no batch yet.
        """
        if term not in _NAMES:
            names = ", ".join(map(repr, _NAMES))
            raise ValueError(f"term must be one of {names}; got {term!r}")
        if self._count == 0:
            raise ValueError("update must have been called before an interval is asked for")
        mean, square = self._sums[:, _NAMES.index(term)] / self._count
        error = torch.zeros(3, dtype=torch.float64)
        if self._count > 1:
            error = ((square - mean.square()).clamp(min=0) / (self._count - 1)).sqrt()
        value, low, high = (mean + WIDENING * error * torch.tensor([0.0, -1.0, 1.0])).tolist()
        return Interval(value, low, high)

    def seen(self) -> Bracket:
        """Return what it has seen without its options: for another process, say, to merge."""
        bare = Bracket()
        bare.merge(self)
        return bare

    def merge(self, other: Bracket) -> None:
        """Add what another has seen, as of another process or another part of the data."""
        self._count, self._rows = self._count + other._count, self._rows + other._rows
        self._sums = self._sums + other._sums

    def __str__(self) -> str:
        if self._count == 0:
            return "no batches yet"
        lines = [f"{name:20}{_written(self.interval(name), self._count)}" for name in _NAMES]
        batches = f"{self._count} batches" if self._count > 1 else "an estimate from one batch"
        return "\n".join([f"nats, {batches} of {self._rows / self._count:.4g} items", *lines])

    def _warn_of_small_batch(self, information: float, size: int) -> None:
        if not self._warned and information > math.log(size) - MARGIN:
            self._warned = True
            warnings.warn(
                f"a batch of {size} items is too small to tell the mutual information: it comes to "
                f"within {MARGIN} nats of log {size} = {math.log(size):.2f}, the most that they "
                "can show. Take larger batches, or decompose_dataset",
                stacklevel=4,
            )


def _endpoints(mss_terms: Terms, inclusive_terms: Terms) -> Tensor:
    """Return value, lower and upper of each term, shape (3, 3), float64 on the CPU."""
    kl = mss_terms.sampled_kl if mss_terms.kl is None else mss_terms.kl
    mi_low, mi_high = inclusive_terms.index_code_mi, mss_terms.index_code_mi
    dw_low, dw_high = mss_terms.dimension_wise_kl, inclusive_terms.dimension_wise_kl
    rows = (
        (mss_terms.index_code_mi, mi_low, mi_high),
        (mss_terms.total_correlation, kl - mi_high - dw_high, kl - mi_low - dw_low),
        (mss_terms.dimension_wise_kl, dw_low, dw_high),
    )
    return torch.stack([torch.stack(row) for row in rows]).cpu().double()


def _written(interval: Interval, count: int) -> str:
    if count == 1:
        return f"{interval.value:.2f}"
    return f"{interval.value:.2f} in [{interval.low:.2f}, {interval.high:.2f}]"
