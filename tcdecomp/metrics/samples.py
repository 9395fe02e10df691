"""Codes and factors row by row, for scores that fit models or compare rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcdecomp.metrics.classes import find_classes
from tcdecomp.metrics.columns import Columns, FloatArray
from tcdecomp.metrics.inputs import read_flags, read_pair, refuse_single

__all__ = ["Samples", "correlations", "deviations", "read_samples", "split_rows", "standardised"]


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
    optional: bool = False,
) -> Samples:
    """Read codes and factors.

    With ``discrete_codes``, the codes are the labels 0, 1, ... ``optional`` says that the score has
    the option ``discrete_factors``, which errors then offer.

    Raises
    ------
    TypeError, ValueError
        As :func:`tcdecomp.mig_score` does.
    """
    latents, targets, weight = read_pair(codes, factors, sample_weight)
    discrete = read_flags(discrete_factors, "discrete_factors", "factor", targets.shape[1])
    columns = _read_factors(targets, discrete, optional)
    if not discrete_codes:
        return Samples(latents.as_floats(), columns, discrete, weight)
    latents.refuse_missing()
    classes = find_classes(latents, "pass discrete_codes=False")
    pairs = zip(classes, latents.arrays, strict=True)
    labels = np.stack([found.label(array) for found, array in pairs], 1)
    return Samples(labels.astype(np.float64), columns, discrete, weight)


def _read_factors(targets: Columns, discrete: list[bool], optional: bool) -> list[NDArray[Any]]:
    """Return the labels of discrete factors, and the numbers of the others."""
    as_numbers = "bin that column first, for example with numpy.digitize: this score needs classes"
    as_labels = ". This score compares numbers: give labels numbers that have a meaning"
    if optional:
        as_numbers = "pass discrete_factors=False, or a list with one bool per factor"
        as_labels = ", which is no number: mark it as discrete in discrete_factors"
    targets.refuse_missing()
    labels = targets.chosen(discrete)
    numbers = targets.chosen([not flag for flag in discrete])
    pairs = zip(find_classes(labels, as_numbers), labels.arrays, strict=True)
    found = iter([classes.label(array) for classes, array in pairs])
    given = iter(numbers.as_floats(as_labels).T if numbers.names else ())
    columns = [next(found) if flag else next(given) for flag in discrete]
    refuse_single(targets, ((column == column[0]).all() for column in columns))
    return columns


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


def deviations(codes: FloatArray, weight: FloatArray | None = None) -> FloatArray:
    """Return the standard deviation of each column; exactly 0 for constant columns."""
    shifted = codes - codes[0]  # a constant column has mean 0 exactly
    centred = shifted - np.average(shifted, axis=0, weights=weight)
    return np.asarray(np.sqrt(np.average(centred**2, axis=0, weights=weight)))


def standardised(codes: FloatArray, weight: FloatArray | None = None) -> FloatArray:
    """Return columns of mean 0 and variance 1; constant columns become exactly 0."""
    centred = codes - np.average(codes, axis=0, weights=weight)
    deviation = deviations(codes, weight)
    return np.asarray(np.divide(centred, deviation, out=np.zeros_like(codes), where=deviation > 0))


def correlations(a: FloatArray, b: FloatArray, weight: FloatArray | None = None) -> FloatArray:
    """Return Pearson's correlation of each column of a with each of b; 0 for constant columns."""
    x, y = standardised(a, weight), standardised(b, weight)
    share = np.full(len(x), 1 / len(x)) if weight is None else weight / weight.sum()
    return np.asarray(np.clip((x * share[:, None]).T @ y, -1, 1))
