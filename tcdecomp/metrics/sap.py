"""Separated attribute predictability (SAP)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tcdecomp.metrics.inputs import check_choice
from tcdecomp.metrics.samples import (
    Samples,
    correlations,
    read_samples,
    split_rows,
    standardised,
)

__all__ = ["sap_score"]


def sap_score(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    discrete_factors: bool | Sequence[bool] = True,
    convention: str | None = None,
    sample_weight: ArrayLike | None = None,
    test_size: float | ArrayLike = 0.5,
    random_state: Any = None,
) -> float:
    r"""Return how much better the best latent predicts each factor than the second best.

    .. math::

        \mathrm{SAP} = \frac{1}{K} \sum_k \bigl(S_{j(k) k} - \max_{j \ne j(k)} S_{jk}\bigr),
        \qquad j(k) = \operatorname{argmax}_j S_{jk}

    :math:`S_{jk}` is, for a discrete factor, the accuracy on test rows of a linear support vector
    machine that sees latent j alone; for a factor that is a number, the squared correlation of
    latent and factor on all rows. The score is in [0, 1], and higher is better.

    Parameters
    ----------
    codes : array_like, shape (n, D)
        One row per item.
    factors : array_like, shape (n, K) or (n,)
        The true factors of the same items.
    discrete_factors : bool or sequence of K bools, optional
        Whether each distinct value of a factor is a class, or the factor is a number.
    convention : {None, "disentanglement_lib"}, optional
        "disentanglement_lib" does not standardise the codes, so that the scale of a latent
        changes the score of discrete factors.
    sample_weight : array_like, shape (n,), optional
        Weights of the rows.
    test_size : float, or array_like of bool, shape (n,), optional
        The share of the rows, drawn at random, on which accuracy is measured; or which rows.
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
    A linear classifier on one latent tells apart two or three of many ordered values, so that even
    perfect codes score low for discrete factors: 0.3 is high in published tables. With
    ``discrete_factors=False``, ordered factors are scored by correlation.

    References
    ----------
    Kumar, Sattigeri, Balakrishnan (2018). Variational Inference of Disentangled Latent Concepts
    from Unlabeled Observations. ICLR.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp.metrics import sap_score
    >>> factors = np.random.default_rng(0).random((1000, 2))
    >>> round(sap_score(factors * [3, -1], factors, discrete_factors=False), 1)
    1.0
    """
    check_choice("convention", convention, (None, "disentanglement_lib"))
    samples = read_samples(codes, factors, discrete_factors, sample_weight, optional=True)
    if convention is None:
        samples = samples._replace(codes=standardised(samples.codes, samples.weight))
    # one more latent without information: it is the second best if D = 1
    scores = np.zeros((samples.codes.shape[1] + 1, len(samples.factors)))
    train, test = (
        split_rows(samples, test_size, random_state)
        if any(samples.discrete)
        else (samples, samples)
    )
    for k, factor in enumerate(samples.factors):
        if samples.discrete[k]:
            scores[:-1, k] = _accuracies(train, test, k)
        else:
            scores[:-1, k] = correlations(samples.codes, factor[:, None], samples.weight)[:, 0] ** 2
    ranked = np.sort(scores, axis=0)
    return float((ranked[-1] - ranked[-2]).mean())


def _accuracies(train: Samples, test: Samples, k: int) -> list[float]:
    """Return the accuracy that each latent alone reaches for factor k."""
    from sklearn.svm import LinearSVC

    labels = train.factors[k]
    mass = np.bincount(labels, train.weight)
    # class_weight="balanced" does not count weights in all versions of scikit-learn
    present = np.flatnonzero(mass)
    balanced = dict(zip(present, mass.sum() / (len(present) * mass[present]), strict=True))
    scores = []
    for column, seen in zip(train.codes.T, test.codes.T, strict=True):
        model = LinearSVC(C=0.01, class_weight=balanced, dual=False)
        model.fit(column[:, None], labels, train.weight)
        scores.append(model.score(seen[:, None], test.factors[k], test.weight))
    return scores
