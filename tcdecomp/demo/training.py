"""The training of one model."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass

import lightning
import torch

from tcdecomp import TCDecomposition
from tcdecomp.demo.batches import batches
from tcdecomp.demo.networks import CosineTCVAE, Encoder, mlp
from tcdecomp.demo.progress import ProgressBar
from tcdecomp.demo.sprites import Sprites
from tcdecomp_adapters.lightning import TCVAE, TCMonitor

__all__ = ["Recipe", "train"]

EVERY = 50  # steps between two looks at the terms

# What Lightning warns of is intended: no worker processes, since all data is in memory, and no
# validation, since the models are measured afterwards. The last warning is of its own making.
INTENDED = (
    ".*does not have many workers",
    ".*no `val_dataloader`",
    ".*isinstance.treespec, LeafSpec.* is deprecated",
)


@dataclass(frozen=True)
class Recipe:
    """What all models have in common; they differ in the weights of the three terms only."""

    steps: int
    batch_size: int
    lr: float
    width: int
    latents: int = 10

    def __str__(self) -> str:
        return (
            f"{self.steps:,} steps of {self.batch_size} images per model; Adam {self.lr:g} falling "
            f"to 2 %; networks {self.width} wide, {self.latents} latents"
        )


def train(
    label: str, criterion: TCDecomposition, sprites: Sprites, recipe: Recipe, seed: int
) -> TCVAE:
    """Train one model with Lightning, and return it.

    Parameters
    ----------
    label : str
        What the progress bar calls it.
    criterion : TCDecomposition
        The KL term, with its weights.
    sprites : Sprites
        The data.
    recipe : Recipe
        Sizes, steps and learning rate.
    seed : int
        Of the initial weights, the order of the batches and the noise.
    """
    torch.manual_seed(seed)
    pixels, width = sprites.side**2, recipe.width
    model = CosineTCVAE(
        Encoder(pixels, width, recipe.latents),
        mlp(recipe.latents, width, width, pixels),
        criterion,
        dataset_size=len(sprites),
        likelihood="bernoulli",
        lr=recipe.lr,
    )
    loader = batches(sprites, recipe.batch_size, recipe.steps, seed)
    quiet_trainer(label, recipe.steps).fit(model, loader)
    return model.eval()


def quiet_trainer(label: str, steps: int) -> lightning.Trainer:
    """Return a Trainer that leaves no files and says nothing but its progress."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in INTENDED:
        warnings.filterwarnings("ignore", message=message)
    return lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[TCMonitor(every_n_steps=EVERY), ProgressBar(label, EVERY)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
