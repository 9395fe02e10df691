"""Disentanglement, completeness and informativeness (DCI)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tcdecomp.metrics.columns import FloatArray
from tcdecomp.metrics.inputs import check_choice
from tcdecomp.metrics.samples import Samples, read_samples, split_rows

__all__ = ["DCI", "dci_score"]


@dataclass(frozen=True, eq=False)
class DCI:
    """Disentanglement, completeness and informativeness; higher is better.

    Attributes
    ----------
    disentanglement : float
        In [0, 1]. NaN if there is a single factor.
    completeness : float
        In [0, 1]. NaN if there is a single latent.
    informativeness : float
        Accuracy on the test rows, and the coefficient of determination for factors that are not
        discrete, averaged over factors. At most 1.
    train_informativeness : float
        The same on the rows that the models were fitted on.
    importance : ndarray, shape (D, K)
        How much the model of each factor uses each latent.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    train_informativeness: float
    importance: FloatArray


def dci_score(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    estimator: Any = "gradient-boosting",
    discrete_factors: bool | Sequence[bool] = True,
    sample_weight: ArrayLike | None = None,
    test_size: float | ArrayLike = 0.5,
    random_state: Any = None,
    n_jobs: int | None = None,
) -> DCI:
    r"""Return disentanglement, completeness and informativeness.

    A model predicts each factor from all latents. With :math:`R_{jk} \ge 0` the importance of
    latent j for factor k,

    .. math::

        D = \sum_j \rho_j \Bigl(1 - H_K\bigl(R_{jk} / {\textstyle\sum_k R_{jk}}\bigr)\Bigr), \qquad
        C = \sum_k \rho'_k \Bigl(1 - H_D\bigl(R_{jk} / {\textstyle\sum_j R_{jk}}\bigr)\Bigr),

    where :math:`H_b` is the entropy to base b, and :math:`\rho_j` and :math:`\rho'_k` are the
    shares of a latent and of a factor in the sum of R. D is 1 if each latent is important for one
    factor alone, C if one latent alone is important for each factor.

    Parameters
    ----------
    codes : array_like, shape (n, D)
        One row per item.
    factors : array_like, shape (n, K) or (n,)
        The true factors of the same items.
    estimator : {"gradient-boosting", "random-forest"} or scikit-learn estimator, optional
        The models. An estimator of your own is cloned for each factor, and needs
        ``feature_importances_`` or ``coef_`` after ``fit``.
    discrete_factors : bool or sequence of K bools, optional
        Whether each distinct value of a factor is a class, or the factor is a number.
    sample_weight : array_like, shape (n,), optional
        Weights of the rows in the fit and in the informativeness.
    test_size : float, or array_like of bool, shape (n,), optional
        The share of the rows, drawn at random, on which informativeness is measured; or which rows.
    random_state : int, RandomState or None, optional
        For the test rows and the models. With None, results differ from call to call.
    n_jobs : int, optional
        Processes in which factors are fitted.

    Returns
    -------
    DCI

    Raises
    ------
    TypeError, ValueError
        As :func:`tcdecomp.mig_score` does, or if an option is out of its range.

    Notes
    -----
    Public codes differ: disentanglement_lib uses gradient boosting (the default here), the paper
    lasso and random forests. A random forest tries a random part of the latents at each split, so
    that perfect codes have a D and C of about 0.92 for three factors. Gradient boosting takes
    minutes for factors of many values. Both are random: give ``random_state``.

    References
    ----------
    Eastwood, Williams (2018). A framework for the quantitative evaluation of disentangled
    representations. ICLR.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp.metrics import dci_score
    >>> factors = np.random.default_rng(0).integers(0, 3, (600, 2))
    >>> dci = dci_score(factors * 1.0, factors, random_state=0)
    >>> round(dci.disentanglement, 1), round(dci.completeness, 1), round(dci.informativeness, 1)
    (1.0, 1.0, 1.0)
    """
    from sklearn.utils.parallel import Parallel, delayed

    samples = read_samples(codes, factors, discrete_factors, sample_weight, optional=True)
    train, test = split_rows(samples, test_size, random_state)
    models = [_model(estimator, flag, random_state) for flag in samples.discrete]
    results = Parallel(n_jobs=n_jobs)(
        delayed(_fit)(model, train, test, k) for k, model in enumerate(models)
    )
    columns, tested, trained = zip(*results, strict=True)
    importance = np.stack(columns, 1)
    return DCI(
        disentanglement=specificity(importance),
        completeness=specificity(importance.T),
        informativeness=float(np.mean(tested)),
        train_informativeness=float(np.mean(trained)),
        importance=importance,
    )


def specificity(importance: FloatArray) -> float:
    """Return the mean of 1 - entropy of each row's shares, weighted by the rows' sums.

    NaN if there is a single column, and 0 if nothing is important.
    """
    n_columns = importance.shape[1]
    sums = importance.sum(1)
    if n_columns == 1:
        return float("nan")
    if not sums.any():
        return 0.0
    share = importance[sums > 0] / sums[sums > 0, None]
    entropy = -(share * np.log(share, out=np.zeros_like(share), where=share > 0)).sum(1)
    return float(np.average(1 - entropy / np.log(n_columns), weights=sums[sums > 0]))


def _model(estimator: Any, discrete: bool, random_state: Any) -> Any:
    from sklearn import ensemble
    from sklearn.base import clone

    if not isinstance(estimator, str):
        if not hasattr(estimator, "fit"):
            raise TypeError(
                "estimator must be 'gradient-boosting', 'random-forest' or a scikit-learn "
                f"estimator; got {type(estimator).__name__}"
            )
        return clone(estimator)
    check_choice("estimator", estimator, ("gradient-boosting", "random-forest"))
    name = "GradientBoosting" if estimator == "gradient-boosting" else "RandomForest"
    kind = getattr(ensemble, name + ("Classifier" if discrete else "Regressor"))
    return kind(random_state=random_state)


def _fit(model: Any, train: Samples, test: Samples, k: int) -> tuple[FloatArray, float, float]:
    """Return the importance of each latent for factor k, and the scores on test and train rows."""
    model.fit(train.codes, train.factors[k], sample_weight=train.weight)
    if hasattr(model, "feature_importances_"):
        importance = np.abs(model.feature_importances_)
    else:
        importance = np.abs(np.atleast_2d(model.coef_)).sum(0)
    scores = (model.score(part.codes, part.factors[k], part.weight) for part in (test, train))
    return importance, *scores
