"""The models: how they are built, trained and measured."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from tcdecomp import Posterior, TCDecomposition, decompose_dataset, encode
from tcdecomp.demo.images import Images, load_dsprites, squares
from tcdecomp.metrics import MutualInfoGap, mutual_info_gap
from tcdecomp_adapters.lightning import TCVAE, TCMonitor

__all__ = ["Figures", "Recipe", "batches", "evaluate", "kl_per_latent", "prepare", "train"]

DSPRITES_IMAGES = 51_200  # of 737,280
EVERY = 50  # steps between two looks at the terms

# Lightning warns of what is intended: no worker processes, because all data is in memory, and no
# validation, because the models are measured after the training. Lightning itself causes the last.
INTENDED = (
    ".*does not have many workers",
    ".*no `val_dataloader`",
    ".*isinstance.treespec, LeafSpec.* is deprecated",
)


@dataclass(frozen=True)
class Recipe:
    """What all models have in common. They differ in the weights of the three terms only.

    ``samples`` is the number of samples z from which a trained model is measured, ``bins`` the
    number of bins of each latent for MIG.
    """

    steps: int
    batch_size: int
    lr: float
    width: int = 256
    latents: int = 10
    samples: int = 32_768
    bins: int = 20

    def __str__(self) -> str:
        return (
            f"{self.steps:,} steps of {self.batch_size} images per model; Adam {self.lr:g} falling "
            f"to 2 %; networks {self.width} wide, {self.latents} latents"
        )


@dataclass(frozen=True)
class Figures:
    """The measurements of one model, in nats per image. ``gap`` has the MIG, which has no unit.

    ``error`` is the largest standard error of the terms.
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


def prepare(data: Path | None, quick: bool, steps: int | None) -> tuple[Images, Recipe]:
    """Return the images, the squares or dSprites from a file, and the recipe for them."""
    recipe = Recipe(steps=2000, batch_size=256, lr=3e-3)
    if quick:
        recipe = Recipe(steps=1000, batch_size=128, lr=4e-3)
    if data is None:
        images = squares()
    else:
        images = load_dsprites(data, DSPRITES_IMAGES, at_least=recipe.batch_size)
        recipe = replace(recipe, lr=1e-3, width=512, samples=10_000, bins=40)
    return images, replace(recipe, steps=steps or recipe.steps)


class Encoder(nn.Module):
    """Images (M, pixels) to the mean and log-variance of q(z|n), (M, D) each."""

    def __init__(self, pixels: int, width: int, latents: int) -> None:
        super().__init__()
        self.layers = mlp(pixels, width, width, 2 * latents)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar; the bounds keep the first steps stable."""
        mu, logvar = self.layers(x).chunk(2, dim=1)
        return mu, logvar.clamp(-12, 4)


class CosineTCVAE(TCVAE):
    """The library's model, with a learning rate that falls to 2 % along a cosine."""

    def configure_optimizers(self) -> Any:
        """Return Adam, and the schedule that advances after each batch."""
        adam = super().configure_optimizers()
        cosine = CosineAnnealingLR(adam, self.trainer.max_steps, eta_min=0.02 * self.lr)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


class ProgressBar(lightning.Callback):
    """One line on stderr: the steps, and the total correlation that :class:`TCMonitor` logs."""

    def __init__(self, label: str) -> None:
        self.label = label

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Open the bar. A file gets a new state every ten seconds at most."""
        seconds = 0.1 if sys.stderr.isatty() else 10
        total, name = trainer.max_steps, f"{self.label:<10}"
        self.bar = tqdm(desc=name, total=total, mininterval=seconds, unit="step")

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Advance by one batch, and show the total correlation when there is a new one."""
        if trainer.global_step % EVERY == 0:
            value = float(trainer.callback_metrics["train/total_correlation"])
            self.bar.set_postfix_str(f"TC {value:.2f} nats", refresh=False)
        self.bar.update()

    def on_train_end(self, *_: Any) -> None:
        """Leave the finished line."""
        self.bar.close()


