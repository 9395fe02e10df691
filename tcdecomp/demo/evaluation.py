"""The figures of a trained model: terms, reconstruction and MIG."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from tcdecomp import Posterior, decompose_dataset, encode
from tcdecomp.demo.sprites import Sprites
from tcdecomp.metrics import MutualInfoGap, mutual_info_gap
from tcdecomp_adapters.lightning import TCVAE

__all__ = ["Figures", "Sampling", "evaluate", "kl_per_latent"]


@dataclass(frozen=True)
class Sampling:
    """How the figures are taken.

    Parameters
    ----------
    samples : int
        From how many samples z the terms are evaluated, over all images; the reconstruction from
        as many, but at least one of each image.
    bins : int
        Of the latents, for MIG. Fewer bins than a factor has values keep MIG below 1.
    """

    samples: int
    bins: int


@dataclass(frozen=True)
class Figures:
    """One model's figures, in nats per image but for MIG, which has no unit.

    ``error`` is the largest standard error among the terms.
    """

    index_code_mi: float
    total_correlation: float
    dimension_wise_kl: float
    kl: float
    reconstruction: float
    gap: MutualInfoGap
    error: float

    @property
    def mig(self) -> float:
        """The mutual information gap of the posterior means, averaged over the factors."""
        return self.gap.score


@torch.no_grad()
def evaluate(model: TCVAE, sprites: Sprites, sampling: Sampling) -> Figures:
    """Measure a model on all images, with noise from a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    posterior = encode(model, sprites.flat(), generator=generator)
    terms, errors, _ = decompose_dataset(
        posterior.mu, posterior.logvar, num_samples=sampling.samples, generator=generator
    )
    return Figures(
        index_code_mi=terms.index_code_mi.item(),
        total_correlation=terms.total_correlation.item(),
        dimension_wise_kl=terms.dimension_wise_kl.item(),
        kl=float(kl_per_latent(posterior).sum()),
        reconstruction=reconstruction(
            model, sprites, posterior, generator, rounds=max(1, sampling.samples // len(sprites))
        ),
        gap=mutual_info_gap(posterior.mu, sprites.factors, n_bins=sampling.bins),
        error=max(error.item() for error in errors[:3]),
    )


def kl_per_latent(posterior: Posterior) -> Tensor:
    """Return the closed-form KL of each latent (D,), averaged over the images."""
    mu, logvar = posterior.mu, posterior.logvar
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).mean(dim=0)


def reconstruction(
    model: TCVAE, sprites: Sprites, posterior: Posterior, generator: Generator, rounds: int
) -> float:
    """Return the reconstruction loss of the images, averaged over rounds of samples."""
    images = sprites.flat()
    losses = [
        model.reconstruction_loss(posterior.sample(generator=generator).z, images)
        for _ in range(rounds)
    ]
    return float(torch.stack(losses).mean())
