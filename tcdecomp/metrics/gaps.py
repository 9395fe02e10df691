"""Scores that are gaps of mutual information, as MIG is: MIG-sup, JEMMIG and DCIMIG."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from tcdecomp.metrics.columns import FloatArray
from tcdecomp.metrics.information import entropy, measured
from tcdecomp.metrics.inputs import check_choice
from tcdecomp.metrics.tables import TableOptions, Tables

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["dcimig_score", "jemmig_score", "mig_sup_score"]


def mig_sup_score(
    codes: ArrayLike | Tables,
    factors: ArrayLike | None = None,
    *,
    dead_latents: str = "zero",
    correction: str | None = None,
    convention: str | None = None,
    **options: Unpack[TableOptions],
) -> float:
    r"""Return MIG-sup: the gap between the two factors that each latent knows best.

    .. math::

        \mathrm{MIG\text{-}sup} = \frac{1}{D} \sum_j \Bigl(N_{j k(j)} -
        \max_{k \ne k(j)} N_{jk}\Bigr), \qquad N_{jk} = \frac{I(z_j; v_k)}{H(v_k)},
        \quad k(j) = \operatorname{argmax}_k N_{jk}

    MIG asks whether a factor is encoded in one latent; MIG-sup asks whether a latent encodes one
    factor. In [0, 1], higher is better.

    Parameters
    ----------
    codes : array_like, shape (n, D), or Tables
        One row per item, or finished tables.
    factors : array_like, shape (n, K) or (n,)
        The true factors of the same items. A single factor has no runner-up, which counts as 0.
    dead_latents : {"zero", "ignore"}, optional
        A latent without any information counts as 0, or not at all.
    correction : {None, "miller-madow", "adjusted"}, optional
        As in :func:`tcdecomp.mig_score`.
    convention : {None, "ubisoft"}, optional
        None divides by H(v_k), as the authors do. "ubisoft" divides by H(z_j).
    **options
        ``n_bins``, ``strategy``, ``discrete_codes``, ``discrete_factors`` and ``sample_weight`` of
        :func:`tcdecomp.mig_score`.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        As :func:`tcdecomp.mig_score` does.

    References
    ----------
    Li, Murkute, Gyawali, Wang (2020). Progressive Learning and Disentanglement of Hierarchical
    Representations. ICLR. Section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp.metrics import mig_sup_score
    >>> factors = np.random.default_rng(0).integers(0, 5, (10_000, 2))
    >>> codes = np.column_stack([factors, factors[:, 0]])  # the third repeats the first
    >>> round(mig_sup_score(codes, factors), 2)
    1.0
    """
    check_choice("dead_latents", dead_latents, ("zero", "ignore"))
    check_choice("convention", convention, (None, "ubisoft"))
    _, info = measured(codes, factors, correction, **options)
    share = info.share if convention is None else info.share_of_latents()
    ranked = np.sort(np.column_stack([share, np.zeros(len(share))]), axis=1)
    gaps = ranked[:, -1] - ranked[:, -2]
    if dead_latents == "ignore":
        gaps = gaps[info.mutual.any(1)]
    return float(gaps.mean()) if len(gaps) else 0.0


def jemmig_score(
    codes: ArrayLike | Tables,
    factors: ArrayLike | None = None,
    *,
    normalised: bool = True,
    correction: str | None = None,
    **options: Unpack[TableOptions],
) -> float:
    r"""Return JEMMIG: MIG with a penalty for what else the best latent contains.

    .. math::

        J_k = H(z_{j(k)}, v_k) - I(z_{j(k)}; v_k) + \max_{j \ne j(k)} I(z_j; v_k), \qquad
        \mathrm{JEMMIG} = 1 - \frac{1}{K} \sum_k \frac{J_k}{H(v_k) + \log B}

    where B is the number of bins and :math:`j(k) = \operatorname{argmax}_j I(z_j; v_k)`. In [0, 1],
    higher is better. It is 1 only if the best latent contains the factor and nothing else, not even
    noise.

    Parameters
    ----------
    codes : array_like, shape (n, D), or Tables
        One row per item, or finished tables.
    factors : array_like, shape (n, K) or (n,)
        The true factors of the same items.
    normalised : bool, optional
        False returns the mean of J_k in nats, as the authors do: lower is better then.
    correction : {None, "miller-madow", "adjusted"}, optional
        As in :func:`tcdecomp.mig_score`. It does not apply to the joint entropy.
    **options
        ``n_bins``, ``strategy``, ``discrete_codes``, ``discrete_factors`` and ``sample_weight`` of
        :func:`tcdecomp.mig_score`.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        As :func:`tcdecomp.mig_score` does.

    References
    ----------
    Do, Tran (2020). Theory and Evaluation Metrics for Learning Disentangled Representations. ICLR.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp.metrics import jemmig_score
    >>> factors = np.random.default_rng(0).integers(0, 5, (10_000, 2))
    >>> round(jemmig_score(factors, factors), 2)
    1.0
    """
    tables, info = measured(codes, factors, correction, **options)
    joint = np.stack([entropy(part.reshape(len(part), -1)) for part in tables.split()], 1)
    ranked = np.sort(np.vstack([info.mutual, np.zeros(len(tables.sizes))]), axis=0)
    excess = joint - info.mutual + ranked[-2]
    if normalised:
        excess /= info.factor + np.log(tables.labels)[:, None]
    # of equally good latents, the one with the least of anything else
    tied = info.mutual >= ranked[-1] - 1e-9
    score = float(np.where(tied, excess, np.inf).min(0).mean())
    return 1 - score if normalised else score


def dcimig_score(
    codes: ArrayLike | Tables,
    factors: ArrayLike | None = None,
    *,
    correction: str | None = None,
    **options: Unpack[TableOptions],
) -> float:
    r"""Return DCIMIG (3CharM): gaps of latents, and the best latent of each factor.

    .. math::

        \mathrm{DCIMIG} = \frac{\sum_k \max_{j : k(j) = k} g_j}{\sum_k H(v_k)}, \qquad
        g_j = I(z_j; v_{k(j)}) - \max_{k \ne k(j)} I(z_j; v_k), \quad
        k(j) = \operatorname{argmax}_k I(z_j; v_k)

    Factors that no latent knows best count as 0. In [0, 1], higher is better. It is 1 if each
    factor has a latent that contains all of it and nothing of the others.

    Parameters
    ----------
    codes : array_like, shape (n, D), or Tables
        One row per item, or finished tables.
    factors : array_like, shape (n, K) or (n,)
        The true factors of the same items.
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
        As :func:`tcdecomp.mig_score` does.

    References
    ----------
    Sepliarskaia, Kiseleva, de Rijke (2019). How to Not Measure Disentanglement.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp.metrics import dcimig_score
    >>> factors = np.random.default_rng(0).integers(0, 5, (10_000, 2))
    >>> round(dcimig_score(factors, factors), 2)
    1.0
    """
    _, info = measured(codes, factors, correction, **options)
    ranked = np.sort(np.column_stack([info.mutual, np.zeros(len(info.mutual))]), axis=1)
    gaps: FloatArray = ranked[:, -1] - ranked[:, -2]
    best = np.zeros(len(info.factor))
    np.maximum.at(best, info.mutual.argmax(1), gaps)
    return float(best.sum() / info.factor.sum())
