"""What q(z) is a mixture of: Gaussian components, each the posterior of a known item."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Components"]


class Components(NamedTuple):
    """The Gaussians whose weighted sum is q(z).

    A point's *own* components are those of its item, all the rest are its *others*: several
    processes, earlier posteriors, or several samples of one item need no other concept.

    Attributes
    ----------
    mu, logvar : Tensor, shape (K, D)
        Means and log-variances.
    items : Tensor, shape (K,), integer, optional
        The data-set item that each component is the posterior of. None: for M points, the first M
        components are the posteriors of their items, in order, and the rest are of other items.
    """

    mu: Tensor
    logvar: Tensor
    items: Tensor | None = None
