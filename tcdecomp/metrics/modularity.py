"""Modularity and explicitness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from tcdecomp.metrics.information import measured
from tcdecomp.metrics.inputs import check_choice
from tcdecomp.metrics.samples import read_samples, split_rows, standardised
from tcdecomp.metrics.tables import TableOptions, Tables

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["explicitness_score", "modularity_score"]


def modularity_score(
    codes: ArrayLike | Tables,
    factors: ArrayLike | None = None,
    *,
    dead_latents: str = "zero",
    correction: str | None = None,
    **options: Unpack[TableOptions],
) -> float:
    r"""Return how close each latent is to encoding a single factor.

    .. math::

        \mathrm{modularity} = \frac{1}{D} \sum_j \Bigl(1 -
        \frac{\sum_{k \ne k(j)} I(z_j; v_k)^2}{(K - 1)\, I(z_j; v_{k(j)})^2}\Bigr),
        \qquad k(j) = \operatorname{argmax}_k I(z_j; v_k)

    The score is in [0, 1], and higher is better. It does not ask whether a factor is encoded in
    several latents, or at all.

    Parameters
    ----------
    codes : array_like, shape (n, D), or Tables
        One row per item, or finished tables.
    factors : array_like, shape (n, K) or (n,)
        The true factors of the same items; at least two.
    dead_latents : {"zero", "ignore"}, optional
        A latent without any information counts as 0, as in disentanglement_lib, or not at all.
        Other codes give NaN.
    correction : {None, "miller-madow", "adjusted"}, optional
        As in :func:`tcdecomp.mig_score`.
    **options
        ``n_bins``, ``strategy``, ``discrete_codes``, ``discrete_factors`` and ``sample_weight`` of
        :func:`tcdecomp.mig_score`.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        As :func:`tcdecomp.mig_score` does, and if there is a single factor.

    Notes
    -----
    Independent codes do not score 0: their information is small and uneven. Use ``correction`` and
    ``dead_latents="ignore"`` where some latents are not used.

    References
    ----------
    Ridgeway, Mozer (2018). Learning Deep Disentangled Embeddings with the F-Statistic Loss.
    NeurIPS. Section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp.metrics import modularity_score
    >>> factors = np.random.default_rng(0).integers(0, 5, (10_000, 2))
    >>> round(modularity_score(factors, factors), 2)
    1.0
    """
    check_choice("dead_latents", dead_latents, ("zero", "ignore"))
    _, info = measured(codes, factors, correction, **options)
    n_factors = len(info.factor)
    if n_factors == 1:
        raise ValueError("modularity needs at least two factors; got one")
    squared = info.mutual**2
    largest = squared.max(1)
    live = largest > 0
    if not live.any():
        return 0.0
    rest = squared[live].sum(1) - largest[live]
    scores = 1 - rest / largest[live] / (n_factors - 1)
    return float(scores.sum() / (len(squared) if dead_latents == "zero" else len(scores)))


def explicitness_score(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    test_size: float | ArrayLike = 0.5,
    random_state: Any = None,
) -> float:
    """Return how well a logistic regression on all latents tells the values of each factor.

    For each value of each factor, the area under the ROC curve of its predicted probability on the
    test rows; the mean over the values, then over the factors. 0.5 is chance, 1 is perfect.

    Parameters
    ----------
    codes : array_like, shape (n, D)
        One row per item.
    factors : array_like, shape (n, K) or (n,)
        The true factors of the same items. Each distinct value is a class.
    sample_weight : array_like, shape (n,), optional
        Weights of the rows.
    test_size : float, or array_like of bool, shape (n,), optional
        The share of the rows, drawn at random, on which the area is measured; or which rows.
    random_state : int, RandomState or None, optional
        For the test rows.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        As :func:`tcdecomp.mig_score` does, or if an option is out of its range.

    Notes
    -----
    disentanglement_lib computes the same, but fails for a constant latent. Other codes rescale the
    area so that chance is 0. Values that occur only among the training rows, or only among the test
    rows, are left out.

    References
    ----------
    Ridgeway, Mozer (2018). Learning Deep Disentangled Embeddings with the F-Statistic Loss.
    NeurIPS. Section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp.metrics import explicitness_score
    >>> factors = np.random.default_rng(0).integers(0, 2, (1000, 2))
    >>> round(explicitness_score(factors + 0.0, factors, random_state=0), 2)
    1.0
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    samples = read_samples(codes, factors, True, sample_weight)
    samples = samples._replace(codes=standardised(samples.codes, samples.weight))
    train, test = split_rows(samples, test_size, random_state)
    means = []
    for seen, true in zip(train.factors, test.factors, strict=True):
        shared = [v for v in np.unique(seen) if 0 < np.mean(true == v) < 1]
        if not shared or seen.min() == seen.max():
            raise ValueError(
                "test_size must leave two values of each factor on both sides; use more rows"
            )
        model = LogisticRegression(max_iter=1000).fit(train.codes, seen, train.weight)
        chances = dict(zip(model.classes_, model.predict_proba(test.codes).T, strict=True))
        areas = [roc_auc_score(true == v, chances[v], sample_weight=test.weight) for v in shared]
        means.append(np.mean(areas))
    return float(np.mean(means))
