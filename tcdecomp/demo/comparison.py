"""The comparison: its models, the table, the sentences below it, and the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from textwrap import fill

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from tcdecomp import TCDecomposition, encode
from tcdecomp._text import table as text_table
from tcdecomp.demo.images import Images
from tcdecomp.demo.models import Figures, Recipe, evaluate, kl_per_latent, train
from tcdecomp.metrics import MutualInfoGap
from tcdecomp_adapters.lightning import TCVAE

__all__ = ["MODELS", "compare", "notes", "objective", "table", "verdict"]

BETA = 6
# All that differs: alpha, beta and gamma, the weights of index-code MI, TC and dimension-wise KL.
MODELS = {
    "VAE": (1, 1, 1),
    "beta-VAE": (BETA, BETA, BETA),
    "beta-TCVAE": (1, BETA, 1),
}

WRAP = 100
COLUMNS = {
    "index-code MI": ("index_code_mi", 2),
    "total corr.": ("total_correlation", 2),
    "dim.-wise KL": ("dimension_wise_kl", 2),
    "KL": ("kl", 2),
    "reconstr.": ("reconstruction", 1),
    "MIG": ("mig", 2),
}

LIVE = 0.1  # nats; a latent with less KL carries no information about the image
REACH = np.linspace(-2, 2, 7)  # the steps of a traversal, in standard deviations of the prior
SHOWN = 7  # images beside their reconstructions
WIDTH = 3.7  # of a column of the picture, in inches
CAPTION = (
    "Losses: index-code mutual information (MI), total correlation (TC) and dimension-wise KL "
    "(DWKL) sum to the KL of the plain VAE; the other models weigh them.\n"
    "Matrices: what a latent tells about a factor, as a share of all there is to tell (mutual "
    "information / entropy). Outlined: each factor's best latent.\n"
    "MIG: its lead over the second best, averaged over the factors. In brackets: the latent's KL "
    "in nats. A latent at 0.00 is unused; its small shares come from binning.\n"
    "Traversals: one image, decoded again while a single latent moves through the prior. Where "
    "the latents are disentangled, each row changes one factor only."
)


def compare(images: Images, recipe: Recipe, seeds: Sequence[int], picture: Path) -> None:
    """Train and measure each model under each seed; print the table, draw the first seed."""
    print(f"{images}\n{recipe}", flush=True)
    results: dict[str, list[Figures]] = {name: [] for name in MODELS}
    exhibits = []
    for seed in seeds:
        for name, (alpha, beta, gamma) in MODELS.items():
            criterion = TCDecomposition(alpha=alpha, beta=beta, gamma=gamma)
            model = train(f"{name}, seed {seed}", criterion, images, recipe, seed)
            figures = evaluate(model, images, recipe)
            results[name].append(figures)
            if seed == seeds[0]:
                loss = objective(alpha, beta, gamma)
                exhibits.append(exhibit_of(name, loss, model, images, figures.gap))
    remarks = notes(images, recipe, results)
    print("", table(results), remarks, verdict(results), sep="\n", flush=True)
    title = f"What three VAEs learn from the same {len(images):,} images (seed {seeds[0]})"
    draw(exhibits, title, picture)
    print(f"Picture: {picture}")


def objective(alpha: float, beta: float, gamma: float) -> str:
    """Return the loss in words, without the weights that are 1."""
    terms = {"MI": alpha, "TC": beta, "DWKL": gamma}
    weighted = (name if weight == 1 else f"{weight} {name}" for name, weight in terms.items())
    return " + ".join(("reconstruction", *weighted))


def table(results: dict[str, list[Figures]]) -> str:
    """Return one row per model: its figures, or their mean and (sd) over the seeds.

    Parameters
    ----------
    results : dict of str to list of Figures
        For each model its figures under each seed.
    """
    rows = [["", *COLUMNS]]
    for name, runs in results.items():
        columns = (([getattr(run, key) for run in runs], n) for key, n in COLUMNS.values())
        rows.append([name, *(cell(values, digits) for values, digits in columns)])
    header, *lines = text_table(rows).splitlines()
    return "\n".join([header, "-" * len(header), *lines])


def cell(values: list[float], digits: int) -> str:
    """Return a figure; of several, their mean and in brackets their standard deviation."""
    text = f"{mean(values):.{digits}f}"
    return f"{text} ({stdev(values):.{digits}f})" if len(values) > 1 else text


def notes(images: Images, recipe: Recipe, results: dict[str, list[Figures]]) -> str:
    """Return what the figures are, and how exact."""
    every = [run for runs in results.values() for run in runs]
    seeds = len(every) // len(results)
    terms = (
        f"terms over all {len(images):,} images from {recipe.samples:,} samples, standard "
        f"error up to {max(run.error for run in every):.4f}"
    )
    grey = f" (at best {images.floor:.1f}: the pixels are grey)" if images.floor > 0.05 else ""
    bins = f"MIG of the posterior means in {recipe.bins} bins"
    spread = f", mean (sd) over {seeds} seeds" if seeds > 1 else ""
    return fill(f"In nats per image{spread}: {terms}; reconstruction loss{grey}. {bins}.", WRAP)


def verdict(results: dict[str, list[Figures]], champion: str = "beta-TCVAE") -> str:
    """Return what the table shows about the champion's MIG, and what it does not show."""
    scores = {name: [round(run.mig, 2) for run in runs] for name, runs in results.items()}
    mine = scores.pop(champion)
    wins = sum(score > max(others) for score, *others in zip(mine, *scores.values(), strict=True))
    if len(mine) > 1:
        shown = f"has the highest MIG in {wins} of {len(mine)} seeds"
        hidden = "other data"
    else:
        shown = "has the highest MIG" if wins else "does not have the highest MIG"
        hidden = "other data or under other seeds (--seeds 0-7)"
    limits = (
        f"Not shown: that {champion} beats a beta-VAE with a beta chosen for it, or what happens "
        f"on {hidden}."
    )
    return f"Shown: on these images, at these weights, {champion} {shown}.\n{fill(limits, WRAP)}"


