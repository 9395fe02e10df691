"""How each latent and each factor becomes integer labels: by bins, or by classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tcdecomp.metrics.bins import Binning, Bins
from tcdecomp.metrics.classes import Classes, find_classes
from tcdecomp.metrics.columns import Columns, FloatArray, list_names, warn_caller
from tcdecomp.metrics.inputs import read_flags, refuse_single

__all__ = ["Coding", "code_factors", "code_latents"]

Coding = Bins | Classes


def code_latents(
    codes: Columns, discrete: object, binning: Binning, weight: FloatArray | None
) -> list[Coding]:
    """Return the coding of each latent.

    ``discrete`` is one bool, one for each latent, or None: bins, with a warning for integers.
    """
    flags = [False] * codes.shape[1]
    if discrete is not None:
        flags = read_flags(discrete, "discrete_codes", "latent", codes.shape[1])
    codings = _code(codes, flags, binning, weight, "discrete_codes", "latent")
    _warn_of_lost(codes, codings, binning)
    if discrete is None:
        _warn_of_merged(codes, codings)
    return codings


def code_factors(
    factors: Columns, discrete: object, binning: Binning, weight: FloatArray | None
) -> list[Coding]:
    """Return the coding of each factor. ``discrete`` is one bool, or one for each factor."""
    flags = read_flags(discrete, "discrete_factors", "factor", factors.shape[1])
    factors.refuse_missing()
    codings = _code(factors, flags, binning, weight, "discrete_factors", "factor")
    refuse_single(factors, (len(coding) == 1 for coding in codings))
    return codings


def _code(
    columns: Columns,
    discrete: Sequence[bool],
    binning: Binning,
    weight: FloatArray | None,
    option: str,
    column: str,
) -> list[Coding]:
    binned = columns.chosen([not flag for flag in discrete])
    remedy = f", which cannot be binned: mark it as discrete in {option}"
    bins = iter(binning.fit(binned.as_floats(remedy), weight) if binned.names else ())
    labels = columns.chosen(discrete)
    labels.refuse_missing()
    as_numbers = f"pass {option}=False, or a list with one bool per {column}"
    classes = iter(find_classes(labels, as_numbers))
    return [next(classes) if flag else next(bins) for flag in discrete]


def _warn_of_lost(codes: Columns, codings: Sequence[Coding], binning: Binning) -> None:
    if lost := codes.named(
        len(coding) == 1 and bool((array != array[0]).any())
        for array, coding in zip(codes.arrays, codings, strict=True)
    ):
        warn_caller(
            f"codes vary in {list_names(lost)}, but fall into one {binning.strategy} bin there and "
            "count as having no information: nearly all rows share one value, or the values lie "
            "within 1e-8, where scikit-learn merges bins. Use strategy='robust'"
        )


def _warn_of_merged(codes: Columns, codings: Sequence[Coding]) -> None:
    if merged := codes.named(
        _is_whole(array) and len(np.unique(array)) > len(coding)
        for array, coding in zip(codes.arrays, codings, strict=True)
    ):
        warn_caller(
            f"codes hold whole numbers in {list_names(merged)}, and bins merge some of them. If "
            "they are labels, such as codebook indices, pass discrete_codes=True, or a list with "
            "one bool per latent. If they are quantities, pass discrete_codes=False"
        )


def _is_whole(array: np.ndarray) -> bool:
    if array.dtype.kind != "f":
        return array.dtype.kind in "biu"
    return all((part == np.floor(part)).all() for part in (array[:100], array))
