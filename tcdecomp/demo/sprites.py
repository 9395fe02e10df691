"""The images that the demo makes: a full grid of grey squares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Sprites", "squares"]

SIDE = 16
SUBPIXELS = 4
# Fractions of the side. The y range is narrower than the x range on purpose: with equal ranges
# nothing in the data tells the two axes from any rotation of them.
HALF_WIDTHS = np.linspace(0.128, 0.24, 8)
CENTRES_X = np.linspace(0.28, 0.72, 8)
CENTRES_Y = np.linspace(0.35, 0.65, 8)


@dataclass(frozen=True, eq=False)
class Sprites:
    """Square images with the factors that made them.

    Parameters
    ----------
    images : ndarray, shape (N, side, side)
        Brightness from 0 to 1, float32.
    factors : ndarray, shape (N, K)
        The class of each factor, from 0.
    factor_names : tuple of str
        The K names.
    """

    images: NDArray[np.float32]
    factors: NDArray[np.int64]
    factor_names: tuple[str, ...]

    @property
    def side(self) -> int:
        """Height and width of an image in pixels."""
        return int(self.images.shape[1])

    def __len__(self) -> int:
        return len(self.images)

    def __str__(self) -> str:
        factors = (
            f"{name} ({count})"
            for name, count in zip(self.factor_names, np.ptp(self.factors, axis=0) + 1, strict=True)
        )
        return f"{len(self):,} images of {self.side}x{self.side}; factors: {', '.join(factors)}"

    @property
    def floor(self) -> float:
        """The best possible reconstruction loss: the Bernoulli entropy of an image, in nats."""
        p = self.flat().double()
        return float((torch.special.entr(p) + torch.special.entr(1 - p)).sum(dim=1).mean())

    def flat(self) -> Tensor:
        """Return the images as rows (N, pixels)."""
        return torch.from_numpy(self.images).flatten(start_dim=1)


def squares() -> Sprites:
    """Return the full grid of 8 sizes x 8 centres x 8 heights: 512 images of 16x16.

    Each shows one white, axis-aligned square on black. A pixel's grey is the share of its
    4x4 subpixels whose centre lies in the square.
    """
    classes = np.stack(np.meshgrid(*[np.arange(8)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    size, x, y = classes.T
    columns = coverage(CENTRES_X[x], HALF_WIDTHS[size])
    rows = coverage(CENTRES_Y[y], HALF_WIDTHS[size])
    images = (rows[:, :, None] * columns[:, None, :]).astype(np.float32)
    return Sprites(images, classes.astype(np.int64), ("size", "x", "y"))


def coverage(centres: NDArray[np.float64], half_widths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much of each pixel on a line the interval centre +- half-width covers.

    A square covers the product of what its two sides cover, so a line is all that is needed.
    """
    points = (np.arange(SIDE * SUBPIXELS) + 0.5) / (SIDE * SUBPIXELS)
    inside = np.abs(points - centres[:, None]) <= half_widths[:, None]
    return np.asarray(inside.reshape(len(centres), SIDE, SUBPIXELS).mean(axis=2))