@dataclass(frozen=True, eq=False)
class Exhibit:
    """One column of the picture: a model, as arrays.

    ``latents`` has all latents in reading order, ``live`` those that carry information. A row of
    ``traversals`` (live latents, steps, side, side) shows one image while one latent varies, and
    ``pairs`` (2, images, side, side) some images above their reconstructions.
    """

    name: str
    objective: str
    factor_names: tuple[str, ...]
    gap: MutualInfoGap
    kl: NDArray[np.float32]
    latents: NDArray[np.intp]
    live: NDArray[np.intp]
    traversals: NDArray[np.float32]
    pairs: NDArray[np.float32]


@torch.no_grad()
def exhibit_of(
    name: str, objective: str, model: TCVAE, images: Images, gap: MutualInfoGap
) -> Exhibit:
    """Return a model's column. The traversals start from the image nearest the grid's middle."""
    posterior = encode(model, images.flat())
    mu, kl = posterior.mu, kl_per_latent(posterior).numpy()
    # Each factor's best latent first, then the others from the largest KL.
    latents = np.array(list(dict.fromkeys([*gap.best_latent, *np.argsort(-kl)])))
    live = latents[kl[latents] > LIVE] if (kl > LIVE).any() else latents[:1]
    middle = np.abs(images.factors - images.factors.mean(axis=0)).sum(axis=1).argmin()
    shown = np.linspace(0, len(images) - 1, 2 * SHOWN + 1).astype(int)[1::2]

    def decoded(z: Tensor) -> NDArray[np.float32]:
        square = images.side, images.side
        return np.asarray(model.decoder(z).sigmoid().unflatten(-1, square))

    traversals = decoded(traverse(mu[middle], live))
    pairs = np.stack([images.pixels[shown], decoded(mu[shown])])
    return Exhibit(name, objective, images.factor_names, gap, kl, latents, live, traversals, pairs)


def traverse(start: Tensor, latents: NDArray[np.intp]) -> Tensor:
    """Return codes (latents, steps, D): copies of ``start`` (D,) in which one latent varies."""
    z = start.repeat(len(latents), len(REACH), 1)
    for row, latent in enumerate(latents):
        z[row, :, latent] = torch.from_numpy(REACH).to(z)
    return z


