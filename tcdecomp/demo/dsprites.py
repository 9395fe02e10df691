"""The real dSprites, from the npz file in which they are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcdecomp.demo.sprites import Sprites
from tcdecomp.scoring.files import FileError, read_npz

__all__ = ["load_dsprites"]

FACTORS = ("color", "shape", "scale", "orientation", "x", "y")


def load_dsprites(path: Path, size: int, at_least: int = 1) -> Sprites:
    """Return ``size`` images of a file in dSprites' published layout, drawn with a fixed seed.

    Parameters
    ----------
    path : Path
        An npz file with ``imgs`` (n, side, side), of 0 and 1, and ``latents_classes`` (n, 6).
        Only these two are read; the published file also holds a pickle.
    size : int
        How many images to draw without replacement; all of them if the file has no more.
    at_least : int
        How many the caller needs, to fill a batch.

    Raises
    ------
    FileError
        If the file cannot be read, or does not hold these arrays. Factors that have one value
        only, as the color of dSprites has, are left out.
    """
    images, classes = read_arrays(path)
    check_layout(path, images, classes)
    if len(images) < at_least:
        raise FileError(f"{path}: must have at least {at_least} images; got {len(images)}")
    chosen = np.random.default_rng(0).permutation(len(images))[:size]
    chosen.sort()
    factors = classes[chosen].astype(np.int64)
    varying = np.flatnonzero((factors != factors[:1]).any(axis=0))
    if not varying.size:
        raise FileError(f"{path}: latents_classes must have a factor that varies; got none")
    names = tuple(FACTORS[column] for column in varying)
    return Sprites(images[chosen].astype(np.float32), factors[:, varying], names)


def read_arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read ``imgs`` and ``latents_classes``."""
    names = ("imgs", "latents_classes")
    arrays = read_npz(path, names)
    if missing := [name for name in names if name not in arrays]:
        raise FileError(f"{path}: not dSprites: it has no {' and no '.join(missing)}")
    return arrays["imgs"], arrays["latents_classes"]


def check_layout(path: Path, images: NDArray[Any], classes: NDArray[Any]) -> None:
    """Refuse arrays that are not dSprites', saying which and why."""
    if images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise FileError(f"{path}: imgs must have shape (n, side, side); got {images.shape}")
    if classes.shape != (len(images), len(FACTORS)):
        raise FileError(
            f"{path}: latents_classes must have shape ({len(images)}, 6); got {classes.shape}"
        )
    if images.dtype.kind not in "bu":
        raise FileError(f"{path}: imgs must have dtype uint8; got {images.dtype}")
    if images.max(initial=0) > 1:
        raise FileError(f"{path}: imgs must hold 0 and 1 only; got {images.max()}")
    if classes.dtype.kind not in "iu":
        raise FileError(f"{path}: latents_classes must have dtype int64; got {classes.dtype}")
