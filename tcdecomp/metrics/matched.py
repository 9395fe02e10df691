"""Information of latents on single categories, as for cell types and batches of single cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tcdecomp.metrics.classes import Classes
from tcdecomp.metrics.columns import FloatArray
from tcdecomp.metrics.information import information
from tcdecomp.metrics.tables import Tables, as_tables

__all__ = ["MatchedInformation", "matched_information_score"]


@dataclass(frozen=True, eq=False)
class MatchedInformation:
    """How latents match categories; each score is in [0, 1], and higher is better.

    Attributes
    ----------
    matching : float
        The mean share of a category with the latent that it is matched with, each latent at most
        once (LMS).
    average : float
        The mean over categories of the largest share (MSAS).
    gap : float
        The mean over categories of the largest share less the second largest (MSGS).
    share : ndarray, shape (D, categories)
        I(z_j; category) / H(category) for being in a category or not.
    categories : tuple of str
        "factor=value" for each category.
    """

    matching: float
    average: float
    gap: float
    share: FloatArray
    categories: tuple[str, ...]


def matched_information_score(
    codes: ArrayLike | Tables,
    factors: ArrayLike | None = None,
    *,
    n_bins: Any = 10,
    strategy: str = "uniform",
    discrete_codes: bool | Sequence[bool] | None = None,
    discrete_factors: bool | Sequence[bool] = True,
    sample_weight: ArrayLike | None = None,
    correction: str | None = None,
) -> MatchedInformation:
    r"""Return how well single latents tell single categories from the rest.

    Each value, or bin, of each factor is a category c, and
    :math:`N_{jc} = I(z_j; [v = c]) / H([v = c])`. The matching is that of the Hungarian method,
    :math:`\max_\pi \sum_c N_{\pi(c) c}` over the number of categories.

    Parameters
    ----------
    codes : array_like, shape (n, D), or Tables
        One row per item, or finished tables.
    factors : array_like, shape (n, K) or (n,)
        The labels of the same items, such as cell types.
    n_bins, strategy, discrete_codes, discrete_factors, sample_weight, correction : optional
        As in :func:`tcdecomp.mig_score`, but with 10 bins.

    Returns
    -------
    MatchedInformation

    Raises
    ------
    TypeError, ValueError
        As :func:`tcdecomp.mig_score` does.

    References
    ----------
    Moinfar, Theis (2024). Unsupervised Deep Disentangled Representation of Single-Cell Omics
    (DRVI).

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp.metrics import matched_information_score
    >>> types = np.random.default_rng(0).choice(["B", "T", "NK"], 3000)
    >>> codes = np.stack([types == name for name in ("T", "B", "NK")], 1)  # one latent per type
    >>> result = matched_information_score(codes, types)
    >>> round(result.matching, 2), round(result.gap, 2)
    (1.0, 0.72)
    """
    from scipy.optimize import linear_sum_assignment  # scikit-learn brings scipy

    tables = as_tables(
        codes,
        factors,
        n_bins=n_bins,
        strategy=strategy,
        discrete_codes=discrete_codes,
        discrete_factors=discrete_factors,
        sample_weight=sample_weight,
    )
    share = information(_by_category(tables), correction).share
    matched = linear_sum_assignment(share, maximize=True)
    ranked = np.sort(np.vstack([share, np.zeros(share.shape[1])]), axis=0)
    return MatchedInformation(
        matching=float(share[matched].sum() / share.shape[1]),
        average=float(ranked[-1].mean()),
        gap=float((ranked[-1] - ranked[-2]).mean()),
        share=share,
        categories=tuple(_category_names(tables)),
    )


def _by_category(tables: Tables) -> Tables:
    """Return tables whose factors are being in a category, or not."""
    pairs = [
        np.stack([part[..., c], part.sum(2) - part[..., c]], 2)
        for part in tables.split()
        for c in range(part.shape[2])
    ]
    return Tables(np.concatenate(pairs, 2), (2,) * len(pairs), tables.latent_names)


def _category_names(tables: Tables) -> list[str]:
    known = tables.factors or [Classes(np.arange(size)) for size in tables.sizes]
    return [
        f"{name}={value}"
        for name, coding in zip(tables.factor_names, known, strict=True)
        for value in (coding.values if isinstance(coding, Classes) else range(len(coding)))
    ]
