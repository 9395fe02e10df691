"""The models that are compared, and one run of the comparison."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from tcdecomp import TCDecomposition
from tcdecomp.demo.dsprites import load_dsprites
from tcdecomp.demo.evaluation import Figures, Sampling, evaluate
from tcdecomp.demo.exhibit import Exhibit, exhibit_of
from tcdecomp.demo.picture import draw
from tcdecomp.demo.sprites import Sprites, squares
from tcdecomp.demo.table import notes, table, verdict
from tcdecomp.demo.training import Recipe, train

__all__ = ["MODELS", "QUICK", "objective", "prepare", "run"]

BETA = 6
# All that differs: alpha, beta and gamma, the weights of index-code MI, TC and dimension-wise KL.
MODELS = {
    "VAE": (1, 1, 1),
    "beta-VAE": (BETA, BETA, BETA),
    "beta-TCVAE": (1, BETA, 1),
}
DEFAULT = Recipe(steps=2000, batch_size=256, lr=3e-3, width=256)
QUICK = Recipe(steps=1000, batch_size=128, lr=4e-3, width=256)
DSPRITES_IMAGES = 51_200


def prepare(options: argparse.Namespace) -> tuple[Sprites, Recipe, Sampling]:
    """Return the data, how to train on it, and how to measure the terms."""
    recipe = QUICK if options.quick else DEFAULT
    if options.data:
        sprites = load_dsprites(options.data, DSPRITES_IMAGES, at_least=recipe.batch_size)
        recipe = replace(recipe, lr=1e-3, width=512)
        sampling = Sampling(samples=10_000, bins=40)
    else:
        sprites = squares()
        sampling = Sampling(samples=64 * len(sprites), bins=20)
    return sprites, replace(recipe, steps=options.steps or recipe.steps), sampling


def run(sprites: Sprites, recipe: Recipe, sampling: Sampling, options: argparse.Namespace) -> None:
    """Train, measure and compare the models; print the table and draw the picture."""
    print(f"{sprites}\n{recipe}", flush=True)
    results, exhibits = compare(sprites, recipe, sampling, options.seeds)
    remarks = notes(sprites, sampling, results)
    print("", table(results), remarks, verdict(results), sep="\n", flush=True)
    picture = options.output / "picture.png"
    title = f"What three VAEs learn from the same {len(sprites):,} images (seed {options.seeds[0]})"
    draw(exhibits, title, picture)
    print(f"Picture: {picture}")


def compare(
    sprites: Sprites, recipe: Recipe, sampling: Sampling, seeds: Sequence[int]
) -> tuple[dict[str, list[Figures]], list[Exhibit]]:
    """Train and measure each model under each seed; exhibit those of the first seed."""
    results: dict[str, list[Figures]] = {name: [] for name in MODELS}
    exhibits = []
    for seed in seeds:
        for name, (alpha, beta, gamma) in MODELS.items():
            criterion = TCDecomposition(alpha=alpha, beta=beta, gamma=gamma)
            model = train(f"{name}, seed {seed}", criterion, sprites, recipe, seed)
            figures = evaluate(model, sprites, sampling)
            results[name].append(figures)
            if seed == seeds[0]:
                loss = objective(alpha, beta, gamma)
                exhibits.append(exhibit_of(name, loss, model, sprites, figures.gap))
    return results, exhibits


def objective(alpha: float, beta: float, gamma: float) -> str:
    """Return the loss in words, without the weights that are 1."""
    terms = {"MI": alpha, "TC": beta, "DWKL": gamma}
    weighted = (name if weight == 1 else f"{weight} {name}" for name, weight in terms.items())
    return " + ".join(("reconstruction", *weighted))
