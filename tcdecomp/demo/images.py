"""The images: a grid of grey squares that the demo makes, or the published dSprites."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tcdecomp.scoring.files import FileError, read_npz

__all__ = ["Images", "load_dsprites", "squares"]

SIDE = 16
SUBPIXELS = 4
# Fractions of the side. The y range is narrower than the x range on purpose: with equal ranges
# nothing in the data distinguishes the two axes from a rotation of them.
HALF_WIDTHS = np.linspace(0.128, 0.24, 8)
CENTRES_X = np.linspace(0.28, 0.72, 8)
CENTRES_Y = np.linspace(0.35, 0.65, 8)
DSPRITES_FACTORS = ("color", "shape", "scale", "orientation", "x", "y")


@dataclass(frozen=True, eq=False)
class Images:
    """Square images and the factors that made them.

    Parameters
    ----------
    pixels : ndarray, shape (N, side, side)
        Brightness from 0 to 1, float32.
    factors : ndarray, shape (N, K)
        The class of each factor, from 0.
    factor_names : tuple of str
        The K names.
    """

    pixels: NDArray[np.float32]
    factors: NDArray[np.int64]
    factor_names: tuple[str, ...]

    @property
    def side(self) -> int:
        """Height and width of an image in pixels."""
        return int(self.pixels.shape[1])

    def __len__(self) -> int:
        return len(self.pixels)

    def __str__(self) -> str:
        counts = np.ptp(self.factors, axis=0) + 1
        factors = (f"{name} ({n})" for name, n in zip(self.factor_names, counts, strict=True))
        return f"{len(self):,} images of {self.side}x{self.side}; factors: {', '.join(factors)}"

    @property
    def floor(self) -> float:
        """The smallest possible reconstruction loss: the Bernoulli entropy of an image in nats."""
        p = self.flat().double()
        return float((torch.special.entr(p) + torch.special.entr(1 - p)).sum(dim=1).mean())

    def flat(self) -> Tensor:
        """Return the images as rows (N, pixels)."""
        return torch.from_numpy(self.pixels).flatten(start_dim=1)


def squares() -> Images:
    """Return every combination of 8 sizes, 8 centres and 8 heights: 512 images of 16x16.

    Each image shows one white, axis-aligned square on black. A pixel's grey is the share of its
    4x4 subpixels whose centre lies in the square.
    """
    classes = np.indices((8, 8, 8)).reshape(3, -1).T
    size, x, y = classes.T
    columns = coverage(CENTRES_X[x], HALF_WIDTHS[size])
    rows = coverage(CENTRES_Y[y], HALF_WIDTHS[size])
    pixels = (rows[:, :, None] * columns[:, None, :]).astype(np.float32)
    return Images(pixels, classes.astype(np.int64), ("size", "x", "y"))


def coverage(centres: NDArray[np.float64], half_widths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much of each pixel of a line lies within a half-width of the centre.

    A square is the product of two such lines.
    """
    points = (np.arange(SIDE * SUBPIXELS) + 0.5) / (SIDE * SUBPIXELS)
    inside = np.abs(points - centres[:, None]) <= half_widths[:, None]
    return np.asarray(inside.reshape(len(centres), SIDE, SUBPIXELS).mean(axis=2))


def load_dsprites(path: Path, size: int, at_least: int = 1) -> Images:
    """Return ``size`` images of a file in dSprites' published layout, drawn with a fixed seed.

    Parameters
    ----------
    path : Path
        An npz file with ``imgs`` (n, side, side), of 0 and 1, and ``latents_classes`` (n, 6).
        Nothing else in the file is read; the published file also holds a pickle.
    size : int
        How many images to draw without replacement: all of them if the file has no more.
    at_least : int
        How many images the caller needs to fill a batch.

    Raises
    ------
    FileError
        If the file cannot be read, or does not hold these arrays. Factors with a single value,
        such as the color of dSprites, are left out.
    """
    names = ("imgs", "latents_classes")
    arrays = read_npz(path, names)
    if missing := [name for name in names if name not in arrays]:
        raise FileError(f"{path}: not dSprites: it has no {' and no '.join(missing)}")
    images, classes = (arrays[name] for name in names)
    if (fault := next(faults(images, classes, at_least), None)) is not None:
        raise FileError(f"{path}: {fault}")
    chosen = np.sort(np.random.default_rng(0).permutation(len(images))[:size])
    factors = classes[chosen].astype(np.int64)
    varying = np.flatnonzero((factors != factors[:1]).any(axis=0))
    if not varying.size:
        raise FileError(f"{path}: latents_classes must have a factor that varies; got none")
    factor_names = tuple(DSPRITES_FACTORS[column] for column in varying)
    return Images(images[chosen].astype(np.float32), factors[:, varying], factor_names)


def faults(images: NDArray[Any], classes: NDArray[Any], at_least: int) -> Iterator[str]:
    """Yield what is wrong with the arrays of dSprites."""
    if images.ndim != 3 or images.shape[1] != images.shape[2]:
        yield f"imgs must have shape (n, side, side); got {images.shape}"
    if classes.shape != (len(images), len(DSPRITES_FACTORS)):
        yield f"latents_classes must have shape ({len(images)}, 6); got {classes.shape}"
    if images.dtype.kind not in "bu":
        yield f"imgs must have dtype uint8; got {images.dtype}"
    if images.max(initial=0) > 1:
        yield f"imgs must hold 0 and 1 only; got {images.max()}"
    if classes.dtype.kind not in "iu":
        yield f"latents_classes must have dtype int64; got {classes.dtype}"
    if len(images) < at_least:
        yield f"must have at least {at_least} images; got {len(images)}"
