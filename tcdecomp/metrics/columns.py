"""Named columns of equal length: codes, or factors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Columns", "FloatArray", "is_missing", "list_names"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of one argument, each with a name and an array of shape (n,) and own dtype.

    ``index`` is that of a pandas frame or series: a name for each row.
    """

    argument: str
    names: tuple[str, ...]
    arrays: tuple[NDArray[Any], ...]
    index: Any = None

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and of columns."""
        return len(self.arrays[0]) if self.arrays else 0, len(self.arrays)

    def rows(self, chosen: NDArray[np.bool_]) -> Columns:
        """Return the chosen rows of every column."""
        return Columns(self.argument, self.names, tuple(array[chosen] for array in self.arrays))

    def split(self) -> list[Columns]:
        """Return every column by itself."""
        pairs = zip(self.names, self.arrays, strict=True)
        return [Columns(self.argument, (name,), (array,)) for name, array in pairs]

    def refuse_missing(self) -> None:
        """Raise a ValueError that names the columns with NaN, infinite or missing values."""
        pairs = zip(self.names, self.arrays, strict=True)
        missing = [name for name, array in pairs if _any_missing(array)]
        if missing:
            raise ValueError(
                f"{self.argument} must have no NaN, infinite or missing values; got some in "
                f"{list_names(missing)}. Leave those rows out, or give them sample_weight 0"
            )

    def as_floats(self, remedy: str = "") -> FloatArray:
        """Return a float64 array of shape (n, columns), or raise if a column holds no numbers.

        A TypeError ends in ``remedy``.
        """
        for name, array in zip(self.names, self.arrays, strict=True):
            if array.dtype.kind not in "biuf":
                raise TypeError(
                    f"{self.argument} must hold real numbers; "
                    f"got dtype {array.dtype} in {name!r}{remedy}"
                )
        self.refuse_missing()
        out = np.empty(self.shape, order="F")  # scikit-learn works column by column
        for index, array in enumerate(self.arrays):
            out[:, index] = array
        self._refuse_overflow(out)
        return out

    def _refuse_overflow(self, floats: FloatArray) -> None:
        with np.errstate(over="ignore"):
            wide = ~np.isfinite(np.ptp(floats, axis=0))
        if wide.any():
            names = list_names(name for name, flag in zip(self.names, wide, strict=True) if flag)
            raise ValueError(
                f"{self.argument} must span a range that float64 can hold, to be binned; "
                f"they do not in {names}. Rescale them"
            )


def list_names(names: Iterable[str], limit: int = 8) -> str:
    """Return the names as one phrase, at most ``limit`` of them."""
    quoted = [repr(name) for name in names]
    more = f" and {len(quoted) - limit} more" if len(quoted) > limit else ""
    return ", ".join(quoted[:limit]) + more


def _any_missing(array: NDArray[Any]) -> bool:
    if array.dtype.kind == "O":
        return any(map(is_missing, array))
    if array.dtype.kind in "fcmM":
        return not np.isfinite(array).all()
    return False


def is_missing(value: object) -> bool:
    """Tell whether a value is None, NaN, NaT or pandas.NA."""
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas.NA refuses to be true or false
        return True
