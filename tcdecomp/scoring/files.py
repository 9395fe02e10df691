"""Arrays from an npz file, which may hold anything."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["FileError", "Scorable", "read_npz", "read_scorable"]

# What numpy, zipfile and zlib raise for files that are damaged, encrypted or of another kind.
_UNREADABLE = (
    OSError,
    EOFError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)

# The names that arrays of one kind have in other people's files, in small letters and without
# underscores. Of several, the first is read.
_MU = ("mu", "mean", "means", "loc")
_CODES = ("codes", "embeddings", "latents")
_FACTORS = ("factors", "labels", "label", "targets")
_VAR, _STD = ("var", "variance"), ("std", "sd", "sigma", "scale", "stddev", "stdev")
_LOG_VAR, _LOG_STD = ([f"log{name}" for name in names] for names in (_VAR, _STD))
_SPREAD = (*_LOG_VAR, "logcovariance", *_LOG_STD, *_STD, *_VAR)


class FileError(ValueError):
    """A file that cannot be read, or does not hold what it should; the message names it."""


class Scorable(NamedTuple):
    """What :func:`tcdecomp.score` takes, from a file.

    Attributes
    ----------
    values : ndarray or pair of them
        Codes, or (mu, logvar).
    factors : ndarray or None
        The factors.
    unread : tuple of str
        The arrays of the file that were not read.
    """

    values: Any
    factors: NDArray[Any] | None
    unread: tuple[str, ...]


def read_scorable(path: Path) -> Scorable:
    """Read means with log-variances or standard deviations, or codes, and factors.

    Raises
    ------
    FileError
        If the file cannot be read, or holds neither mu nor codes, or both.
    """
    held = _names(path)
    spellings = {_plain(name): name for name in held}
    mu, spread, codes, factors = (
        next((spellings[name] for name in names if name in spellings), None)
        for names in (_MU, _SPREAD, _CODES, _FACTORS)
    )
    got = ", ".join(held) or "nothing"
    if (mu is None) == (codes is None):
        raise FileError(f"{path}: must hold either mu or codes; got {got}")
    if mu is None and spread is not None:
        raise FileError(f"{path}: must hold mu beside {spread}; got {got}")
    read = [name for name in (mu, spread, codes, factors) if name is not None]
    arrays = read_npz(path, read)
    values: Any = arrays[mu or codes or ""]
    if spread is not None:
        values = values, _logvar(path, spread, arrays[spread])
    unread = tuple(name for name in held if name not in read)
    return Scorable(values, arrays.get(factors or ""), unread)


def read_npz(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return those of the named arrays that the file holds, without unpickling anything.

    Nothing else in the file is read.

    Raises
    ------
    FileError
        If it is not a whole npz file, holds none of these, or one of them is not an array of
        numbers or strings.
    """
    held = _names(path)
    if not any(name in held for name in names):
        got = ", ".join(held) or "nothing"
        raise FileError(f"{path}: must hold one or more of {', '.join(names)}; got {got}")
    with _opened(path) as content:
        return {name: _array(path, name, content) for name in names if name in held}


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _names(path: Path) -> list[str]:
    with _opened(path) as content:
        return list(content)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise FileError(f"{path}: {'a folder, no file' if path.is_dir() else 'no such file'}")
    if not zipfile.is_zipfile(path):
        raise FileError(f"{path}: not an npz file, or not all of one")
    try:
        # Opened here, because numpy leaves a file open in which it finds a fault.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            yield content
    except FileError:
        raise
    except _UNREADABLE as error:
        raise FileError(f"{path}: cannot be read: {error}") from error


def _array(path: Path, name: str, content: Any) -> NDArray[Any]:
    try:
        array = content[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise FileError(
                f"{path}: {name} must be an array of numbers; got an array of Python objects, "
                "which is not unpickled. Rows of different lengths make one: save one array (N, D)"
            ) from error
        raise
    if not isinstance(array, np.ndarray):  # numpy returns the bytes of what is no npy file
        raise FileError(f"{path}: {name} must be an array; got {type(array).__name__}")
    return array


def _logvar(path: Path, name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return what an array of that name says as log-variances."""
    if values.dtype.kind not in "biuf":
        return values  # score refuses it
    kind = _plain(name)
    if kind in (*_STD, *_VAR):
        if not (values > 0).all():
            raise FileError(f"{path}: {name} must be positive; got {values.min()}")
        values = np.log(values)
    return 2 * values if kind in (*_LOG_STD, *_STD) else values
