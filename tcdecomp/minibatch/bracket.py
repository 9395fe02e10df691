r"""Lower and upper values for the three terms, from the batches that estimate them.

In expectation, the inclusive weights give a mutual information that is too small and a
dimension-wise KL that is too large, and MSS the other way round: mutual information is concave and
the KL convex in what the batch makes of q(z), and MSS is unbiased for q(z) (Jensen). With the KL,
the two bracket the total correlation, too:

    MI_incl <= MI <= MI_mss,  DW_mss <= DWKL <= DW_incl,
    KL - MI_mss - DW_incl <= TC <= KL - MI_incl - DW_mss.

The KL may be the closed form or that of the samples. The closed form has less noise, but the
samples' noise partly cancels in the difference. The narrower bracket is shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import SupportsIndex

import torch
from torch import Tensor

from tcdecomp._checks import WarnOnce
from tcdecomp.kernels import Kernel
from tcdecomp.minibatch.batch import Batch
from tcdecomp.minibatch.estimators import inclusive, mss
from tcdecomp.minibatch.options import KL, Options
from tcdecomp.priors import Prior, differs_by_item
from tcdecomp.terms import Terms

__all__ = ["Bracket", "Interval"]

WIDENING = 2  # standard errors
MARGIN = 0.1  # nats below log M, the largest inclusive mutual information that a batch can show
_NAMES = ("index_code_mi", "total_correlation", "dimension_wise_kl")
_SAMPLED = 3  # the row, after the terms, of the total correlation with the samples' KL


@dataclass(frozen=True)
class Interval:
    """A term's value, and the bracket about it, in nats.

    Attributes
    ----------
    value : float
        Mean of the MSS estimates.
    low, high : float
        Means of the lower and the upper values, 2 standard errors further out, so that they hold
        the value. A term that cannot be negative has no lower end below 0, unless its value is. A
        single batch has no standard error.
    """

    value: float
    low: float
    high: float


class Bracket:
    """Brackets the three terms over batches, at the cost of their MSS estimates alone.

    A bracket is a statement about expectations, and the values of one batch are noisy. Give it the
    batches of a pass, with the weights of the model unchanged. It shows their means, widened by two
    standard errors: of normal values these cover 95 % for many batches, 92 % for 10 and 70 % for 2
    (Student's t).

    Parameters
    ----------
    prior, kl, kernel : optional
        As in :func:`tcdecomp.decompose`. With ``kl="sampled"`` only the samples' KL brackets the
        total correlation.

    Raises
    ------
    TypeError, ValueError
        If an option is not of its type, or unknown.

    Warns
    -----
    UserWarning
        Once, when a batch is too small to say anything: its inclusive mutual information comes
        within 0.1 nats of log M, which is the largest that M items can show. And, once for each
        kind, what :func:`tcdecomp.decompose` warns of.

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
    >>> tc.low <= tc.value <= tc.high
    True
    """

    def __init__(self, *, prior: Prior = None, kl: KL = "closed", kernel: Kernel = "auto") -> None:
        self._options = Options(prior=prior, kl=kl, kernel=kernel)
        self._count, self._rows = 0, 0
        self._size: int | None = None  # N
        # Sums over batches of value, lower and upper of each row, and of their squares.
        self._sums = torch.zeros(2, _SAMPLED + 1, 3, dtype=torch.float64, device="cpu")
        self._doubt = WarnOnce()
        self._signed = False  # whether the dimension-wise KL may be negative

    @property
    def num_batches(self) -> int:
        """How many batches it has seen."""
        return self._count

    @torch.no_grad()
    def update(
        self,
        z: Tensor,
        mu: Tensor,
        logvar: Tensor,
        dataset_size: SupportsIndex,
        *,
        items: Tensor | None = None,
    ) -> Terms:
        """Add a batch, and return its terms as ``decompose`` does, without a graph.

        Parameters and errors are those of :func:`tcdecomp.decompose`. N must be the same for all
        batches, or it is a ValueError.
        """
        batch = Batch(z, mu, logvar, dataset_size, self._options, items=items, doubt=self._doubt)
        upper, lower = batch.terms_by(mss, inclusive)
        if batch.items < batch.dataset_size:  # else the terms are exact
            self._doubt_size(lower.index_code_mi.item(), batch.items)
        self._agree(batch.dataset_size)
        values = _endpoints(upper, lower)
        self._signed |= differs_by_item(batch.prior)
        self._count, self._rows = self._count + 1, self._rows + batch.items
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
        rows = [_NAMES.index(term)]
        if term == "total_correlation":
            rows = [_SAMPLED] if self._options.kl == "sampled" else [*rows, _SAMPLED]
        value, low, high = min(map(self._widened, rows), key=lambda ends: ends[2] - ends[1])
        if term != "dimension_wise_kl" or not self._signed:
            low = max(low, 0.0)
        return Interval(value, min(value, low), max(value, high))

    def _widened(self, row: int) -> tuple[float, float, float]:
        """Return the means of value, lower and upper, the ends two standard errors further out."""
        mean, square = self._sums[:, row] / self._count
        error = torch.zeros_like(mean)
        if self._count > 1:
            error = ((square - mean.square()).clamp(min=0) / (self._count - 1)).sqrt()
        value, low, high = mean.tolist()
        _, below, above = (WIDENING * error).tolist()
        return value, low - below, high + above

    def seen(self) -> Bracket:
        """Return what it has seen without its options: for another process, say, to merge."""
        bare = Bracket()
        bare.merge(self)
        return bare

    def merge(self, other: Bracket) -> None:
        """Add what another has seen, as of another process or another part of the data.

        Raises
        ------
        TypeError, ValueError
            If it is no Bracket, or one of another N.
        """
        if not isinstance(other, Bracket):
            raise TypeError(f"other must be a Bracket; got {type(other).__name__}")
        self._agree(other._size)
        self._count, self._rows = self._count + other._count, self._rows + other._rows
        self._sums = self._sums + other._sums
        self._signed |= other._signed

    def __str__(self) -> str:
        if self._count == 0:
            return "no batches yet"
        lines = [f"{name:20}{_written(self.interval(name), self._count)}" for name in _NAMES]
        batches = f"{self._count} batches" if self._count > 1 else "an estimate from one batch"
        return "\n".join([f"nats, {batches} of {self._rows / self._count:.4g} items", *lines])

    def _agree(self, size: int | None) -> None:
        """Refuse another N: its terms are those of another q(z)."""
        if None not in (size, self._size) and size != self._size:
            raise ValueError(
                f"dataset_size must be the same for all batches of a Bracket; got {size} after "
                f"{self._size}. Make a Bracket for each data set"
            )
        self._size = self._size if size is None else size

    def _doubt_size(self, information: float, size: int) -> None:
        if information > math.log(size) - MARGIN:
            self._doubt(
                "size",
                f"a batch of {size} items is too small to tell the mutual information: its "
                f"inclusive estimate comes within {MARGIN} nats of log {size} = "
                f"{math.log(size):.2f}, the most that {size} items can show. Take larger batches, "
                "or decompose_dataset",
            )


def _endpoints(mss_terms: Terms, inclusive_terms: Terms) -> Tensor:
    """Return value, lower and upper of each row, shape (4, 3), float64 on the CPU."""
    sampled = mss_terms.sampled_kl
    kl = sampled if mss_terms.kl is None else mss_terms.kl
    mi_low, mi_high = inclusive_terms.index_code_mi, mss_terms.index_code_mi
    dw_low, dw_high = mss_terms.dimension_wise_kl, inclusive_terms.dimension_wise_kl
    tc = mss_terms.total_correlation
    rows = (
        (mss_terms.index_code_mi, mi_low, mi_high),
        (tc, kl - mi_high - dw_high, kl - mi_low - dw_low),
        (mss_terms.dimension_wise_kl, dw_low, dw_high),
        (tc, sampled - mi_high - dw_high, sampled - mi_low - dw_low),
    )
    return torch.stack([torch.stack(row) for row in rows]).cpu().double()


def _written(interval: Interval, count: int) -> str:
    if count == 1:
        return f"{interval.value:.2f}"
    return f"{interval.value:.2f} in [{interval.low:.2f}, {interval.high:.2f}]"
