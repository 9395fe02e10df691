"""What codes tell without factors: information that latents share, and which latents vary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tcdecomp.metrics.bins import Binning
from tcdecomp.metrics.coding import code_latents
from tcdecomp.metrics.columns import FloatArray
from tcdecomp.metrics.information import information
from tcdecomp.metrics.inputs import check_choice, read_rows
from tcdecomp.metrics.samples import deviations
from tcdecomp.metrics.tables import Tables, count_cells

__all__ = ["active_units_score", "pairwise_information", "pairwise_information_score"]


def pairwise_information(
    codes: ArrayLike,
    *,
    n_bins: Any = 20,
    strategy: str = "uniform",
    discrete_codes: bool | Sequence[bool] | None = None,
    sample_weight: ArrayLike | None = None,
    correction: str | None = None,
) -> FloatArray:
    """Return the mutual information of every pair of latents, in nats.

    Parameters
    ----------
    codes : array_like, shape (n, D)
        One row per item.
    n_bins, strategy, discrete_codes, sample_weight, correction : optional
        As in :func:`tcdecomp.mig_score`.

    Returns
    -------
    ndarray, shape (D, D)
        Symmetric. The diagonal holds the entropies.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp.metrics import pairwise_information
    >>> z = np.random.default_rng(0).choice([-0.5, 0.5], (10_000, 2))
    >>> pairwise_information(np.column_stack([z, z[:, 0]])).round(2)
    array([[0.69, 0.  , 0.69],
           [0.  , 0.69, 0.  ],
           [0.69, 0.  , 0.69]])
    """
    columns, weight = read_rows(codes, sample_weight)
    codings = code_latents(columns, discrete_codes, Binning(n_bins, strategy), weight)
    counts = count_cells(columns, codings, columns, codings, weight)
    return information(Tables(counts, tuple(map(len, codings))), correction).mutual


def pairwise_information_score(
    codes: ArrayLike,
    *,
    convention: str | None = None,
    n_bins: Any = 20,
    strategy: str = "uniform",
    discrete_codes: bool | Sequence[bool] | None = None,
    sample_weight: ArrayLike | None = None,
    correction: str | None = None,
) -> float:
    r"""Return how much information two latents share on average; lower is better.

    The mean over pairs of :math:`I(z_i; z_j) / \min(H(z_i), H(z_j))`, in [0, 1]. It needs no
    factors. Constant latents share nothing.

    Parameters
    ----------
    codes : array_like, shape (n, D)
        One row per item. At least two latents.
    convention : {None, "disentanglement_lib"}, optional
        "disentanglement_lib" does not divide by the entropy: the mean is in nats.
    n_bins, strategy, discrete_codes, sample_weight, correction : optional
        As in :func:`tcdecomp.mig_score`.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        As :func:`tcdecomp.mig_score` does, and if there is a single latent.

    References
    ----------
    Locatello et al. (2019). Challenging Common Assumptions in the Unsupervised Learning of
    Disentangled Representations. ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp.metrics import pairwise_information_score
    >>> codes = np.random.default_rng(0).standard_normal((10_000, 4))
    >>> round(pairwise_information_score(codes, correction="miller-madow"), 2)
    0.0
    """
    check_choice("convention", convention, (None, "disentanglement_lib"))
    mutual = pairwise_information(
        codes,
        n_bins=n_bins,
        strategy=strategy,
        discrete_codes=discrete_codes,
        sample_weight=sample_weight,
        correction=correction,
    )
    n_latents = len(mutual)
    if n_latents == 1:
        raise ValueError("codes must have at least two latents; got one")
    entropy = np.diag(mutual)
    if convention is None:
        smaller = np.minimum(entropy[:, None], entropy)
        mutual = np.divide(mutual, smaller, out=np.zeros_like(mutual), where=smaller > 0)
    return float(mutual[~np.eye(n_latents, dtype=bool)].mean())


def active_units_score(
    codes: ArrayLike, *, threshold: float = 0.01, sample_weight: ArrayLike | None = None
) -> int:
    """Return the number of active units: latents whose posterior means vary over the items.

    Parameters
    ----------
    codes : array_like, shape (n, D)
        Posterior means, one row per item.
    threshold : float, optional
        A unit is active if the variance of its means exceeds this number.
    sample_weight : array_like, shape (n,), optional
        Weights of the rows.

    Returns
    -------
    int
        From 0 to D.

    Raises
    ------
    TypeError, ValueError
        As :func:`tcdecomp.mig_score` does, or if the threshold is negative.

    Notes
    -----
    The threshold is absolute, so the number is meaningful if the prior has unit variance.

    References
    ----------
    Burda, Grosse, Salakhutdinov (2016). Importance Weighted Autoencoders. ICLR. Section 5.2.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp.metrics import active_units_score
    >>> means = np.random.default_rng(0).standard_normal((1000, 3)) * [1, 1, 0.01]
    >>> active_units_score(means)
    2
    """
    if not threshold >= 0:
        raise ValueError(f"threshold must be at least 0; got {threshold}")
    columns, weight = read_rows(codes, sample_weight)
    return int((deviations(columns.as_floats(), weight) ** 2 > threshold).sum())
