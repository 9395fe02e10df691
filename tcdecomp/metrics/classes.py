"""Classes: each distinct value of a column is one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcdecomp.metrics.columns import Columns, list_names, warn_caller

__all__ = ["Classes", "check_classes", "distinct_classes", "find_classes"]


@dataclass(frozen=True, eq=False)
class Classes:
    """The distinct values of one column: sorted, or for objects in the order of appearance."""

    values: NDArray[Any]

    def __len__(self) -> int:
        return len(self.values)

    def label(self, column: NDArray[Any]) -> NDArray[np.intp]:
        """Return the place of each of the column's values among ``values``, where all must be."""
        if self.values.dtype.kind == "O":
            numbers = {value: number for number, value in enumerate(self.values)}
            return np.array([numbers[value] for value in column], np.intp)
        if not _is_dense(self.values):
            return np.searchsorted(self.values, column)
        places = self.values.astype(np.intp) - int(self.values[0])
        lookup = np.zeros(places[-1] + 1, np.intp)
        lookup[places] = np.arange(len(places))
        return lookup[column.astype(np.intp) - int(self.values[0])]

    def union(self, other: Classes) -> Classes:
        """Return the classes of both columns."""
        if "O" in (self.values.dtype.kind, other.values.dtype.kind):
            return Classes(_as_objects(dict.fromkeys([*self.values, *other.values])))
        return Classes(np.union1d(self.values, other.values))


def find_classes(columns: Columns, as_numbers: str) -> list[Classes]:
    """Return the classes of each column.

    Parameters
    ----------
    columns : Columns
        Without missing values.
    as_numbers : str
        What to do if a column holds numbers and not labels, for the errors.

    Raises
    ------
    TypeError
        If a column holds neither labels nor real numbers.
    ValueError
        If a column looks continuous, or each row has a value of its own.

    Warns
    -----
    UserWarning
        If values of a column differ by rounding alone.
    """
    classes = distinct_classes(columns)
    check_classes(columns.argument, columns.names, classes, columns.shape[0], as_numbers)
    return classes


def distinct_classes(columns: Columns) -> list[Classes]:
    """Return the classes of each column, whatever they look like.

    Raises
    ------
    TypeError
        If a column holds neither labels nor real numbers.
    """
    pairs = zip(columns.names, columns.arrays, strict=True)
    return [_find(columns.argument, name, array) for name, array in pairs]


def check_classes(
    argument: str, names: Sequence[str], classes: Sequence[Classes], n: int, as_numbers: str
) -> None:
    """Raise and warn as :func:`find_classes` does, from the classes of n rows."""
    named = dict(zip(names, classes, strict=True))
    if suspects := [
        name
        for name, found in named.items()
        if len(found) > max(10, n / 5) and _has_fractions(found.values)
    ]:
        raise ValueError(
            f"{argument} look continuous in {list_names(suspects)}: floats with more "
            f"distinct values than a fifth of the {n} rows, and each value would be a class. If "
            f"they are quantities, {as_numbers}{_order(argument)}"
        )
    if n > 10 and (suspects := [name for name, found in named.items() if len(found) == n]):
        raise ValueError(
            f"{argument} must not have a different value in every row, as a row number or "
            f"an identifier has; got {n} values in {n} rows in {list_names(suspects)}. Leave that "
            f"column out. If it is a quantity, {as_numbers}"
        )
    for name, found in named.items():
        _warn_of_rounding(argument, name, found.values)


def _order(argument: str) -> str:
    return ". Or are codes and factors in the wrong order?" if argument == "factors" else ""


def _find(argument: str, name: str, array: NDArray[Any]) -> Classes:
    if array.dtype.kind in "cV":
        raise TypeError(
            f"{argument} must hold labels or real numbers; got {array.dtype} in {name!r}"
        )
    if array.dtype.kind == "O":
        return Classes(_distinct_objects(argument, name, array))
    if array.dtype.kind in "biu":
        ends = np.array([array.min(), array.max()])
        if _is_dense(ends):  # counting is faster than sorting
            low = int(ends[0])
            present = np.flatnonzero(np.bincount(array.astype(np.intp) - low))
            return Classes((present + low).astype(array.dtype))
    return Classes(np.unique(array))


def _distinct_objects(argument: str, name: str, array: NDArray[Any]) -> NDArray[Any]:
    try:
        return _as_objects(dict.fromkeys(array))  # sorting would fail for mixed types
    except TypeError as error:
        raise TypeError(f"{argument} must hold hashable labels; {name!r}: {error}") from error


def _as_objects(values: Iterable[Any]) -> NDArray[Any]:
    """Return an array of objects. ``np.array`` would unpack tuples."""
    items = list(values)
    array = np.empty(len(items), object)
    array[:] = items
    return array


def _is_dense(values: NDArray[Any]) -> bool:
    """Tell whether sorted values are integers within a range short enough for a table."""
    if values.dtype.kind not in "biu":
        return False
    low, high = int(values[0]), int(values[-1])
    return high - low < 1 << 16 and low > -(1 << 62) and high < 1 << 62


def _has_fractions(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" and bool((array % 1).any())


def _warn_of_rounding(argument: str, name: str, distinct: NDArray[Any]) -> None:
    if not _has_fractions(distinct):
        return
    single = np.array_equal(distinct, distinct.astype(np.float32))
    error = 16 * float(np.finfo(np.float32 if single else float).eps * np.abs(distinct).max())
    close = np.diff(distinct) <= error
    if not close.any():
        return
    first = int(close.argmax())
    decimals = _decimals(distinct, error, 1 + int((~close).sum()))
    warn_caller(
        f"{argument} have values in {name!r} that differ by rounding alone and count as different "
        f"classes: {distinct[first]} and {distinct[first + 1]}, among others. Round that "
        f"column, for example with numpy.round(column, {decimals})"
    )


def _decimals(distinct: NDArray[Any], error: float, count: int) -> int:
    """Return decimals such that rounding leaves ``count`` distinct values."""
    most = math.floor(-math.log10(error))
    tries = range(most, most - 6, -1)
    return next((d for d in tries if len(np.unique(np.round(distinct, d))) == count), most)
