"""InfoMEC: modularity, explicitness and compactness from normalised mutual information."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcdecomp.metrics.columns import FloatArray
from tcdecomp.metrics.information import entropy, information
from tcdecomp.metrics.inputs import check_choice
from tcdecomp.metrics.neighbours import of_neighbours
from tcdecomp.metrics.samples import Samples, read_samples, standardised
from tcdecomp.metrics.tables import contingency_tables

__all__ = ["InfoMEC", "infomec_score"]


@dataclass(frozen=True, eq=False)
class InfoMEC:
    """Modularity, explicitness and compactness; each is at most 1, and higher is better.

    Attributes
    ----------
    modularity : float
        NaN if there is a single factor.
    explicitness : float
    compactness : float
        NaN if there is a single active latent.
    normalised_information : ndarray, shape (D, K)
        I(z_j; v_k) / H(v_k).
    active : ndarray of bool, shape (D,)
        The latents that count.
    """

    modularity: float
    explicitness: float
    compactness: float
    normalised_information: FloatArray
    active: NDArray[np.bool_]


def infomec_score(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    discrete_codes: bool = False,
    n_neighbors: int = 10,
    active_range: float = 0.05,
    convention: str | None = None,
    random_state: Any = 0,
) -> InfoMEC:
    r"""Return modularity (InfoM), explicitness (InfoE) and compactness (InfoC).

    With :math:`N_{jk} = I(z_j; v_k) / H(v_k)` over the A active latents,

    .. math::

        \mathrm{InfoM} = \frac{\frac{1}{A} \sum_j \frac{\max_k N_{jk}}{\sum_k N_{jk}}
        - \frac{1}{K}}{1 - \frac{1}{K}}, \qquad
        \mathrm{InfoC} = \frac{\frac{1}{K} \sum_k \frac{\max_j N_{jk}}{\sum_j N_{jk}}
        - \frac{1}{A}}{1 - \frac{1}{A}}, \qquad
        \mathrm{InfoE} = \frac{1}{K} \sum_k \frac{L^0_k - L_k}{L^0_k},

    where :math:`L_k` is the log loss of a logistic regression of factor k on all codes, and
    :math:`L^0_k` that of one without codes.

    Parameters
    ----------
    codes : array_like, shape (n, D)
        One row per item.
    factors : array_like, shape (n, K) or (n,)
        The true factors of the same items. Each distinct value is a class.
    discrete_codes : bool, optional
        Whether the latents are labels. Information is then plug-in, and the regression sees the
        labels one-hot.
    n_neighbors : int, optional
        Of the nearest-neighbour estimate of the information of latents that are numbers.
    active_range : float, optional
        A latent of numbers is active if its range exceeds this part of the largest range, a latent
        of labels if it varies.
    convention : {None, "infomec"}, optional
        "infomec" computes what the authors' code computes: information may exceed H(v_k), and a
        latent without any information makes modularity NaN. With None, information is capped, and
        such latents are not active.
    random_state : int, RandomState or None, optional
        For the tiny noise with which scikit-learn breaks ties.

    Returns
    -------
    InfoMEC

    Raises
    ------
    TypeError, ValueError
        As :func:`tcdecomp.mig_score` does; if there are no more rows than ``n_neighbors``; or if
        no latent is active.

    Notes
    -----
    Four variants circulate: 3 neighbours; active latents by interquartile range; sources cut into
    20 bins; a regression that is scored on test rows. The score needs many rows: independent
    codes at n = 1,000 have an InfoM of 0.73. The regression sees the rows that it was fitted on.

    References
    ----------
    Hsu, Dorrell, Whittington, Wu, Finn (2023). Disentanglement via Latent Quantization. NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp.metrics import infomec_score
    >>> rng = np.random.default_rng(0)
    >>> factors = rng.integers(0, 4, (1000, 2))
    >>> result = infomec_score(factors + 0.02 * rng.standard_normal((1000, 2)), factors)
    >>> round(result.modularity, 1), round(result.explicitness, 1), round(result.compactness, 1)
    (1.0, 1.0, 1.0)
    """
    check_choice("convention", convention, (None, "infomec"))
    if not 0 <= active_range < 1:
        raise ValueError(f"active_range must be at least 0 and below 1; got {active_range}")
    samples = read_samples(codes, factors, discrete_codes=discrete_codes)
    width = np.ptp(samples.codes, axis=0)
    active = width > (0 if discrete_codes else active_range * width.max())
    labels = np.stack(samples.factors, 1)
    whole = np.array([entropy(np.bincount(label).astype(float)) for label in samples.factors])
    if discrete_codes:
        tables = contingency_tables(samples.codes, labels, discrete_codes=True)
        normalised = information(tables).share
    else:
        mutual = of_neighbours(samples, n_neighbors, random_state, capped=convention is None)
        normalised = mutual / whole
    if convention is None:
        active &= normalised.any(1)
    if not active.any():
        raise ValueError("codes must have an active latent; got codes without information")
    seen = normalised[active]
    return InfoMEC(
        modularity=_concentration(seen),
        explicitness=_explicitness(samples, discrete_codes),
        compactness=_concentration(seen.T),
        normalised_information=normalised,
        active=active,
    )


def _concentration(share: FloatArray) -> float:
    """Return how much of each row lies in its largest entry: 0 if all are equal, 1 if one is."""
    n_columns = share.shape[1]
    if n_columns == 1:
        return float("nan")
    with np.errstate(invalid="ignore"):
        largest = (share.max(1) / share.sum(1)).mean()
    return float((largest - 1 / n_columns) / (1 - 1 / n_columns))


def _explicitness(samples: Samples, discrete_codes: bool) -> float:
    from sklearn.preprocessing import OneHotEncoder

    if discrete_codes:
        seen = OneHotEncoder(sparse_output=False).fit_transform(samples.codes)
    else:
        seen = standardised(samples.codes)
    losses = [[_log_loss(x, v) for x in (seen, np.zeros_like(seen))] for v in samples.factors]
    return float(np.mean([(without - loss) / without for loss, without in losses]))


def _log_loss(codes: FloatArray, labels: NDArray[np.intp]) -> float:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=np.inf, class_weight="balanced")
    with warnings.catch_warnings():
        # 100 iterations are part of the definition: separable classes never converge
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(codes, labels)
    chances = model.predict_proba(codes)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chances, np.finfo(float).eps)).mean())
