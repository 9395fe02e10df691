"""Mutual information from nearest neighbours, without bins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tcdecomp.metrics.columns import FloatArray
from tcdecomp.metrics.information import entropy
from tcdecomp.metrics.samples import Samples, read_samples, standardised

__all__ = ["neighbour_information", "of_neighbours"]


def neighbour_information(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    n_neighbors: int = 3,
    discrete_factors: bool | Sequence[bool] = True,
    random_state: Any = 0,
) -> FloatArray:
    """Return the mutual information of every latent with every factor, estimated without bins.

    scikit-learn's nearest-neighbour estimate, with two repairs: a latent that is constant has no
    information, and no latent has more than the entropy of a discrete factor.

    Parameters
    ----------
    codes : array_like, shape (n, D)
        One row per item, as numbers.
    factors : array_like, shape (n, K) or (n,)
        The true factors of the same items.
    n_neighbors : int, optional
        More neighbours give less variance and more bias.
    discrete_factors : bool or sequence of K bools, optional
        Whether each distinct value of a factor is a class, or the factor is a number.
    random_state : int, RandomState or None, optional
        For the tiny noise that breaks ties.

    Returns
    -------
    ndarray, shape (D, K)
        In nats, at least 0. Weights are not supported: an item that counts twice would be its own
        neighbour.

    Raises
    ------
    TypeError, ValueError
        As :func:`tcdecomp.mig_score` does, or if there are no more rows than ``n_neighbors``.

    References
    ----------
    Kraskov, Stoegbauer, Grassberger (2004). Estimating mutual information. Physical Review E.

    Ross (2014). Mutual Information between Discrete and Continuous Data Sets. PLoS ONE.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp.metrics import neighbour_information
    >>> rng = np.random.default_rng(0)
    >>> factor = rng.standard_normal(3000)
    >>> codes = np.column_stack([0.8 * factor + 0.6 * rng.standard_normal(3000), np.ones(3000)])
    >>> neighbour_information(codes, factor, discrete_factors=False).round(1)  # -log(1 - 0.8^2) / 2
    array([[0.5],
           [0. ]])
    """
    samples = read_samples(codes, factors, discrete_factors, optional=True)
    return of_neighbours(samples, n_neighbors, random_state)


def of_neighbours(
    samples: Samples, n_neighbors: int, random_state: Any, *, capped: bool = True
) -> FloatArray:
    """Return the estimate for samples without weights; ``capped`` at the entropy of a factor."""
    from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

    n = len(samples.codes)
    if not (isinstance(n_neighbors, int | np.integer) and 0 < n_neighbors < n):
        raise ValueError(
            f"n_neighbors must be an int from 1 to n - 1 = {n - 1}; got {n_neighbors!r}"
        )
    options = {"n_neighbors": n_neighbors, "random_state": random_state}
    columns = standardised(samples.codes)
    mutual = np.zeros((columns.shape[1], len(samples.factors)))
    for k, (factor, discrete) in enumerate(zip(samples.factors, samples.discrete, strict=True)):
        estimate = mutual_info_classif if discrete else mutual_info_regression
        mutual[:, k] = estimate(columns, factor, discrete_features=False, **options)
        if discrete and capped:
            mutual[:, k] = np.minimum(mutual[:, k], entropy(np.bincount(factor).astype(float)))
    varies = np.ptp(samples.codes, axis=0) > 0  # of a constant, scikit-learn sees its own noise
    return np.asarray(mutual * varies[:, None])
