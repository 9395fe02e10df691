"""Read what a caller hands to a score: named columns, weights, and one bool for each column."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcdecomp.metrics.columns import Columns, FloatArray, is_missing, list_names

__all__ = [
    "as_array",
    "check_choice",
    "check_rows",
    "read_columns",
    "read_flags",
    "read_pair",
    "read_rows",
    "read_weight",
    "refuse_single",
]


def read_rows(codes: object, sample_weight: object) -> tuple[Columns, FloatArray | None]:
    """Return codes and weights of one length, without the rows of weight zero."""
    latents = read_columns(codes, "codes", "z")
    if sample_weight is None:
        return latents, None
    weight = read_weight(sample_weight, latents.shape[0])
    return latents.rows(weight > 0), weight[weight > 0]


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


def check_row_counts(name: str, shape: tuple[int, ...], factors: tuple[int, ...]) -> None:
    """Refuse factors that have another number of rows than the array of this name."""
    n, n_factors = shape[0], factors[0]
    if n == n_factors:
        return
    remedy = ""
    if n < shape[1] == n_factors:
        remedy = f". {name} must have shape (n, D), and may be transposed. Pass {name}.T"
    elif n in factors or n_factors == 2:
        remedy = (
            f". An array of shape {factors}, such as a transposed array or the edge list of a "
            "graph, holds no factors: they need shape (n, K)"
        )
    raise ValueError(
        f"{name} and factors must have one row per item each; got {n} and {n_factors} rows{remedy}"
    )


def check_rows(codes: Columns, factors: Columns) -> None:
    """Refuse factors whose rows do not belong to the rows of the codes."""
    check_row_counts("codes", codes.shape, factors.shape)
    if not (codes.index is None or factors.index is None or codes.index.equals(factors.index)):
        raise ValueError(
            "factors must have the same index as codes, because rows are paired by position; "
            "got different ones. Pass factors.loc[codes.index], or factors.set_axis(codes.index) "
            "if the order is right"
        )


def read_columns(data: object, argument: str, prefix: str, *, vector: bool = False) -> Columns:
    """Read an array, tensor, list or data frame as columns.

    Parameters
    ----------
    data : array_like, shape (n, columns)
        Also (n,), one column, if ``vector=True``. ``Columns`` are returned unchanged.
    argument : str
        The argument's name in error messages.
    prefix : str
        Columns without a name are called prefix0, prefix1, ...
    vector : bool, optional
        Whether one dimension is enough.
    """
    if isinstance(data, Columns):
        return data
    if hasattr(data, "columns"):  # a data frame of any library
        columns = _frame_columns(data, argument)
    else:
        columns = _array_columns(data, argument, prefix, vector)
    if 0 in columns.shape:
        raise ValueError(
            f"{argument} must have at least one row and one column; got shape {columns.shape}"
        )
    return columns


def read_weight(sample_weight: object, n: int) -> FloatArray:
    """Return the weights as float64 of shape (n,), or raise if they are no weights."""
    array = _as_numbers(as_array(sample_weight, "sample_weight"))
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


def read_flags(flags: object, argument: str, of: str, count: int) -> list[bool]:
    """Return one bool for each of ``count`` columns, from one bool or a sequence of bools."""
    array = np.asarray(flags, dtype=object)
    if array.ndim > 1 or not all(isinstance(flag, bool | np.bool_) for flag in array.ravel()):
        raise TypeError(
            f"{argument} must be a bool, or a sequence with one bool per {of}; got {flags!r}"
        )
    if array.ndim and len(array) != count:
        raise ValueError(
            f"{argument} must have one bool for each of the {count} {of}s; got {len(array)}"
        )
    return [bool(flag) for flag in np.broadcast_to(array, count)]


def refuse_single(factors: Columns, flags: Iterable[Any]) -> None:
    """Raise a ValueError that names the factors with a true flag: they have a single label."""
    if single := factors.named(flags):
        rows, columns = factors.shape
        remedy = "The entropy of such a factor is 0: leave it out"
        if columns > rows:
            remedy = f"factors have {columns} columns of {rows} rows: pass factors.T"
        raise ValueError(
            "factors must take at least two values (two bins, if they are not discrete) in the "
            f"rows of positive weight; got one in {list_names(single)}. {remedy}"
        )


def check_choice(argument: str, value: object, choices: Sequence[object]) -> None:
    """Refuse a value that is not among the choices."""
    if not any(value == choice for choice in choices):
        *most, last = map(repr, choices)
        raise ValueError(f"{argument} must be {', '.join(most)} or {last}; got {value!r}")


def _frame_columns(frame: Any, argument: str) -> Columns:
    names = tuple(str(name) for name in frame.columns)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(
            f"{argument} must have distinct column names; got {list_names(repeated)} repeatedly"
        )
    arrays = tuple(_as_numbers(as_array(frame[name], argument)) for name in frame.columns)
    return Columns(argument, names, arrays, _index(frame))


def _array_columns(data: object, argument: str, prefix: str, vector: bool) -> Columns:
    array = as_array(data, argument)
    if array.ndim == 1 and vector:
        name = getattr(data, "name", None)  # a pandas series has one
        own_name = f"{prefix}0" if name is None else str(name)
        return Columns(argument, (own_name,), (_as_numbers(array),), _index(data))
    if array.ndim != 2:
        got = f"shape {array.shape}" if array.ndim else type(data).__name__
        raise ValueError(
            f"{argument} must have shape (n, columns), one row per item"
            f"{', or (n,)' if vector else ''}; got {got}. "
            "A single column is an array of shape (n, 1)"
        )
    names = tuple(f"{prefix}{index}" for index in range(array.shape[1]))
    return Columns(argument, names, tuple(map(_as_numbers, array.T)))


def _index(data: object) -> Any:
    """Return the index of a pandas frame or series. Other data, such as a list, has none."""
    index = getattr(data, "index", None)
    return index if hasattr(index, "equals") else None


def as_array(data: object, argument: str) -> NDArray[Any]:
    """Return any array, tensor or list as a numpy array. Errors name the argument."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(data, torch.Tensor):
        tensor: Any = data.cpu()  # before .double(), which some devices lack
        # numpy has no bfloat16
        return np.asarray(
            (tensor.double() if tensor.is_floating_point() else tensor).numpy(force=True)
        )
    if np.ma.is_masked(data):
        raise ValueError(f"{argument} must have no masked values. Leave those rows out")
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise ValueError(f"{argument} must be an array; numpy says: {error}") from error
    if array.dtype.name == "bfloat16":  # of JAX: a dtype of ml_dtypes
        return array.astype(np.float32)
    if array.dtype.kind in "US" and not isinstance(data, np.ndarray):
        # numpy turns the numbers, None and NaN of a list into strings if one element is a string
        return np.asarray(data, dtype=object)
    return array


def _as_numbers(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of Python objects as numbers (NaN where missing) if it holds numbers."""
    if array.dtype.kind not in "OT":
        return array
    values = [math.nan if is_missing(value) else value for value in array.ravel()]
    if all(isinstance(value, Real) for value in values):
        return np.array(values).reshape(array.shape)
    return array.astype(object)
