"""Scores of identifiability: mean correlation coefficient, and linear predictability."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tcdecomp.metrics.columns import FloatArray
from tcdecomp.metrics.inputs import check_choice
from tcdecomp.metrics.samples import correlations, read_samples, split_rows

__all__ = ["linear_r2_score", "mcc_score"]


def mcc_score(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    method: str = "pearson",
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Return the mean correlation coefficient (MCC) of factors and matched latents.

    .. math::

        \mathrm{MCC} = \frac{1}{K} \max_\pi \sum_k |\rho(z_{\pi(k)}, v_k)|

    Each factor is matched with a latent of its own, so that the sum of the absolute correlations
    is largest. If there are fewer latents than factors, unmatched factors count as 0. The score is
    in [0, 1], and higher is better.

    Parameters
    ----------
    codes : array_like, shape (n, D)
        One row per item.
    factors : array_like, shape (n, K) or (n,)
        The true factors of the same items, as numbers.
    method : {"pearson", "spearman"}, optional
        Correlation of values, or of ranks, which no monotone change of a latent affects.
    sample_weight : array_like, shape (n,), optional
        Weights of the rows.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        As :func:`tcdecomp.mig_score` does, or if an option is out of its range.

    Notes
    -----
    Independent codes score about sqrt(2 / (pi n)) and not 0, more with several latents, because
    the matching takes the largest correlations. Some codes report MCC after a linear map of all
    latents ("weak MCC"): map the codes first, or see :func:`linear_r2_score`. A constant latent
    has correlation 0.

    References
    ----------
    Khemakhem, Monti, Kingma, Hyvarinen (2020). ICE-BeeM: Identifiable Conditional Energy-Based
    Deep Models. NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp.metrics import mcc_score
    >>> factors = np.random.default_rng(0).random((1000, 2))
    >>> codes = np.column_stack([factors[:, 1] ** 3, -factors[:, 0]])
    >>> round(mcc_score(codes, factors), 2), round(mcc_score(codes, factors, method="spearman"), 2)
    (0.96, 1.0)
    """
    from scipy.optimize import linear_sum_assignment  # scikit-learn brings scipy

    check_choice("method", method, ("pearson", "spearman"))
    samples = read_samples(codes, factors, False, sample_weight)
    z, v = samples.codes, np.stack(samples.factors, 1)
    if method == "spearman":
        z, v = (_ranks(columns, samples.weight) for columns in (z, v))
    strength = np.abs(correlations(z, v, samples.weight))
    matched = linear_sum_assignment(strength, maximize=True)
    return float(strength[matched].sum() / v.shape[1])


def linear_r2_score(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    test_size: float | ArrayLike = 0.5,
    random_state: Any = None,
) -> float:
    """Return how much of the factors' variance is linear in the codes, on test rows.

    The coefficient of determination of a linear regression of each factor on all latents, averaged
    over the factors. At most 1, and higher is better. A rotation of the latents does not change
    the score, so it measures information and not disentanglement.

    Parameters
    ----------
    codes : array_like, shape (n, D)
        One row per item.
    factors : array_like, shape (n, K) or (n,)
        The true factors of the same items, as numbers.
    sample_weight : array_like, shape (n,), optional
        Weights of the rows.
    test_size : float, or array_like of bool, shape (n,), optional
        The share of the rows, drawn at random, on which the regression is scored; or which rows.
    random_state : int, RandomState or None, optional
        For the test rows.

    Returns
    -------
    float
        Below 0 if the prediction is worse than the mean.

    Raises
    ------
    TypeError, ValueError
        As :func:`tcdecomp.mig_score` does, or if ``test_size`` is out of its range.

    Notes
    -----
    Some codes report the score on the rows that the regression was fitted on, which is too high for
    few rows. With more latents than training rows, the fit is exact and the test score is low.

    References
    ----------
    Khemakhem, Kingma, Monti, Hyvarinen (2020). Variational Autoencoders and Nonlinear ICA. AISTATS.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp.metrics import linear_r2_score
    >>> factors = np.random.default_rng(0).random((1000, 2))
    >>> round(linear_r2_score(factors @ [[1, 1], [-1, 1]], factors, random_state=0), 2)
    1.0
    """
    from sklearn.linear_model import LinearRegression

    samples = read_samples(codes, factors, False, sample_weight)
    train, test = split_rows(samples, test_size, random_state)
    fitted = LinearRegression().fit(train.codes, np.stack(train.factors, 1), train.weight)
    return float(fitted.score(test.codes, np.stack(test.factors, 1), test.weight))


def _ranks(columns: FloatArray, weight: FloatArray | None) -> FloatArray:
    """Return the mean rank of each value among the rows, which weights repeat."""
    w = np.ones(len(columns)) if weight is None else weight
    ranks = np.empty_like(columns)
    for index, column in enumerate(columns.T):
        _, place = np.unique(column, return_inverse=True)
        mass = np.bincount(place, w)
        ranks[:, index] = (np.cumsum(mass) - mass / 2)[place]
    return ranks
