"""How a batch stands for the data set: the weights of q(z)'s components, and what they give.

The *weights* of an estimator are a function ``(others, dataset_size) -> (own, other)``: the weight
of a point's own component, and that of each of its ``others`` other components. An
:class:`Estimator` makes log q(z) and log q(z_j) of them. Any such function may be given in place of
a name; the estimators of this module are such functions themselves.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tcdecomp.minibatch.mixture import Mixture

__all__ = [
    "Estimator",
    "Weights",
    "estimator_of",
    "inclusive",
    "log_weight",
    "mss",
    "mss_jackknife",
    "mws",
]

Weights = Callable[[int, int], tuple[float, float]]


class Estimator:
    """An estimate of log q(z) and log q(z_j): the logarithm of the weighted sum of components.

    Parameters
    ----------
    weights : callable
        ``(others, dataset_size) -> (own, other)``.
    """

    def __init__(self, weights: Weights) -> None:
        functools.update_wrapper(self, weights)
        self.__name__ = getattr(weights, "__name__", type(weights).__name__)
        self.weights = weights

    #: Items that a batch must have, unless it has all of the data set.
    fewest = 1

    def __call__(self, others: int, dataset_size: int) -> tuple[float, float]:
        """Return the weights of a point's own component and of each other one.

        Raises
        ------
        ValueError
            If there are too few others.
        """
        if others + 1 < min(self.fewest, dataset_size):
            raise ValueError(
                f"z, mu and logvar must have M >= {self.fewest} rows for estimator "
                f"{self.__name__.replace('_', '-')!r} when dataset_size is above M; got "
                f"M = {others + 1} with dataset_size {dataset_size}. A DataLoader with "
                "drop_last=True makes no small last batch"
            )
        return self.weights(others, dataset_size)

    def check(self, mixture: Mixture) -> None:
        """Raise a ValueError if the estimator does not serve a mixture."""
        self(mixture.others, mixture.dataset_size)

    def log_densities(self, mixture: Mixture, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return log q(z), shape (M,), and log q(z_j), shape (M, D)."""
        return mixture.weighed(z, *self(mixture.others, mixture.dataset_size))

    def mean_log_density(self, mixture: Mixture, z: Tensor, **coefficients: float) -> Tensor:
        """Return ``joint * mean log q(z) + marginal * mean sum_j log q(z_j)``, a scalar.

        ``kl`` is a third coefficient where :meth:`adds_kl`; see :meth:`Mixture.mean_weighed`.
        """
        weights = self(mixture.others, mixture.dataset_size)
        return mixture.mean_weighed(z, *weights, **coefficients)

    def adds_kl(self, mixture: Mixture) -> bool:
        """Tell whether :meth:`mean_log_density` takes the KL to the standard normal along."""
        return mixture.plain

    def of_pairs(self, own: Tensor, pairs: Tensor, dataset_size: int) -> Tensor:
        """Return log-densities (M, ...) from those of all pairs of M points and K components.

        Parameters
        ----------
        own : Tensor, shape (M, ...)
            Log-density of each point under its own component.
        pairs : Tensor, shape (M, K, ...)
            Log-density of each point under each component, -inf under its own.
        dataset_size : int
            N.
        """
        log_own, log_other = map(log_weight, self(pairs.shape[1] - 1, dataset_size))
        return torch.logaddexp(own + log_own, pairs.logsumexp(1) + log_other)

    def __repr__(self) -> str:
        return f"<estimator {self.__name__}>"

    def __reduce__(self) -> str | tuple[object, ...]:
        # A named estimator is pickled by its name, as a function is.
        name = str(self.__name__)
        if globals().get(name) is self:
            return name
        return type(self), (self.weights,)


class _Jackknife(Estimator):
    """The delete-one jackknife of an estimator; see :mod:`tcdecomp.minibatch.jackknife`."""

    fewest = 3

    def check(self, mixture: Mixture) -> None:
        if mixture.own_rows is not None:
            raise ValueError(
                "estimator must not be 'mss-jackknife' where an item has several rows: it leaves "
                "out one row at a time, and rows of one item are not drawn one by one. "
                "estimator='mss' serves"
            )
        super().check(mixture)

    def log_densities(self, mixture: Mixture, z: Tensor) -> tuple[Tensor, Tensor]:
        from tcdecomp.minibatch import jackknife  # which imports sympy, through torch's checkpoint

        return jackknife.log_densities(mixture, z)

    def of_pairs(self, own: Tensor, pairs: Tensor, dataset_size: int) -> Tensor:
        from tcdecomp.minibatch import jackknife

        self(pairs.shape[1] - 1, dataset_size)
        return jackknife.jackknifed(own, pairs, dataset_size)

    def mean_log_density(self, mixture: Mixture, z: Tensor, **coefficients: float) -> Tensor:
        log_qz, log_qz_j = self.log_densities(mixture, z)
        joint, marginal = coefficients["joint"], coefficients["marginal"]
        return joint * log_qz.mean() + marginal * log_qz_j.sum(1).mean()

    def adds_kl(self, mixture: Mixture) -> bool:
        return False


