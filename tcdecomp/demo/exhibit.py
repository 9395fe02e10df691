"""What the picture shows of one model, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tcdecomp import encode
from tcdecomp.demo.evaluation import kl_per_latent
from tcdecomp.demo.sprites import Sprites
from tcdecomp.metrics import MutualInfoGap
from tcdecomp_adapters.lightning import TCVAE

__all__ = ["LIVE", "REACH", "Exhibit", "exhibit_of"]

LIVE = 0.1  # nats; a latent with less KL than this says nothing about the image
REACH = np.linspace(-2, 2, 7)  # of a traversal, in standard deviations of the prior
SHOWN = 7  # images beside their reconstructions


@dataclass(frozen=True, eq=False)
class Exhibit:
    """One column of the picture.

    Parameters
    ----------
    name, objective : str
        The model, and the loss that it was trained with.
    factor_names : tuple of str
        The K factors.
    gap : MutualInfoGap
        Its mutual information matrix, and the gap.
    kl : ndarray, shape (D,)
        KL of each latent, in nats.
    latents : ndarray of int, shape (D,)
        All latents in reading order: each factor's best, then the others by their KL.
    traversals : ndarray, shape (live latents, steps, side, side)
        One image decoded again while one latent varies; the rows in the order of ``latents``.
    pairs : ndarray, shape (2, images, side, side)
        Some images, and their reconstructions.
    """

    name: str
    objective: str
    factor_names: tuple[str, ...]
    gap: MutualInfoGap
    kl: NDArray[np.float32]
    latents: NDArray[np.intp]
    traversals: NDArray[np.float32]
    pairs: NDArray[np.float32]

    @property
    def live(self) -> NDArray[np.intp]:
        """The latents that carry information, in reading order; at least one."""
        return live_latents(self.latents, self.kl)


@torch.no_grad()
def exhibit_of(
    name: str, objective: str, model: TCVAE, sprites: Sprites, gap: MutualInfoGap
) -> Exhibit:
    """Decode what the picture shows; it starts from the image nearest the middle of the grid."""
    posterior = encode(model, sprites.flat())
    mu, kl = posterior.mu, kl_per_latent(posterior).numpy()
    latents = reading_order(gap.best_latent, kl)
    middle = np.abs(sprites.factors - sprites.factors.mean(axis=0)).sum(axis=1).argmin()
    side = sprites.side

    def images(z: Tensor) -> NDArray[np.float32]:
        return np.asarray(model.decoder(z).sigmoid().unflatten(-1, (side, side)))

    shown = np.linspace(0, len(sprites) - 1, 2 * SHOWN + 1).astype(int)[1::2]
    return Exhibit(
        name,
        objective,
        sprites.factor_names,
        gap,
        kl,
        latents,
        traversals=images(traverse(mu[middle], live_latents(latents, kl))),
        pairs=np.stack([sprites.images[shown], images(mu[shown])]),
    )


def reading_order(best: NDArray[np.intp], kl: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return all latents: each factor's best one first, then the others from the largest KL."""
    return np.array(list(dict.fromkeys([*best.tolist(), *np.argsort(-kl).tolist()])))


def live_latents(latents: NDArray[np.intp], kl: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return those of the latents that carry information, or the first if none does."""
    return latents[kl[latents] > LIVE] if (kl > LIVE).any() else latents[:1]


def traverse(start: Tensor, latents: NDArray[np.intp]) -> Tensor:
    """Return codes (latents, steps, D): copies of ``start`` (D,) in which one latent varies."""
    z = start.repeat(len(latents), len(REACH), 1)
    for row, latent in enumerate(latents):
        z[row, :, latent] = torch.from_numpy(REACH).to(z)
    return z
