"""Arrays from an npz file that may be anything."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FileError", "read_npz"]

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


class FileError(ValueError):
    """A file that cannot be read, or does not hold what it should; the message names it."""


def read_npz(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return those of the named arrays that the file holds, without unpickling anything.

    Nothing else in the file is read.

    Raises
    ------
    FileError
        If it is not a whole npz file, holds none of these, or one is no array of numbers or
        strings.
    """
    if not path.is_file():
        raise FileError(f"{path}: {'a folder, no file' if path.is_dir() else 'no such file'}")
    if not zipfile.is_zipfile(path):
        raise FileError(f"{path}: not an npz file, or not all of one")
    try:
        # Opened here, since numpy leaves a file open in which it finds a fault.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            held = list(content)
            arrays = {name: content[name] for name in names if name in content}
    except _UNREADABLE as error:
        raise FileError(f"{path}: cannot be read: {error}") from error
    if not arrays:
        got = ", ".join(held) or "nothing"
        raise FileError(f"{path}: must hold one or more of {', '.join(names)}; got {got}")
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy returns the bytes of what is no npy file
            raise FileError(f"{path}: {name} must be an array; got {type(array).__name__}")
    return arrays
