"""What a user hands to a metric, read as named columns and as weights."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tcdecomp.metrics.columns import Columns, FloatArray, is_missing, list_names

__all__ = ["check_rows", "read_columns", "read_pair", "read_weight"]


def read_pair(
    codes: object, factors: object, sample_weight: object
) -> tuple[Columns, Columns, FloatArray | None]:
    """Return codes, factors and weights of one length, without the rows of weight zero."""
    latents = read_columns(codes, "codes", "z")
    targets = read_columns(factors, "factors", "v", vector=True)
    check_rows(latents, targets)
    if sample_weight is None:
        return latents, targets, None
    weight = read_weight(sample_weight, latents.shape[0])
    used = weight > 0
    return latents.rows(used), targets.rows(used), weight[used]


def check_rows(codes: Columns, factors: Columns) -> None:
    """Refuse factors that are not, row by row, those of the codes."""
    n, n_factors = codes.shape[0], factors.shape[0]
    if n != n_factors:
        raise ValueError(
            f"codes and factors must have one row per item each; got {n} and {n_factors} rows"
        )
    if not (codes.index is None or factors.index is None or codes.index.equals(factors.index)):
        raise ValueError(
            "factors must have the index of codes, since rows are paired in their order; got one "
            "that differs. Pass factors.loc[codes.index], or if the order is right "
            "factors.set_axis(codes.index)"
        )


def read_columns(data: object, argument: str, prefix: str, *, vector: bool = False) -> Columns:
    """Read an array, tensor, list or data frame as columns.

    Parameters
    ----------
    data : array_like, shape (n, columns)
        Or (n,), one column, with ``vector=True``.
    argument : str
        The argument's name in error messages.
    prefix : str
        Columns without a name of their own are called prefix0, prefix1, ...
    vector : bool, optional
        Whether one dimension is enough.

    Columns that have been read are returned as they are.
    """
    if isinstance(data, Columns):
        return data
    if hasattr(data, "columns"):  # a data frame of any library, none of which need be installed
        columns = _frame_columns(data, argument)
    else:
        columns = _array_columns(data, argument, prefix, vector)
    if 0 in columns.shape:
        raise ValueError(
            f"{argument} must have at least one row and one column; got shape {columns.shape}"
        )
    return columns


def read_weight(sample_weight: object, n: int) -> FloatArray:
    """Return the weights as float64, or raise if they are not n weights with a positive sum."""
    array = _native(_as_array(sample_weight, "sample_weight"))
    if array.dtype.kind not in "biuf":
        raise TypeError(f"sample_weight must hold real numbers; got dtype {array.dtype}")
    if array.shape != (n,):
        raise ValueError(
            f"sample_weight must have shape ({n},), one weight for each row of codes; "
            f"got shape {array.shape}"
        )
    weight = array.astype(np.float64)
    bad = ~(np.isfinite(weight) & (weight >= 0))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"sample_weight must be finite and not negative; got {weight[row]} at row {row}"
        )
    with np.errstate(over="ignore"):
        total = weight.sum()
    if not 0 < total < math.inf:
        raise ValueError(f"sample_weight must have a positive, finite sum; got {total}")
    return weight


def _frame_columns(frame: Any, argument: str) -> Columns:
    names = tuple(str(name) for name in frame.columns)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(
            f"{argument} must have distinct column names; got {list_names(repeated)} repeatedly"
        )
    arrays = (_as_array(frame[name], argument) for name in frame.columns)
    return Columns(argument, names, tuple(map(_native, arrays)), _index(frame))


def _array_columns(data: object, argument: str, prefix: str, vector: bool) -> Columns:
    array = _as_array(data, argument)
    if array.ndim == 1 and vector:
        name = getattr(data, "name", None)  # a series has one
        own_name = f"{prefix}0" if name is None else str(name)
        return Columns(argument, (own_name,), (_native(array),), _index(data))
    if array.ndim != 2:
        raise ValueError(
            f"{argument} must have shape (n, columns), one row per item"
            f"{', or (n,)' if vector else ''}; got shape {array.shape}. "
            "A single column is an array of shape (n, 1)"
        )
    names = tuple(f"{prefix}{index}" for index in range(array.shape[1]))
    return Columns(argument, names, tuple(_native(column) for column in array.T))


def _index(data: object) -> Any:
    """Return the index of a pandas frame or series; other data, such as a list, has none."""
    index = getattr(data, "index", None)
    return index if hasattr(index, "equals") else None


def _as_array(data: object, argument: str) -> NDArray[Any]:
    if isinstance(data, Tensor):
        tensor = data.cpu()  # first, since not every device has float64; numpy has no bfloat16
        return (tensor.double() if tensor.is_floating_point() else tensor).numpy(force=True)
    if np.ma.is_masked(data):
        raise ValueError(f"{argument} must have no masked values. Leave those rows out")
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise ValueError(f"{argument} must be an array; numpy says: {error}") from error
    if array.dtype.kind in "US" and not isinstance(data, np.ndarray):
        # beside a string numpy turns a list's numbers, None and NaN into strings too
        return np.asarray(data, dtype=object)
    return array


def _native(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of Python objects as one of numbers (missing ones NaN) if it holds such."""
    if array.dtype.kind not in "OT":
        return array
    values = [math.nan if is_missing(value) else value for value in array.ravel()]
    if all(isinstance(value, Real) for value in values):
        return np.array(values).reshape(array.shape)
    return array.astype(object)