def draw(exhibits: list[Exhibit], title: str, path: Path) -> None:
    """Draw one column per model and write the picture to ``path``."""
    rows = max(len(exhibit.live) for exhibit in exhibits)
    heights = [0.36 * len(exhibits[0].latents), rows * WIDTH / len(REACH), 1.1]
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=((WIDTH + 0.7) * len(exhibits) + 0.8, sum(heights) + 3), layout=layout)
    figure.suptitle(title, fontsize=16, fontweight="bold")
    figure.supxlabel(CAPTION, fontsize=10, x=0.01, ha="left", linespacing=1.6)
    axes = figure.subplots(3, len(exhibits), squeeze=False, height_ratios=heights)
    for (top, middle, bottom), exhibit in zip(axes.T, exhibits, strict=True):
        heat = draw_matrix(top, exhibit)
        draw_traversals(middle, exhibit, rows)
        draw_pairs(bottom, exhibit)
    bar = figure.colorbar(heat, ax=axes[0].tolist(), pad=0.015)
    bar.set_label("mutual information / entropy of the factor")
    figure.savefig(path, dpi=100)


def draw_matrix(axes: Axes, exhibit: Exhibit) -> AxesImage:
    """Show I(z_j; v_k) / H(v_k), and return the heat map for the colour bar."""
    gap, latents = exhibit.gap, exhibit.latents
    shares = gap.shares[latents]
    heat = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        ink = "white" if share > 0.6 else "black"
        axes.text(column, row, f"{share:.2f}", color=ink, ha="center", va="center", fontsize=9)
    for column, latent in enumerate(gap.best_latent):
        corner = column - 0.47, latents.tolist().index(latent) - 0.44
        axes.add_patch(Rectangle(corner, 0.94, 0.88, fill=False, edgecolor="C1", linewidth=2.5))
    axes.set_xticks(range(len(exhibit.factor_names)), exhibit.factor_names, fontsize=11)
    axes.set_yticks(range(len(latents)), [f"z{j}  ({exhibit.kl[j]:.2f})" for j in latents])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_title(f"{exhibit.name}: MIG {gap.score:.2f}", fontsize=14, fontweight="bold", pad=42)
    axes.annotate(
        exhibit.objective, (0.5, 1), (0, 23), "axes fraction", "offset points", ha="center"
    )
    return heat


def draw_traversals(axes: Axes, exhibit: Exhibit, rows: int) -> None:
    """Show one row for each latent in use. Room for ``rows`` gives all models one scale."""
    side = draw_images(axes, exhibit.traversals, rows)
    ticks = (np.arange(len(exhibit.live)) + 0.5) * side
    axes.set_yticks(ticks, [f"z{j}" for j in exhibit.live])
    ends = np.array([0.5, len(REACH) / 2, len(REACH) - 0.5]) * side
    axes.set_xticks(ends, [f"{REACH[0]:+g} sd", "0", f"{REACH[-1]:+g} sd"])
    axes.xaxis.tick_top()
    axes.set_title(f"Traversals of the latents above {LIVE} nats", fontsize=11)


def draw_pairs(axes: Axes, exhibit: Exhibit) -> None:
    """Show images above their reconstructions."""
    side = draw_images(axes, exhibit.pairs, 2)
    axes.set_yticks([0.5 * side, 1.5 * side], ["image", "model"])
    axes.set_xticks([])
    axes.set_title("Images and their reconstructions", fontsize=11)


def draw_images(axes: Axes, images: NDArray[np.float32], rows: int) -> int:
    """Show images (rows, columns, side, side) as one mosaic, and return a cell's side."""
    missing = rows - len(images)
    framed = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=0.5)
    framed = np.pad(framed, ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=np.nan)
    mosaic = np.concatenate([np.concatenate(row, axis=1) for row in framed])
    axes.imshow(mosaic, cmap="gray", vmin=0, vmax=1)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return int(images.shape[2]) + 1
