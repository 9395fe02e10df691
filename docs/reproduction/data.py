"""The images: the demo's squares, coloured squares, and training sets with correlated factors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tcdecomp.demo.images import CENTRES_X, CENTRES_Y, Images, coverage

__all__ = ["correlated_rows", "objects", "part_of"]

SIZES = np.linspace(0.128, 0.24, 4)
COLORS = np.eye(3)  # red, green, blue


def objects() -> Images:
    """Return 4 sizes, 8 centres, 8 heights and 3 colors of a square: 768 images of 16x16x3.

    They resemble disent's XYObject: squares on black, each in one color of a palette.
    """
    classes = np.indices((4, 8, 8, 3)).reshape(4, -1).T
    size, x, y, color = classes.T
    columns = coverage(CENTRES_X[x], SIZES[size])
    rows = coverage(CENTRES_Y[y], SIZES[size])
    grey = rows[:, :, None] * columns[:, None, :]
    pixels = (grey[..., None] * COLORS[color][:, None, None, :]).astype(np.float32)
    return Images(pixels, classes.astype(np.int64), ("size", "x", "y", "color"))


def correlated_rows(images: Images, sigma: float, seed: int) -> NDArray[np.int64]:
    """Return the rows of a training set in which x and y follow each other.

    The rows are drawn with replacement, with probability proportional to
    exp(-(x - y)^2 / (2 sigma^2)), where x and y are scaled to [0, 1]. There are twice as many as
    there are images. With an infinite ``sigma`` all are as likely, and x and y are independent.
    With ``sigma`` 0 the set is the full grid, each image once.

    References
    ----------
    Roth, Ibrahim, Akata, Vincent, Bouchacourt (2023). Disentanglement of correlated factors via
    Hausdorff factorized support. ICLR. Section 5.1. The density is that of Träuble et al. (2021).
    """
    if sigma == 0:
        return np.arange(len(images))
    columns = [images.factor_names.index(name) for name in ("x", "y")]
    x, y = (images.factors[:, columns] / images.factors[:, columns].max(axis=0)).T
    density = np.exp(-((x - y) ** 2) / (2 * sigma**2))
    draw = np.random.default_rng(seed)
    return draw.choice(len(images), 2 * len(images), p=density / density.sum())


def part_of(images: Images, rows: NDArray[np.int64]) -> Images:
    """Return the images of these rows, in this order."""
    return Images(images.pixels[rows], images.factors[rows], images.factor_names)
