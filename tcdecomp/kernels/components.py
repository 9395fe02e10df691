"""What q(z) is a mixture of, and the sums of its parts that a caller may ask for."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

__all__ = ["Components", "Keep", "LogSums"]

# Which components count in a point's sum: all, those of its own item, or those of other items.
Keep = Literal["all", "own", "others"]


class Components(NamedTuple):
    """The Gaussians whose weighted sum is q(z).

    A point's *own* components are those of its item, all the rest are its *others*. Several
    processes, earlier posteriors, and several samples of one item need no other concept.

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


class LogSums(NamedTuple):
    """Unweighted log-sums of component densities at M points, in nats.

    A sum without components is -inf. A NaN among the inputs of a sum makes it NaN.

    Attributes
    ----------
    own, others : Tensor, shape (M,)
        Log of the sum of q(z|component) over the components of the point's own item, and over
        all others.
    own_j, others_j : Tensor, shape (M, D)
        The same sums of q(z_j|component), for each dimension j.
    """

    own: Tensor
    others: Tensor
    own_j: Tensor
    others_j: Tensor
