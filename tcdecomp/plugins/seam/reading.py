"""What one run of a model shows at its seam: the moments, and what the layers behind z took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from tcdecomp.plugins.seam.scales import SCALES
from tcdecomp.posterior import Posterior

__all__ = ["Reading", "gradients", "halves", "split", "split_axis", "stopped"]


def split_axis(whole: torch.Size, z: torch.Size) -> int:
    """Return the axis along which a layer's output is cut into means and spreads.

    It is the axis that is twice as long as in z, or else axis 1, that of the channels.
    """
    if len(whole) == len(z):
        for axis in range(1, len(z)):
            if whole == (*z[:axis], 2 * z[axis], *z[axis + 1 :]):
                return axis
    return 1


def split(tensors: tuple[Tensor, ...], axis: int) -> tuple[Tensor, Tensor]:
    """Return means and spreads from two tensors, or from one that is cut in two."""
    mean, spread = tensors if len(tensors) == 2 else tensors[0].chunk(2, axis)
    return mean, spread


def halves(tensors: tuple[Tensor, ...], axis: int) -> tuple[Tensor, Tensor]:
    """Return means and spreads, each of shape (M, D)."""
    mean, spread = split(tensors, axis)
    return mean.flatten(1), spread.flatten(1)


def gradients(
    value: Tensor, tensors: Sequence[Tensor], weights: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Return the gradients of a value, or of a weighted sum of values; 0 where there is no path."""
    return torch.autograd.grad(
        value, tensors, weights, retain_graph=True, allow_unused=True, materialize_grads=True
    )


@contextmanager
def stopped(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Let no gradient pass these tensors inside."""
    stops = [
        tensor.register_hook(torch.zeros_like)  # type: ignore[no-untyped-call]
        for tensor in tensors
        if tensor.requires_grad
    ]
    try:
        yield
    finally:
        for stop in stops:
            stop.remove()


class Reading(NamedTuple):
    """The tensors of one run, with their graph.

    The layers behind z were given ``gates`` in place of what they took. Gates are equal to it, and
    no other layer takes them: a gradient that stops at the gates stops for these layers alone.
    """

    tensors: tuple[Tensor, ...]  # what the layers of the moments gave: two, or one to be cut
    axis: int
    scale: str
    taken: Tensor  # by the first layer behind z: z, or z beside other columns
    gates: tuple[Tensor, ...] = ()
    stopped_z: Tensor | None = None  # z itself, if it is a gate; (K, M, D) for several samples

    def posterior(self, columns: Tensor | None) -> Posterior:
        """Return z, mu and logvar of shape (M, D), with their graph.

        ``columns`` says where z stands in ``taken``; None if ``taken`` is z.
        """
        mean, spread = halves(self.tensors, self.axis)
        z = self.taken.flatten(1)
        if columns is not None:
            z = z[:, columns.to(z.device)]
        working = spread.to(torch.promote_types(spread.dtype, torch.float32))
        return Posterior(z, mean, SCALES[self.scale].to_logvar(working))