def mlp(*widths: int) -> nn.Sequential:
    """Return linear layers of these widths with a ReLU between each two."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def batches(
    images: Images, batch_size: int, steps: int, seed: int
) -> DataLoader[tuple[Tensor, ...]]:
    """Return a loader of ``steps`` batches (images, factors), all of them in one epoch.

    Each batch has distinct images, as the estimators expect: it is cut from one random order of
    the images after another, and the incomplete batch at the end of an order is dropped.
    """
    generator = torch.Generator().manual_seed(seed)
    per_order = len(images) // batch_size
    orders = [
        torch.randperm(len(images), generator=generator)[: per_order * batch_size]
        for _ in range(math.ceil(steps / per_order))
    ]
    indices = torch.cat(orders).view(-1, batch_size)[:steps]
    data = TensorDataset(images.flat(), torch.from_numpy(images.factors))
    # Each index is a whole batch: the data set is asked once per step, not once per image.
    return DataLoader(data, sampler=list(indices), batch_size=None)


def train(
    label: str, criterion: TCDecomposition, images: Images, recipe: Recipe, seed: int
) -> TCVAE:
    """Train one model with Lightning, and return it.

    Parameters
    ----------
    label : str
        The name in the progress bar.
    criterion : TCDecomposition
        The KL term, with its weights.
    images : Images
        The data.
    recipe : Recipe
        Sizes, steps and learning rate.
    seed : int
        The seed of the initial weights, of the order of the batches and of the noise.
    """
    torch.manual_seed(seed)
    pixels, width = images.side**2, recipe.width
    model = CosineTCVAE(
        Encoder(pixels, width, recipe.latents),
        mlp(recipe.latents, width, width, pixels),
        criterion,
        dataset_size=len(images),
        likelihood="bernoulli",
        lr=recipe.lr,
    )
    loader = batches(images, recipe.batch_size, recipe.steps, seed)
    quiet_trainer(label, recipe.steps).fit(model, loader)
    return model.eval()


def quiet_trainer(label: str, steps: int) -> lightning.Trainer:
    """Return a Trainer that leaves no files and prints its progress only."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in INTENDED:
        warnings.filterwarnings("ignore", message=message)
    return lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[TCMonitor(every_n_steps=EVERY), ProgressBar(label)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@torch.no_grad()
def evaluate(model: TCVAE, images: Images, recipe: Recipe) -> Figures:
    """Measure a model on all images, with noise from a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    posterior = encode(model, images.flat(), generator=generator)
    terms, errors, _ = decompose_dataset(
        posterior.mu, posterior.logvar, num_samples=recipe.samples, generator=generator
    )
    return Figures(
        index_code_mi=terms.index_code_mi.item(),
        total_correlation=terms.total_correlation.item(),
        dimension_wise_kl=terms.dimension_wise_kl.item(),
        kl=float(kl_per_latent(posterior).sum()),
        reconstruction=reconstruction(model, images, posterior, recipe.samples, generator),
        gap=_gap(posterior.mu, images.factors, recipe.bins),
        error=max(error.item() for error in errors[:3]),
    )


def kl_per_latent(posterior: Posterior) -> Tensor:
    """Return the closed-form KL of each latent (D,), averaged over the images."""
    mu, logvar = posterior.mu, posterior.logvar
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).mean(dim=0)


def reconstruction(
    model: TCVAE, images: Images, posterior: Posterior, samples: int, generator: Generator
) -> float:
    """Return the mean reconstruction loss of about ``samples`` samples, at least one per image."""
    losses = [
        model.reconstruction_loss(posterior.sample(generator=generator).z, images.flat())
        for _ in range(max(1, samples // len(images)))
    ]
    return float(torch.stack(losses).mean())


def _gap(codes: Tensor, factors: NDArray[Any], bins: int) -> MutualInfoGap:
    with warnings.catch_warnings():
        # The images are the whole data set, and the bias is the same for all three models.
        warnings.filterwarnings("ignore", message=".* rows are few for so many bins")
        return mutual_info_gap(codes, factors, n_bins=bins)
