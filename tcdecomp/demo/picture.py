"""The picture: for each model its MI matrix, latent traversals and reconstructions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from tcdecomp.demo.exhibit import LIVE, REACH, Exhibit

__all__ = ["draw"]

WIDTH = 3.7  # of a column, in inches
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
    shares = (gap.mutual_info / gap.factor_entropy)[latents]
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
    """Show one row for each latent in use; the room for ``rows`` keeps one scale for all."""
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
