"""Named columns of equal length: codes, or factors."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Columns", "FloatArray", "is_missing", "list_names", "warn_caller"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of one argument: a name and an array of shape (n,) for each.

    The arrays keep their own dtypes. ``index`` is the index of a pandas frame or series.
    """

    argument: str
    names: tuple[str, ...]
    arrays: tuple[NDArray[Any], ...]
    index: Any = None

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and of columns."""
        return len(self.arrays[0]) if self.arrays else 0, len(self.arrays)

    def rows(self, chosen: NDArray[Any]) -> Columns:
        """Return the chosen rows of every column."""
        return Columns(self.argument, self.names, tuple(array[chosen] for array in self.arrays))

    def chosen(self, flags: Sequence[bool]) -> Columns:
        """Return the columns whose flag is true."""
        arrays = tuple(array for array, flag in zip(self.arrays, flags, strict=True) if flag)
        return Columns(self.argument, tuple(self.named(flags)), arrays)

    def named(self, flags: Iterable[Any]) -> list[str]:
        """Return the names of the columns whose flag is true."""
        return [name for name, flag in zip(self.names, flags, strict=True) if flag]

    def refuse_missing(self) -> None:
        """Raise a ValueError that names the columns with NaN, infinite or missing values."""
        if missing := self.named(map(_any_missing, self.arrays)):
            raise ValueError(
                f"{self.argument} must have no NaN, infinite or missing values; got some in "
                f"{list_names(missing)}. Leave those rows out, or give them sample_weight 0"
            )

    def as_floats(self, remedy: str = "") -> FloatArray:
        """Return a finite float64 array of shape (n, columns).

        Raises
        ------
        TypeError
            If a column does not hold real numbers. For labels, the message ends with ``remedy``.
        ValueError
            If a value is missing or not finite, or a column's range overflows.
        """
        for name, array in zip(self.names, self.arrays, strict=True):
            if array.dtype.kind not in "biuf":
                if self.argument == "codes" and _are_numerals(array):
                    remedy = ". The strings are numbers: pass numpy.asarray(codes, float)"
                raise TypeError(
                    f"{self.argument} must hold real numbers; got dtype {array.dtype} in {name!r}"
                    f"{'' if array.dtype.kind in 'cV' else remedy}"
                )
        self.refuse_missing()
        floats = np.empty(self.shape, order="F")  # every score works column by column
        for index, array in enumerate(self.arrays):
            floats[:, index] = array
        with np.errstate(over="ignore"):
            overflows = self.named(~np.isfinite(np.ptp(floats, axis=0)))
        if overflows:
            raise ValueError(
                f"{self.argument} must span a range that float64 can hold; "
                f"they do not in {list_names(overflows)}. Rescale them"
            )
        return floats


def list_names(names: Iterable[str], limit: int = 8) -> str:
    """Return the names as one phrase, at most ``limit`` of them."""
    quoted = [repr(name) for name in names]
    more = f" and {len(quoted) - limit} more" if len(quoted) > limit else ""
    return ", ".join(quoted[:limit]) + more


def warn_caller(text: str) -> None:
    """Warn with the line that called the package, so that each such line warns once."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("tcdecomp"):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)


def _are_numerals(array: NDArray[Any]) -> bool:
    """Tell whether an array holds strings that are numbers."""
    if array.dtype.kind not in "OSUT" or not all(isinstance(v, str | bytes) for v in array):
        return False
    try:
        array.astype(float)
    except ValueError:
        return False
    return True


def _any_missing(array: NDArray[Any]) -> bool:
    if array.dtype.kind == "O":
        return any(map(is_missing, array))
    return array.dtype.kind in "fcmM" and not np.isfinite(array).all()


def is_missing(value: object) -> bool:
    """Tell whether a value is None, NaN, NaT or pandas.NA."""
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas.NA is neither true nor false
        return True
