"""The figures of a trained model: terms, reconstruction and MIG."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sprites import Sprites
from tcdecomp import Posterior, decompose, encode
from tcdecomp.metrics import MutualInfoGap, mutual_info_gap
from tcdecomp_adapters.lightning import TCVAE

__all__ = ["Figures", "Sampling", "evaluate", "kl_per_latent"]


@dataclass(frozen=True)
class Sampling:
    """How the figures are taken.

    Parameters
    ----------
    items : int
        From how many items at a time the terms are estimated. With all N items the estimate is
        exact for the samples z that were drawn, and the draws average over z alone.
    draws : int
        How many times.
    bins : int
        Of the latents, for MIG. Fewer bins than a factor has values keep MIG below 1.
    """

    items: int
    draws: int
    bins: int


@dataclass(frozen=True)
class Figures:
    """One model's figures, in nats per image but for MIG, which has no unit."""

    index_code_mi: float
    total_correlation: float
    dimension_wise_kl: float
    kl: float
    reconstruction: float
    gap: MutualInfoGap

    @property
    def mig(self) -> float:
        """The mutual information gap of the posterior means, averaged over the factors."""
        return self.gap.score


@torch.no_grad()
def evaluate(model: TCVAE, sprites: Sprites, sampling: Sampling) -> Figures:
    """Measure a model on all images, with noise from a fixed seed."""
    posterior = encode(model, sprites.flat())
    means = mean_of_draws(draws(model, sprites, posterior, sampling))
    return Figures(
        index_code_mi=means[0],
        total_correlation=means[1],
        dimension_wise_kl=means[2],
        kl=float(kl_per_latent(posterior).sum()),
        reconstruction=means[3],
        gap=mutual_info_gap(posterior.mu, sprites.factors, n_bins=sampling.bins),
    )


def kl_per_latent(posterior: Posterior) -> Tensor:
    """Return the closed-form KL of each latent (D,), averaged over the images."""
    mu, logvar = posterior.mu, posterior.logvar
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).mean(dim=0)


def draws(
    model: TCVAE, sprites: Sprites, posterior: Posterior, sampling: Sampling
) -> Iterator[tuple[float, ...]]:
    """Yield MI, TC, dimension-wise KL, reconstruction, and how far the sampled KL is off."""
    size, images = len(sprites), sprites.flat()
    generator = torch.Generator().manual_seed(0)
    for _ in range(sampling.draws):
        rows = torch.randperm(size, generator=generator)[: sampling.items]
        mu, logvar = posterior.mu[rows], posterior.logvar[rows]
        batch = Posterior.from_moments(mu, logvar, generator=generator)
        terms = decompose(batch.z, mu, logvar, dataset_size=size)
        off = terms.sampled_kl - kl_per_latent(batch).sum()
        yield tuple(map(float, (*terms[:3], model.reconstruction_loss(batch.z, images[rows]), off)))


def mean_of_draws(rows: Iterator[tuple[float, ...]]) -> list[float]:
    """Average all columns but the last, with the last one's known mean of 0 as a control.

    The sampled KL's error is the sum of the terms' errors. Regression takes its share out of
    each: a smaller error at no bias to speak of, and with all N items in each draw, terms that
    sum to the closed-form KL.
    """
    *columns, off = np.array(list(rows)).T
    values = np.stack(columns)
    spread = off - off.mean()
    slopes = values @ spread / max(float(spread @ spread), np.finfo(float).tiny)
    means: list[float] = (values.mean(axis=1) - slopes * off.mean()).tolist()
    return means
