"""Codes and factors as integer labels: one label for each bin, or for each distinct value."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcdecomp.metrics.columns import Columns, FloatArray, list_names
from tcdecomp.metrics.discretization import Binning, Labels

__all__ = ["label_factors", "label_latents"]


def label_latents(codes: Columns, binning: Binning, weight: FloatArray | None) -> list[Labels]:
    """Bin every latent. Warn about latents that vary but fall into a single bin."""
    columns = codes.as_floats()
    labels = binning.label(columns, weight)
    single = np.array([label.size == 1 for label in labels])
    if lost := codes.named(single & (np.ptp(columns, axis=0) > 0)):
        warnings.warn(
            f"codes vary in {list_names(lost)}, but fall into one {binning.strategy} bin there and "
            "count as having no information: nearly all rows share one value, or the values lie "
            "within 1e-8, where scikit-learn merges bins. Rescale the codes, or use "
            "strategy='uniform'",
            stacklevel=3,
        )
    return labels


def label_factors(
    factors: Columns, discrete: Sequence[bool], binning: Binning, weight: FloatArray | None
) -> list[Labels]:
    """Label each factor by its distinct values if it is discrete, else by bins.

    Raises
    ------
    TypeError
        If a factor holds neither numbers nor labels, or labels that would have to be binned.
    ValueError
        If values are missing, a factor has a single label, or a discrete factor looks continuous.
    """
    factors.refuse_missing()
    labels = []
    for name, array, flag in zip(factors.names, factors.arrays, discrete, strict=True):
        if flag:
            labels.append(_number_values(name, array))
        else:
            column = Columns(factors.argument, (name,), (array,))
            remedy = ", which cannot be binned: mark it as discrete in discrete_factors"
            labels.extend(binning.label(column.as_floats(remedy), weight))
    _refuse_single_label(factors, labels)
    _refuse_continuous(factors, labels, discrete)
    return labels


def _number_values(name: str, array: NDArray[Any]) -> Labels:
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
    if single := factors.named(label.values.min() == label.values.max() for label in labels):
        raise ValueError(
            "factors must take at least two values (two bins, if they are not discrete) in the "
            f"rows of positive weight; got one in {list_names(single)}. The entropy of such a "
            "factor is 0: leave it out"
        )


def _refuse_continuous(
    factors: Columns, labels: Sequence[Labels], discrete: Sequence[bool]
) -> None:
    n, _ = factors.shape
    triples = zip(factors.arrays, labels, discrete, strict=True)
    if suspects := factors.named(
        flag and label.size > max(10, n / 5) and _has_fractions(array)
        for array, label, flag in triples
    ):
        raise ValueError(
            f"factors look continuous in {list_names(suspects)}: floats with more distinct values "
            f"than a fifth of the {n} rows, and each value would be a class. Pass "
            "discrete_factors=False to bin them, or a list with one bool per factor"
        )


def _has_fractions(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" and bool((array % 1).any())
