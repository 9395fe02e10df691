"""Codes and factors row by row, for scores that fit models or compare rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcdecomp.metrics.classes import find_classes
from tcdecomp.metrics.columns import FloatArray
from tcdecomp.metrics.inputs import read_flags, read_pair, refuse_single

__all__ = ["Samples", "correlations", "read_samples", "split_rows", "standardised"]


class Samples(NamedTuple):
    """Checked codes and factors, without the rows of weight zero.

    Attributes
    ----------
    codes : ndarray, shape (n, D)
    factors : list of K ndarrays, shape (n,)
        The labels 0, 1, ... of a discrete factor, and the numbers of any other.
    discrete : list of K bools
    weight : ndarray, shape (n,), or None
    """

    codes: FloatArray
    factors: list[NDArray[Any]]
    discrete: list[bool]
    weight: FloatArray | None

    def rows(self, chosen: NDArray[np.intp]) -> Samples:
        """Return the chosen rows."""
        weight = None if self.weight is None else self.weight[chosen]
        factors = [factor[chosen] for factor in self.factors]
        return Samples(self.codes[chosen], factors, self.discrete, weight)


def read_samples(
    codes: ArrayLike,
    factors: ArrayLike | None,
    discrete_factors: bool | Sequence[bool] = True,
    sample_weight: ArrayLike | None = None,
    *,
    discrete_codes: bool = False,
    only_numbers: bool = False,
) -> Samples:
    """Read codes and factors.

    With ``discrete_codes``, the codes are the labels 0, 1, ... With ``only_numbers``, no factor is
    discrete, and errors do not offer it.

    Raises
    ------
    TypeError, ValueError
        As :func:`tcdecomp.mig_score` does.
    """
    latents, targets, weight = read_pair(codes, factors, sample_weight)
    flags = False if only_numbers else discrete_factors
    discrete = read_flags(flags, "discrete_factors", "factor", targets.shape[1])
    targets.refuse_missing()
    labels = targets.chosen(discrete)
    classes = find_classes(labels, "discrete_factors=False")
    numbers = targets.chosen([not flag for flag in discrete])
    remedy = ", which is no number: mark it as discrete in discrete_factors"
    if only_numbers:
        remedy = ". This score compares numbers: give labels numbers that have a meaning"
    found = iter(c.label(array) for c, array in zip(classes, labels.arrays, strict=True))
    given = iter(numbers.as_floats(remedy).T if numbers.names else ())
    columns = [next(found) if flag else next(given) for flag in discrete]
    refuse_single(targets, ((column == column[0]).all() for column in columns))
    if not discrete_codes:
        return Samples(latents.as_floats(), columns, discrete, weight)
    latents.refuse_missing()
    pairs = zip(find_classes(latents, "discrete_codes=False"), latents.arrays, strict=True)
    numbered = np.stack([found.label(array) for found, array in pairs], 1).astype(float)
    return Samples(numbered, columns, discrete, weight)


def split_rows(
    samples: Samples, test_size: float | ArrayLike, random_state: Any
) -> tuple[Samples, Samples]:
    """Return the rows to fit on, and the rows to test on.

    ``test_size`` is the share of test rows, which are drawn at random, or a bool for each row.
    """
    from sklearn.utils import check_random_state

    n = len(samples.codes)
    given = np.asarray(test_size)
    if given.dtype == bool and given.shape == (n,):
        test = given
    elif given.ndim == 0 and given.dtype.kind == "f" and 0 < given < 1:
        test = check_random_state(random_state).permutation(n) < round(float(given) * n)
    else:
        raise ValueError(
            f"test_size must be a number between 0 and 1, or {n} bools, one per row; "
            f"got {test_size!r}"
        )
    if not (test.any() and not test.all()):
        raise ValueError(f"test_size must leave rows on both sides; got {test_size!r} of {n} rows")
    return samples.rows(np.flatnonzero(~test)), samples.rows(np.flatnonzero(test))


def standardised(codes: FloatArray, weight: FloatArray | None = None) -> FloatArray:
    """Return columns of mean 0 and variance 1; constant columns become exactly 0."""
    shifted = codes - codes[0]  # a constant column has mean 0 exactly
    centred = shifted - np.average(shifted, axis=0, weights=weight)
    deviation = np.sqrt(np.average(centred**2, axis=0, weights=weight))
    constant = np.ptp(codes, axis=0) == 0
    return np.asarray(np.divide(centred, deviation, out=np.zeros_like(centred), where=~constant))


def correlations(a: FloatArray, b: FloatArray, weight: FloatArray | None = None) -> FloatArray:
    """Return Pearson's correlation of each column of a with each of b; 0 for constant columns."""
    x, y = standardised(a, weight), standardised(b, weight)
    share = np.full(len(x), 1 / len(x)) if weight is None else weight / weight.sum()
    return np.asarray(np.clip((x * share[:, None]).T @ y, -1, 1))
