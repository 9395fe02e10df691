"""What every kernel computes."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

__all__ = ["Keep", "LogSums"]

# Which components count in a point's sum: all, those of its own item, or those of other items.
Keep = Literal["all", "own", "others"]


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
