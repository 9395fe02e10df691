"""How a batch stands for the data set: the weights of the own component and of each other.

An estimator of log q(z) and log q(z_j) is a function ``(others, dataset_size) -> (own, other)``:
the weight of a point's own component, and that of each of its ``others`` other components. Any
such function may be given in place of a name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

__all__ = ["ESTIMATORS", "Estimator", "inclusive", "mss", "mss_jackknife", "mws", "resolve"]

Estimator = Callable[[int, int], tuple[float, float]]


def mss(others: int, dataset_size: int) -> tuple[float, float]:
    """Minibatch stratified sampling, in its symmetric form: q(z) without bias.

    The own component has its true weight 1/N, the ``others`` stand for the remaining N - 1
    items: (N - 1) / (N * others) each. It is the average of the paper's form (Chen et al. 2018,
    appendix C.2) over its arbitrary choice of one special row; at M = N it is exact.

    Raises
    ------
    ValueError
        If there is no other component, though the data set has other items.
    """
    if others == 0 and dataset_size > 1:
        raise ValueError(
            "z, mu and logvar must have M >= 2 rows for estimator 'mss' when dataset_size is "
            f"above 1; got M = 1 with dataset_size {dataset_size}. A DataLoader with "
            "drop_last=True makes no last batch of one row"
        )
    return 1 / dataset_size, (dataset_size - 1) / (dataset_size * max(others, 1))


def mws(others: int, dataset_size: int) -> tuple[float, float]:
    """Minibatch weighted sampling (Chen et al. 2018, eq. 4 and appendix C.1): 1 / (N M) for all.

    It is the inclusive estimate with log N taken off every log-density, so that the *values* of
    its terms are off by log N (MI), (D - 1) log N (TC) and -D log N (dimension-wise KL).
    """
    weight = 1 / (dataset_size * (others + 1))
    return weight, weight


def inclusive(others: int, dataset_size: int) -> tuple[float, float]:
    """Take the batch for the data set: 1 / M for all. MI is at most log M."""
    weight = 1 / (others + 1)
    return weight, weight


def mss_jackknife(others: int, dataset_size: int) -> tuple[float, float]:
    """Take the bias of the logarithm off that of :func:`mss`; the weights are its own.

    q(z) is estimated without bias by :func:`mss`, log q(z) is not. The delete-one jackknife for
    drawing without replacement leaves out one other component at a time; see
    :mod:`tcdecomp.minibatch.jackknife`. At M = N it is exact, too.

    Raises
    ------
    ValueError
        If there are fewer than two others, though the data set has other items.
    """
    if others < 2 and dataset_size > 1:
        raise ValueError(
            "z, mu and logvar must have M >= 3 rows for estimator 'mss-jackknife' when "
            f"dataset_size is above 1; got M = {others + 1} with dataset_size {dataset_size}"
        )
    return mss(others, dataset_size)


ESTIMATORS: dict[str, Estimator] = {
    "mss": mss,
    "mss-jackknife": mss_jackknife,
    "mws": mws,
    "inclusive": inclusive,
}


def resolve(estimator: str | Estimator) -> Estimator:
    """Return the estimator of that name, or the caller's own with its result checked.

    Raises
    ------
    ValueError
        If no estimator has that name.
    TypeError
        If it is neither a name nor callable.
    """
    if callable(estimator):
        return _checked(estimator)
    if not isinstance(estimator, str):
        raise TypeError(
            "estimator must be a name or a callable (others, dataset_size) -> (own, other); "
            f"got {type(estimator).__name__}"
        )
    if estimator not in ESTIMATORS:
        names = ", ".join(map(repr, ESTIMATORS))
        raise ValueError(f"estimator must be one of {names}, or a callable; got {estimator!r}")
    return ESTIMATORS[estimator]


def _checked(estimator: Estimator) -> Estimator:
    def checked(others: int, dataset_size: int) -> tuple[float, float]:
        weights = estimator(others, dataset_size)
        if not _are_weights(weights) or (others == 0 and weights[0] == 0):
            raise ValueError(
                "estimator must return two finite weights (own, other) >= 0, not both 0, and own "
                f"> 0 where there is no other; got {weights!r} for {others} others"
            )
        return weights

    return checked


def _are_weights(weights: object) -> bool:
    return (
        isinstance(weights, tuple)
        and len(weights) == 2
        and all(isinstance(w, Real) and math.isfinite(w) and float(w) >= 0 for w in weights)
        and any(w > 0 for w in weights)
    )
