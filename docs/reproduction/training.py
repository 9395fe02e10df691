"""One training, in a plain loop, and what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass
from time import thread_time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim.lr_scheduler import CosineAnnealingLR

from reproduction.data import correlated_rows, part_of
from reproduction.grid import Run
from tcdecomp import DensityRatioTC, Posterior, TCDecomposition
from tcdecomp.demo.images import Images
from tcdecomp.demo.models import Encoder, Recipe, batches, mlp

__all__ = ["Trained", "train"]

# Of five settings tried on seed 0 at beta = 6, the one that left the lowest TC. The paper's network
# has 6 layers of 1,000 units, and many more steps.
DISCRIMINATOR = {"width": 256, "depth": 3}
DISCRIMINATOR_RATE = 3e-3
DECODED = 8  # samples of each image, for the reconstruction loss


@dataclass(frozen=True, eq=False)
class Trained:
    """What is kept of a training.

    Parameters
    ----------
    mu, logvar : ndarray, shape (N, D)
        The posteriors of all images of the full grid.
    rows : ndarray, shape (n,)
        The images of the training set, as rows of the full grid.
    reconstruction : float
        The reconstruction loss on the training set in nats per image.
    seconds : float
        Processor time of the training.
    """

    mu: NDArray[np.float32]
    logvar: NDArray[np.float32]
    rows: NDArray[np.int64]
    reconstruction: float
    seconds: float


class VAE(nn.Module):
    """The demo's networks."""

    def __init__(self, pixels: int, recipe: Recipe) -> None:
        super().__init__()
        width, latents = recipe.width, recipe.latents
        self.encoder = Encoder(pixels, width, latents)
        self.decoder = mlp(latents, width, width, pixels)

    def encode(self, x: Tensor) -> Posterior:
        """Return the posteriors of a batch, with a sample of each."""
        return Posterior.from_moments(*self.encoder(x))

    def reconstruction(self, z: Tensor, x: Tensor) -> Tensor:
        """Return the Bernoulli loss in nats per image."""
        return F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum") / len(x)


def train(run: Run, images: Images, recipe: Recipe) -> Trained:
    """Train one model, and return its posteriors."""
    rows = correlated_rows(images, run.sigma, run.seed)
    training_set = part_of(images, rows)
    torch.manual_seed(run.seed)
    start = thread_time()
    model = VAE(images.flat().shape[1], recipe)
    if run.method == "FactorVAE":
        _fit_factor_vae(model, run, training_set, recipe)
    else:
        _fit(model, run, training_set, recipe)
    seconds = thread_time() - start
    mu, logvar = _posteriors(model, images)
    loss = _reconstruction(model, training_set)
    return Trained(mu.numpy(), logvar.numpy(), rows, loss, seconds)


def _fit(model: VAE, run: Run, images: Images, recipe: Recipe) -> None:
    criterion = TCDecomposition(alpha=run.alpha, beta=run.beta, gamma=run.gamma, validate=False)
    optimizer, schedule = _adam(model, recipe)
    for x, _ in batches(images, recipe.batch_size, recipe.steps, run.seed):
        posterior = model.encode(x)
        loss = model.reconstruction(posterior.z, x) + criterion(*posterior, len(images))
        _step(optimizer, loss)
        schedule.step()


def _fit_factor_vae(model: VAE, run: Run, images: Images, recipe: Recipe) -> None:
    """Train with the discriminator's estimate: KL + (beta - 1) TC."""
    criterion = TCDecomposition(validate=False)
    ratio = DensityRatioTC(recipe.latents, **DISCRIMINATOR)
    optimizer, schedule = _adam(model, recipe)
    other_optimizer = torch.optim.Adam(ratio.parameters(), lr=DISCRIMINATOR_RATE, fused=True)
    options = images, recipe.batch_size, recipe.steps
    pairs = zip(batches(*options, run.seed), batches(*options, run.seed + 1000), strict=True)
    for (x, _), (x_other, _) in pairs:
        posterior = model.encode(x)
        penalty = criterion(*posterior, len(images)) + (run.beta - 1) * ratio.estimate(posterior.z)
        _step(optimizer, model.reconstruction(posterior.z, x) + penalty)
        schedule.step()
        with torch.no_grad():
            z_other = model.encode(x_other).z
        _step(other_optimizer, ratio.loss(posterior.z, z_other))


def _adam(model: nn.Module, recipe: Recipe) -> tuple[torch.optim.Adam, CosineAnnealingLR]:
    adam = torch.optim.Adam(model.parameters(), lr=recipe.lr, fused=True)
    return adam, CosineAnnealingLR(adam, recipe.steps, eta_min=0.02 * recipe.lr)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def _posteriors(model: VAE, images: Images) -> tuple[Tensor, Tensor]:
    parts = [model.encoder(x) for x in images.flat().split(4096)]
    mu, logvar = (torch.cat(moments) for moments in zip(*parts, strict=True))
    return mu, logvar


@torch.no_grad()
def _reconstruction(model: VAE, images: Images) -> float:
    losses = [
        model.reconstruction(model.encode(x).z, x) * len(x)
        for x in images.flat().split(4096)
        for _ in range(DECODED)
    ]
    return float(torch.stack(losses).sum()) / (DECODED * len(images))
