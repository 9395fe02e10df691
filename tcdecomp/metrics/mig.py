"""The mutual information gap (MIG)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcdecomp.metrics.columns import FloatArray
from tcdecomp.metrics.information import ceilings, measured
from tcdecomp.metrics.inputs import check_choice
from tcdecomp.metrics.mig_report import MutualInfoGap
from tcdecomp.metrics.tables import Tables

__all__ = ["bins_of", "mig_score", "mutual_info_gap"]

# The number of bins, and whether the gap is a share of the factor's or of the latent's entropy
CONVENTIONS: dict[str | None, tuple[int, bool]] = {
    None: (20, True),
    "disentanglement_lib": (20, True),
    "disent": (20, True),
    "infogan_cr": (20, True),
    "ubisoft": (10, False),
}


def mig_score(
    codes: ArrayLike | Tables,
    factors: ArrayLike | None = None,
    *,
    n_bins: Any = None,
    strategy: str = "uniform",
    discrete_codes: bool | Sequence[bool] | None = None,
    discrete_factors: bool | Sequence[bool] = True,
    sample_weight: ArrayLike | None = None,
    correction: str | None = None,
    convention: str | None = None,
) -> float:
    r"""Return the mutual information gap of codes with respect to known factors.

    .. math::

        \mathrm{MIG} = \frac{1}{K} \sum_{k=1}^{K} \frac{1}{H(v_k)}
        \Bigl( I(z_{j(k)}; v_k) - \max_{j \ne j(k)} I(z_j; v_k) \Bigr),
        \qquad j(k) = \operatorname{argmax}_j I(z_j; v_k)

    The score is 1 if each factor is known from one latent and the other latents tell nothing
    about it. It is 0 if the two best latents tell equally much, or if no latent tells anything.
    Codes are binned. Information is estimated from counts (plug-in).

    Parameters
    ----------
    codes : array_like, shape (n, D), or Tables
        One row per item: posterior means, or samples. An array, list, torch tensor (any device,
        any real dtype, with or without gradient) or data frame of finite real numbers. The score
        is computed on the CPU in float64. Finished tables replace codes, factors and options.
    factors : array_like, shape (n, K) or (n,)
        The true factors of the same items. Strings, booleans, objects and categories are allowed
        too. Each column of a data frame keeps its dtype. Rows are paired by position, so two
        pandas frames must have equal indices.
    n_bins : int, sequence of D ints, or KBinsDiscretizer, optional
        Bins per latent, at least 2. Default: 20, or the number of the convention. A fitted
        discretizer brings its own edges.
    strategy : {"uniform", "quantile", "robust"}, optional
        Bins of equal width between the smallest and the largest value of a latent (default); bins
        with equally many rows; or one bin for each distinct value if there are at most ``n_bins``,
        and bins with equally many rows otherwise.
    discrete_codes : bool or sequence of D bools, optional
        True: latents are labels, such as codebook indices, and each distinct value is a class.
        False: they are numbers, and binned. None (default): they are binned, with a warning if
        bins merge whole numbers.
    discrete_factors : bool or sequence of K bools, optional
        True (default): each distinct value of a factor is a class. False: the factor is a number
        and is binned like the codes. A sequence has one bool per factor.
    sample_weight : array_like, shape (n,), optional
        Weights of the rows, at least 0. A whole number w counts as w equal rows.
    correction : {None, "miller-madow", "adjusted"}, optional
        How the bias of few rows is corrected: not at all (plug-in); by the number of occupied
        cells; or by the information that independent columns are expected to have.
    convention : {None, "disentanglement_lib", "disent", "infogan_cr", "ubisoft"}, optional
        Compute what a public code computes. "ubisoft" divides by the entropy of the latent
        instead of the factor, and has 10 bins. The others agree with the default.

    Returns
    -------
    float
        In [0, 1], without unit.

    Raises
    ------
    TypeError
        If codes, weights or factors to bin do not hold real numbers, ``n_bins`` is not an
        integer, or ``discrete_factors`` does not hold bools.
    ValueError
        If shapes or indices do not match; a value is NaN, infinite or missing; weights are
        negative or sum to 0; a factor has a single value and so no entropy; a discrete column
        looks continuous (floats with fractions and more distinct values than 10 and than n / 5)
        or has another value in each of more than 10 rows; or an option is out of its range.

    Warns
    -----
    UserWarning
        If there are too few rows for so many bins; if bins merge whole numbers that can be labels;
        if values of a discrete column differ by rounding alone; or if a latent varies but falls
        into a single bin. A constant latent causes no warning: its information is exactly 0.

    Notes
    -----
    The defaults are those of published scores (Locatello et al.): 20 bins of equal width, as
    scikit-learn's ``KBinsDiscretizer`` finds them on all rows. The documentation page on MIG has
    figures for what follows.

    - *Few rows* make good codes score too low: by 0.06 at n = 1,000, or 0.02 with
      ``correction="miller-madow"``. At 100 to 300 rows, "adjusted" is the best. Corrected
      information below 0 counts as 0.
    - *A factor with more values than bins* cannot score 1, and one outlier stretches bins of equal
      width over an empty range. Use more bins, or ``strategy="robust"``.
    - *Quantiles* merge the largest values of a latent with few values. "robust" does not.
    - *A collapsed latent* can be the runner-up through the tiny differences of its means.
    - *Posterior means* give another number than the posterior densities of the paper.

    References
    ----------
    Chen, Li, Grosse, Duvenaud (2018). Isolating Sources of Disentanglement in Variational
    Autoencoders. NeurIPS. Section 4; equation 1 of the poster.

    Locatello et al. (2019). Challenging Common Assumptions in the Unsupervised Learning of
    Disentangled Representations. ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp import mig_score
    >>> rng = np.random.default_rng(0)
    >>> factors = rng.integers(0, 5, size=(10_000, 2))
    >>> aligned = factors + 0.1 * rng.standard_normal((10_000, 2))
    >>> round(mig_score(aligned, factors), 2)
    1.0
    >>> rotated = aligned @ np.array([[1, 1], [-1, 1]])
    >>> mig_score(rotated, factors) < 0.01
    True
    """
    return mutual_info_gap(
        codes,
        factors,
        n_bins=n_bins,
        strategy=strategy,
        discrete_codes=discrete_codes,
        discrete_factors=discrete_factors,
        sample_weight=sample_weight,
        correction=correction,
        convention=convention,
    ).score


def mutual_info_gap(
    codes: ArrayLike | Tables,
    factors: ArrayLike | None = None,
    *,
    n_bins: Any = None,
    strategy: str = "uniform",
    discrete_codes: bool | Sequence[bool] | None = None,
    discrete_factors: bool | Sequence[bool] = True,
    sample_weight: ArrayLike | None = None,
    correction: str | None = None,
    convention: str | None = None,
) -> MutualInfoGap:
    """Return the mutual information gap with the numbers that it is made of.

    Parameters, errors and warnings are those of :func:`tcdecomp.mig_score`.

    Parameters
    ----------
    codes : array_like, shape (n, D), or Tables
        One row per item, or finished tables.
    factors : array_like, shape (n, K) or (n,)
    n_bins, strategy, discrete_codes, discrete_factors, sample_weight, correction, convention
        As in :func:`tcdecomp.mig_score`.

    Returns
    -------
    MutualInfoGap
        The score, the mutual information of every pair, and the gap, entropy, best latent and
        runner-up of each factor, as numpy arrays.

    Examples
    --------
    >>> from tcdecomp.metrics import mutual_info_gap
    >>> shape = ["disc", "disc", "square", "square"]
    >>> size = [1, 2, 1, 2]
    >>> codes = [[0.9, 5.0], [0.9, 6.0], [0.1, 5.0], [0.1, 6.0]]
    >>> gap = mutual_info_gap(codes, list(zip(shape, size)))
    >>> print(gap)
    MIG 1.0000 (information in nats)
    factor  gap     entropy  best latent  runner-up
    v0      1.0000  0.6931   z0 0.6931    z1 0.0000
    v1      1.0000  0.6931   z1 0.6931    z0 0.0000
    """
    bins = bins_of(convention)
    _, by_factor = CONVENTIONS[convention]
    tables, info = measured(
        codes,
        factors,
        correction,
        n_bins=bins if n_bins is None and not isinstance(codes, Tables) else n_bins,
        strategy=strategy,
        discrete_codes=discrete_codes,
        discrete_factors=discrete_factors,
        sample_weight=sample_weight,
    )
    shares = info.share if by_factor else info.share_of_latents()
    gaps, best, runner_up = _gaps(shares)
    return MutualInfoGap(
        score=float(gaps.mean()),
        gaps=gaps,
        mutual_info=info.mutual,
        factor_entropy=info.factor,
        shares=shares,
        ceilings=ceilings(tables),
        best_latent=best,
        runner_up=runner_up,
        latent_names=tables.latent_names,
        factor_names=tables.factor_names,
    )


def bins_of(convention: str | None) -> int:
    """Return the number of bins of a convention, or raise a ValueError for an unknown one."""
    check_choice("convention", convention, tuple(CONVENTIONS))
    return CONVENTIONS[convention][0]


def _gaps(share: FloatArray) -> tuple[FloatArray, NDArray[np.intp], NDArray[np.intp]]:
    """Return gaps, best latents and runners-up, shape (K,) each, from (D, K)."""
    n_latents, n_factors = share.shape
    # One more latent without information: it is the runner-up if D = 1
    ranked = np.vstack([share, np.zeros(n_factors)])
    best, runner_up = np.argsort(-ranked, axis=0, kind="stable")[:2]
    factor = np.arange(n_factors)
    gaps = ranked[best, factor] - ranked[runner_up, factor]
    return gaps, best, np.where(runner_up == n_latents, -1, runner_up)