def _estimator(fewest: int, kind: type[Estimator] = Estimator) -> Callable[[Weights], Estimator]:
    def made(weights: Weights) -> Estimator:
        estimator = kind(weights)
        estimator.fewest = fewest
        return estimator

    return made


@_estimator(fewest=2)
def mss(others: int, dataset_size: int) -> tuple[float, float]:
    """Minibatch stratified sampling, in its symmetric form: q(z) without bias.

    The own component has its true weight 1/N. The ``others`` stand for the remaining N - 1 items,
    with a weight of (N - 1) / (N * others) each. This is the average of the paper's form (Chen et
    al. 2018, appendix C.2) over its arbitrary choice of one special row. At M = N it is exact.

    Raises
    ------
    ValueError
        If there is no other component, though the data set has other items.
    """
    return 1 / dataset_size, (dataset_size - 1) / (dataset_size * max(others, 1))


@_estimator(fewest=1)
def mws(others: int, dataset_size: int) -> tuple[float, float]:
    """Minibatch weighted sampling (Chen et al. 2018, eq. 4 and appendix C.1): 1 / (N M) for all.

    This is the inclusive estimate with log N taken off every log-density. The *values* of its
    terms are off by log N (MI), (D - 1) log N (TC) and -D log N (dimension-wise KL).
    """
    weight = 1 / (dataset_size * (others + 1))
    return weight, weight


@_estimator(fewest=1)
def inclusive(others: int, dataset_size: int) -> tuple[float, float]:
    """Take the batch for the data set: 1 / M for all. MI is at most log M."""
    weight = 1 / (others + 1)
    return weight, weight


@_estimator(fewest=3, kind=_Jackknife)
def mss_jackknife(others: int, dataset_size: int) -> tuple[float, float]:
    """Use the weights of :func:`~tcdecomp.estimators.mss`, and let the jackknife correct log q(z).

    MSS is unbiased for q(z), but not for log q(z). The delete-one jackknife for drawing without
    replacement leaves out one other component at a time; see :mod:`tcdecomp.minibatch.jackknife`.
    At M = N it is exact, too.

    Raises
    ------
    ValueError
        If there are fewer than two others, though the data set has other items; or if an item has
        several rows.
    """
    return mss.weights(others, dataset_size)


_NAMED = {"mss": mss, "mss-jackknife": mss_jackknife, "mws": mws, "inclusive": inclusive}


def estimator_of(estimator: str | Weights) -> Estimator:
    """Return the estimator of that name, or the one of the caller's own weights.

    Raises
    ------
    ValueError
        If no estimator has that name.
    TypeError
        If it is neither a name nor callable.
    """
    if isinstance(estimator, Estimator):
        return estimator
    if callable(estimator):
        return Estimator(_checked(estimator))
    if not isinstance(estimator, str):
        raise TypeError(
            "estimator must be a name or a callable (others, dataset_size) -> (own, other); "
            f"got {type(estimator).__name__}"
        )
    if estimator not in _NAMED:
        names = ", ".join(map(repr, _NAMED))
        raise ValueError(f"estimator must be one of {names}, or a callable; got {estimator!r}")
    return _NAMED[estimator]


def log_weight(weight: float) -> float:
    """Return the logarithm of a weight, -inf for 0."""
    return math.log(weight) if weight > 0 else -math.inf


def _checked(weights: Weights) -> Weights:
    @functools.wraps(weights, assigned=("__name__",), updated=())
    def checked(others: int, dataset_size: int) -> tuple[float, float]:
        own_and_other = weights(others, dataset_size)
        if not _are_weights(own_and_other) or (others == 0 and own_and_other[0] == 0):
            raise ValueError(
                "estimator must return two finite weights (own, other) >= 0, not both 0, and own "
                f"> 0 where there is no other; got {own_and_other!r} for {others} others"
            )
        return own_and_other

    return checked


def _are_weights(weights: object) -> bool:
    return (
        isinstance(weights, tuple)
        and len(weights) == 2
        and all(isinstance(w, Real) and math.isfinite(w) and float(w) >= 0 for w in weights)
        and any(w > 0 for w in weights)
    )
