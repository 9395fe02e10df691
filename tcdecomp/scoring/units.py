"""Which latents are active, and the total correlation among the active and the passive ones."""

from __future__ import annotations

import math
from numbers import Real
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcdecomp.dataset.groups import GroupTerms
from tcdecomp.metrics.columns import FloatArray
from tcdecomp.terms import Estimate

__all__ = ["GroupedTC", "active_units", "by_activity", "check_threshold", "grouped_tc"]


class GroupedTC(NamedTuple):
    """Total correlation among active latents, among passive ones and between: they sum to it.

    Attributes
    ----------
    active, passive : Estimate
        The total correlation among the active latents, and among the passive ones.
    between : Estimate
        The mutual information I(active; passive).
    """

    active: Estimate
    passive: Estimate
    between: Estimate


def check_threshold(threshold: object) -> None:
    """Raise a TypeError or ValueError if the threshold is not a finite number of at least 0."""
    if isinstance(threshold, bool) or not isinstance(threshold, Real):
        raise TypeError(f"active_threshold must be a number; got {type(threshold).__name__}")
    if not 0 <= float(threshold) < math.inf:
        raise ValueError(f"active_threshold must be finite and at least 0; got {threshold}")


def active_units(codes: FloatArray, threshold: float) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return each latent's variance over the items, and whether it exceeds the threshold.

    Parameters
    ----------
    codes : ndarray, shape (N, D)
        Posterior means. The variance divides by N, because the items are the whole population.
    threshold : float
        0.01 in the paper.

    References
    ----------
    Burda, Grosse, Salakhutdinov (2016). Importance Weighted Autoencoders. Section 5.2.
    """
    # Shifted by one item first: a constant latent then has a variance of exactly 0.
    variance = (codes - codes[0]).var(0)
    return variance, variance > threshold


def grouped_tc(terms: GroupTerms) -> GroupedTC:
    """Return the total correlations of the groups from :func:`by_activity`."""
    none = Estimate(0.0, 0.0)
    found = {
        name: Estimate(
            group.terms.total_correlation.item(), group.standard_error.total_correlation.item()
        )
        for name, group in terms.groups.items()
    }
    return GroupedTC(found.get("active", none), found.get("passive", none), terms.between)


def by_activity(active: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Return the active and the passive latents as groups, without an empty group."""
    parts = {"active": active, "passive": ~active}
    return {name: np.flatnonzero(part).tolist() for name, part in parts.items() if part.any()}
