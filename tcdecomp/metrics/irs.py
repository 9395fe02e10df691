"""The interventional robustness score (IRS)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tcdecomp.metrics.columns import FloatArray
from tcdecomp.metrics.samples import read_samples

__all__ = ["irs_score"]


def irs_score(codes: ArrayLike, factors: ArrayLike, *, quantile: float = 0.99) -> float:
    r"""Return the interventional robustness score: how still latents are while one factor is fixed.

    With :math:`\mu_j` the mean of latent j over all rows and :math:`\mu_{jv}` its mean over the
    rows with :math:`v_k = v`,

    .. math::

        \mathrm{IRS}_{jk} = 1 - \frac{\operatorname{mean}_v\, Q_{.99}(|z_j - \mu_{jv}| \mid v)}
                                     {\max |z_j - \mu_j|},

    where Q is a quantile over the rows with that value. The score is the mean over latents of
    their largest :math:`\mathrm{IRS}_{jk}`, weighted by :math:`\max |z_j - \mu_j|`. Higher is
    better, up to 1. Unrelated codes do not score 0, as a quantile is below the maximum, and a
    latent of large scale has a large weight: standardise latents that should count equally.

    Parameters
    ----------
    codes : array_like, shape (n, D)
        One row per item.
    factors : array_like, shape (n, K) or (n,)
        The true factors of the same items. Each distinct value is a class.
    quantile : float, optional
        Above 0 and at most 1; 1 is the largest deviation.

    Returns
    -------
    float
        0 if all latents are constant.

    Raises
    ------
    TypeError, ValueError
        As :func:`tcdecomp.mig_score` does, or if ``quantile`` is out of its range.

    References
    ----------
    Suter, Miladinovic, Schoelkopf, Bauer (2019). Robustly Disentangled Causal Mechanisms. ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp.metrics import irs_score
    >>> factors = np.random.default_rng(0).integers(0, 5, (1000, 2))
    >>> irs_score(factors, factors)
    1.0
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must be above 0 and at most 1; got {quantile!r}")
    samples = read_samples(codes, factors)
    z = samples.codes
    largest = np.abs(z - z.mean(0)).max(0) * (np.ptp(z, axis=0) > 0)
    if not largest.any():
        return 0.0
    within = np.stack([_deviations(z, label, quantile) for label in samples.factors], 1)
    live = largest > 0
    robustness = 1 - within[live] / largest[live, None]
    return float(np.average(robustness.max(1), weights=largest[live]))


def _deviations(z: FloatArray, label: FloatArray, quantile: float) -> FloatArray:
    """Return the quantile of each latent's deviations at fixed labels, averaged over labels."""
    groups = (z[label == value] for value in np.unique(label))
    found = [np.quantile(np.abs(group - group.mean(0)), quantile, axis=0) for group in groups]
    return np.asarray(np.mean(found, 0))
