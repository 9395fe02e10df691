"""What a decoder does when one latent moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tcdecomp._checks import check_tensors, checked_int
from tcdecomp.displays.axes import GREY, Display
from tcdecomp.metrics.inputs import as_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["TraversalDisplay"]


@dataclass(eq=False)
class TraversalDisplay(Display):
    """One image, decoded again while a single latent moves; a row for each latent.

    Parameters
    ----------
    images : array_like, shape (rows, steps, height, width) or (rows, steps, height, width, 3)
        The decoded images.
    latents : sequence of int
        The latent of each row.
    kl : sequence of float
        The KL of these latents, in nats.
    reach : ndarray, shape (steps,)
        The values that each latent takes.

    Raises
    ------
    ValueError
        If the images have another shape.
    """

    images: NDArray[Any]
    latents: list[int]
    kl: list[float]
    reach: NDArray[Any]

    def __post_init__(self) -> None:
        self.images = as_array(self.images, "images")
        if self.images.ndim not in (4, 5):
            raise ValueError(
                "images must have shape (rows, steps, height, width), or that with 3 colours; got "
                f"{self.images.shape}. TraversalDisplay.from_decoder makes them"
            )

    @classmethod
    @torch.no_grad()
    def from_decoder(
        cls,
        decoder: Callable[[Tensor], Tensor],
        mu: Tensor,
        logvar: Tensor,
        *,
        item: int = 0,
        reach: float = 2.0,
        steps: int = 7,
        rows: int = 10,
        to_images: Callable[[Tensor], Tensor] | None = None,
    ) -> TraversalDisplay:
        """Decode the traversals of the latents with the largest KL, in this order.

        Parameters
        ----------
        decoder : callable
            From codes (M, D) to images (M, C, height, width) or (M, height, width), with C = 1 or
            3.
        mu, logvar : Tensor, shape (N, D)
            The posteriors of a data set: their KL orders the latents.
        item : int, optional
            The item that the traversals start from.
        reach : float, optional
            Each latent moves from minus to plus this, in standard deviations of the prior.
        steps, rows : int, optional
            Images in a row, and the largest number of rows.
        to_images : callable, optional
            From the decoder's output to such images with values from 0 to 1, such as
            ``lambda logits: logits.sigmoid().view(-1, 28, 28)``.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, shape or range, or the decoder's output is not of
            such a shape.
        """
        if not callable(decoder):
            raise TypeError(f"decoder must be callable; got {type(decoder).__name__}")
        check_tensors(mu=mu, logvar=logvar)
        if not 0 <= checked_int("item", item, 0) < len(mu):
            raise ValueError(f"item must be below the number of items, {len(mu)}; got {item}")
        steps, rows = checked_int("steps", steps, 1), checked_int("rows", rows, 1)
        kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).mean(0)
        latents = kl.argsort(descending=True)[:rows].tolist()
        values = torch.linspace(-reach, reach, steps, dtype=mu.dtype, device=mu.device)
        codes = mu[item].repeat(len(latents), steps, 1)
        for row, latent in enumerate(latents):
            codes[row, :, latent] = values
        images = decoder(codes.flatten(0, 1))
        if to_images is not None:
            images = to_images(images)
        shown = _as_shown(images, len(latents) * steps).float().cpu().numpy()
        shown = shown.reshape(len(latents), steps, *shown.shape[1:])
        return cls(shown, latents, kl[latents].tolist(), values.cpu().numpy())

    def _draw(self, ax: Axes) -> None:
        mosaic = np.concatenate([np.concatenate(list(row), axis=1) for row in self.images])
        ax.imshow(mosaic.clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        height, width = self.images.shape[2:4]
        for edge in np.arange(1, len(self.reach)) * width - 0.5:
            ax.axvline(edge, color=GREY, linewidth=0.5)
        for edge in np.arange(1, len(self.images)) * height - 0.5:
            ax.axhline(edge, color=GREY, linewidth=0.5)
        names = [f"z{j}  ({kl:.2f})" for j, kl in zip(self.latents, self.kl, strict=True)]
        ax.set_yticks((np.arange(len(names)) + 0.5) * height - 0.5, names)
        ends = (np.array([0, len(self.reach) - 1]) + 0.5) * width - 0.5
        ax.set_xticks(ends, [f"{self.reach[0]:+g} sd", f"{self.reach[-1]:+g} sd"])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set(title="Traversals, by KL in nats")


def _as_shown(images: Any, count: int) -> Tensor:
    """Return so many images with their channels last, or refuse them."""
    shape = tuple(images.shape) if isinstance(images, Tensor) else ()
    channels = shape[1] if len(shape) == 4 else 1
    if shape[:1] != (count,) or len(shape) not in (3, 4) or channels not in (1, 3) or shape[2] == 1:
        got = f"shape {shape}" if shape else type(images).__name__
        raise ValueError(
            "decoder must return images (M, C, height, width) with C = 1 or 3, or (M, height, "
            f"width), here with M = {count}; got {got}. to_images= converts its output"
        )
    tensor: Tensor = images
    return tensor.movedim(1, -1).squeeze(-1) if len(shape) == 4 else tensor
