"""Factors as integer labels: one per distinct value where discrete, one per bin where not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tcdecomp.metrics.columns import Columns, FloatArray, list_names
from tcdecomp.metrics.discretization import Binning, Labels

__all__ = ["label_factors", "read_discrete"]


def read_discrete(discrete_factors: object, n_factors: int) -> list[bool]:
    """Return one flag per factor from one bool for all, or a sequence of them."""
    flags: Any = (
        discrete_factors.tolist() if hasattr(discrete_factors, "tolist") else discrete_factors
    )
    if isinstance(flags, bool):
        return [flags] * n_factors
    if not isinstance(flags, Sequence) or not all(
        isinstance(flag, bool | np.bool_) for flag in flags
    ):
        raise TypeError(
            "discrete_factors must be a bool, or a sequence with one bool per factor; "
            f"got {discrete_factors!r}"
        )
    if len(flags) != n_factors:
        raise ValueError(
            f"discrete_factors must have one bool for each of the {n_factors} factors; "
            f"got {len(flags)}"
        )
    return list(map(bool, flags))


def label_factors(
    factors: Columns, discrete: Sequence[bool], binning: Binning, weight: FloatArray | None
) -> list[Labels]:
    """Label each factor.

    Raises
    ------
    TypeError
        If a factor holds neither numbers nor labels, or labels where it is to be binned.
    ValueError
        If values are missing, a factor has a single label, or it is called discrete and looks
        continuous.
    """
    factors.refuse_missing()
    labels = [
        _number_values(factor) if flag else _bin(factor, binning, weight)
        for factor, flag in zip(factors.split(), discrete, strict=True)
    ]
    _refuse_single_label(factors, labels)
    _refuse_continuous(factors, labels, discrete)
    return labels


def _bin(factor: Columns, binning: Binning, weight: FloatArray | None) -> Labels:
    remedy = ", which cannot be binned: mark it as discrete in discrete_factors"
    return binning.apply(factor.as_floats(remedy), weight)[0]


def _number_values(factor: Columns) -> Labels:
    (name,), (array,) = factor.names, factor.arrays
    if array.dtype.kind in "cV":
        raise TypeError(f"factors must hold labels or real numbers; got {array.dtype} in {name!r}")
    if array.dtype.kind != "O":
        distinct, values = np.unique(array, return_inverse=True)
        return Labels(values, len(distinct))
    numbers: dict[Any, int] = {}  # np.unique would sort, which mixed types do not allow
    try:
        values = np.array([numbers.setdefault(value, len(numbers)) for value in array])
    except TypeError as error:
        raise TypeError(f"factors must hold hashable labels; {name!r}: {error}") from error
    return Labels(values, len(numbers))


def _refuse_single_label(factors: Columns, labels: Sequence[Labels]) -> None:
    pairs = zip(factors.names, labels, strict=True)
    single = [name for name, label in pairs if label.size == 1]
    if single:
        raise ValueError(
            "factors must take at least two values (two bins, if they are not discrete) in the "
            f"rows of positive weight; got one in {list_names(single)}. Its entropy is 0: leave "
            "that factor out"
        )


def _refuse_continuous(
    factors: Columns, labels: Sequence[Labels], discrete: Sequence[bool]
) -> None:
    n, _ = factors.shape
    triples = zip(factors.split(), labels, discrete, strict=True)
    suspects = [
        factor.names[0]
        for factor, label, flag in triples
        if flag and label.size > max(10, n / 5) and _has_fractions(factor)
    ]
    if suspects:
        raise ValueError(
            f"factors look continuous in {list_names(suspects)}: floats with more distinct values "
            f"than a fifth of the {n} rows, each of which would be a class of its own. Pass "
            "discrete_factors=False to bin them, or a list with one bool per factor"
        )


def _has_fractions(factor: Columns) -> bool:
    (array,) = factor.arrays
    return array.dtype.kind == "f" and bool((array % 1).any())
