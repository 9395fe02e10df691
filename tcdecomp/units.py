"""The latents one by one: which are active, what each costs, and how far they depend on others."""

from __future__ import annotations

import math
from numbers import Real
from typing import NamedTuple, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.distributions import Normal, kl_divergence

from tcdecomp.dataset import DatasetTerms, decompose_dataset
from tcdecomp.metrics.columns import FloatArray
from tcdecomp.posterior import Posterior
from tcdecomp.priors import Prior, factors_of

__all__ = ["Estimate", "GroupedTC", "active_units", "check_threshold", "grouped_tc", "latent_kl"]


class Estimate(NamedTuple):
    """A value in nats, and its Monte Carlo standard error."""

    value: float
    standard_error: float


class GroupedTC(NamedTuple):
    """Total correlation, divided by which latents are active: the three sum to the whole.

    Attributes
    ----------
    active, passive : Estimate
        The total correlation among the active latents, and among the others.
    between : Estimate
        The mutual information of the active latents with the others, I(active; passive).
    """

    active: Estimate
    passive: Estimate
    between: Estimate


def check_threshold(threshold: object) -> None:
    """Refuse what the variance of a latent's means cannot be compared with."""
    if isinstance(threshold, bool) or not isinstance(threshold, Real):
        raise TypeError(f"active_threshold must be a number; got {type(threshold).__name__}")
    if not 0 <= float(threshold) < math.inf:
        raise ValueError(f"active_threshold must be finite and at least 0; got {threshold}")


def active_units(codes: FloatArray, threshold: float) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return each latent's variance over the items, and whether it exceeds the threshold.

    Parameters
    ----------
    codes : ndarray, shape (N, D)
        Posterior means. The items are the whole population: the variance divides by N.
    threshold : float
        0.01 in the paper.

    References
    ----------
    Burda, Grosse, Salakhutdinov (2016). Importance Weighted Autoencoders. Section 5.2.
    """
    # Shifted by an item first, so that a constant latent has a variance of exactly 0.
    variance = (codes - codes[0]).var(0)
    return variance, variance > threshold


def latent_kl(mu: Tensor, logvar: Tensor, prior: Prior) -> FloatArray:
    """Return each latent's share of the closed-form KL, averaged over items: shape (D,), in nats.

    Parameters
    ----------
    mu, logvar : Tensor, shape (N, D)
        The posteriors of all items.
    prior : Distribution or callable, optional
        As in :func:`tcdecomp.decompose_dataset`, which accepted it.
    """
    posterior = Posterior(mu, mu, logvar).in_working_precision()
    factors = factors_of(prior, posterior) or Normal(mu.new_zeros(()), mu.new_ones(()))
    normal = Normal(posterior.mu, (0.5 * posterior.logvar).exp(), validate_args=False)
    shares: FloatArray = kl_divergence(normal, factors).cpu().double().mean(0).numpy()
    return shares


def grouped_tc(
    mu: Tensor,
    logvar: Tensor,
    active: NDArray[np.bool_],
    whole: DatasetTerms,
    *,
    num_samples: SupportsIndex,
    generator: Generator,
) -> GroupedTC:
    """Divide the total correlation between the active latents and the others.

    Parameters
    ----------
    mu, logvar : Tensor, shape (N, D)
        The posteriors of all items.
    active : ndarray of bool, shape (D,)
        Which latents are active.
    whole : DatasetTerms
        The terms of all latents.
    num_samples, generator
        As in :func:`tcdecomp.decompose_dataset`. The samples are new ones.
    """

    def among(chosen: NDArray[np.bool_]) -> Estimate:
        if chosen.all():
            return _total_correlation(whole)
        if chosen.sum() < 2:
            return Estimate(0.0, 0.0)
        columns = torch.as_tensor(chosen, device=mu.device)
        return _total_correlation(
            decompose_dataset(
                mu[:, columns], logvar[:, columns], num_samples=num_samples, generator=generator
            )
        )

    inner = among(active), among(~active)
    if active.all() or not active.any():
        return GroupedTC(*inner, Estimate(0.0, 0.0))
    total = _total_correlation(whole)
    between = total.value - sum(part.value for part in inner)
    # The three come from independent samples.
    error = math.hypot(total.standard_error, *(part.standard_error for part in inner))
    return GroupedTC(*inner, Estimate(between, error))


def _total_correlation(result: DatasetTerms) -> Estimate:
    return Estimate(
        result.terms.total_correlation.item(), result.standard_error.total_correlation.item()
    )
