"""The figures, each in a light and a dark form, from the table of results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproduction.summary import METHODS, SCORE, curve, load, mean_of, of, rank_correlations

__all__ = ["FIGURES", "draw_all"]

THEMES = {
    "light": {"ink": "#1f2328", "grid": "#d0d7de"},
    "dark": {"ink": "#e6edf3", "grid": "#444c56"},
}
COLORS = {
    "VAE": "#8c959f",
    "beta-VAE": "#e8871e",
    "beta-TCVAE": "#2f81f7",
    "FactorVAE": "#2da44e",
    "alpha alone": "#bf5af2",
    "gamma alone": "#e5534b",
}
NAMES = {"squares": "squares", "objects": "colored squares"}


def draw_all(table: Path, folder: Path) -> None:
    """Draw every figure whose rows are there."""
    frame = load(table)
    for name, draw in FIGURES.items():
        for theme, colors in THEMES.items():
            with mpl.rc_context(style(**colors)):
                figure = draw(frame)
                if figure is not None:
                    figure.savefig(folder / f"{name}-{theme}.png", dpi=150, transparent=True)


def style(ink: str, grid: str) -> dict[str, object]:
    """Return matplotlib's settings for a theme."""
    inked = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor")
    return dict.fromkeys(inked, ink) | {
        "axes.edgecolor": grid,
        "grid.color": grid,
        "grid.linewidth": 0.6,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.use": True,
        "font.size": 10,
        "legend.frameon": False,
    }


def distribution(frame: pd.DataFrame) -> Figure | None:
    """Draw the MIG of every run by method and beta, with means and intervals: figure 1."""
    sets = sets_of(frame)
    if not sets:
        return None
    figure = Figure(figsize=(9, 3.1 * len(sets)))
    grid = figure.subplots(len(sets), len(METHODS), sharey=True, squeeze=False)
    for row, data in zip(grid, sets, strict=True):
        for axes, method in zip(row, METHODS, strict=True):
            spread(axes, curve(of(frame, part=data), method), method)
            axes.set_title(f"{method}, {NAMES[data]}", fontsize=10)
        row[0].set_ylabel("MIG")
    for axes in grid[-1]:
        axes.set_xlabel("beta (1: VAE)")
    grid[0, 0].set_ylim(0, 1)
    return figure


def spread(axes: Axes, runs: pd.DataFrame, method: str) -> None:
    """Draw a point for each run, and a bar for the mean with its interval, at each weight."""
    weights = sorted(runs["weight"].unique())
    for place, weight in enumerate(weights):
        part = of(runs, weight=weight)
        color = COLORS["VAE" if weight == 1 else method]
        shift = np.linspace(-0.15, 0.15, len(part))
        axes.scatter(place + shift, part[SCORE], s=14, color=color, alpha=0.6, linewidths=0)
        value, low, high, _ = mean_of(part, SCORE)
        bars = [[value - low], [high - value]]
        axes.errorbar(place, value, bars, fmt="_", color=color, markersize=18, capsize=4)
    axes.set_xticks(range(len(weights)), [f"{weight:g}" for weight in weights])


def trade_off(frame: pd.DataFrame) -> Figure | None:
    """Draw the mean MIG against the mean TC for each beta, larger for higher beta: figure 2."""
    sets = sets_of(frame)
    if not sets:
        return None
    figure = Figure(figsize=(4.6 * len(sets), 3.8))
    for axes, data in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
        for method in METHODS:
            means = curve(of(frame, part=data), method).groupby("weight")
            points = means[["total_correlation", SCORE]].mean()
            x, y = points["total_correlation"], points[SCORE]
            axes.plot(x, y, color=COLORS[method], linewidth=1, alpha=0.5)
            sizes = 20 + 22 * points.index.to_numpy()
            axes.scatter(x, y, s=sizes, color=COLORS[method], alpha=0.75, label=method)
        axes.set(xscale="log", xlabel="mean total correlation (nats)", ylabel="mean MIG")
        axes.set_title(f"{NAMES[data]}: larger circles, higher beta", fontsize=10)
        axes.set_ylim(0, 1)
    legend = axes.legend(loc="lower left")
    for handle in legend.legend_handles:
        handle.set_sizes([60])
    return figure


def single_weights(frame: pd.DataFrame) -> Figure | None:
    """Draw the MIG where one weight alone is raised."""
    squares = frame[frame["part"].isin(["squares", "weights"])]
    if not len(of(frame, part="weights")):
        return None
    figure = Figure(figsize=(8.4, 3.4))
    left, right = figure.subplots(1, 2)
    labels = {
        "beta-TCVAE": "TC alone (beta-TCVAE)",
        "alpha alone": "MI alone",
        "gamma alone": "dimension-wise KL alone",
        "beta-VAE": "all three (beta-VAE)",
    }
    for method, label in labels.items():
        for axes, column in ((left, SCORE), (right, "reconstruction")):
            line(axes, curve(squares, method), column, COLORS[method], label)
    left.set(ylabel="MIG", ylim=(0, 1))
    right.set(ylabel="reconstruction loss (nats)")
    for axes in (left, right):
        axes.set_xlabel("weight (the others are 1)")
    right.legend()
    return figure


def line(axes: Axes, runs: pd.DataFrame, column: str, color: str, label: str) -> None:
    """Draw means over seeds with their 95 % intervals, along the weight."""
    groups = [(weight, mean_of(part, column)) for weight, part in runs.groupby("weight")]
    weights = [weight for weight, _ in groups]
    value, low, high, _ = np.array([mean for _, mean in groups]).T
    axes.fill_between(weights, low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot(weights, value, "o-", color=color, label=label, markersize=4, linewidth=1.5)


def correlated(frame: pd.DataFrame) -> Figure | None:
    """Draw the MIG on the full grid after training on correlated factors."""
    runs = of(frame, part="correlated")
    if not len(runs):
        return None
    weights = sorted(set(runs["weight"]) - {1})
    full = of(frame, part="squares")
    both = pd.concat([full[full["seed"].isin(runs["seed"])], runs])
    strengths = [0, *sorted(runs["sigma"].unique(), reverse=True)]
    figure = Figure(figsize=(4.2 * len(weights), 3.4))
    for axes, weight in zip(
        figure.subplots(1, len(weights), sharey=True, squeeze=False)[0], weights, strict=True
    ):
        for method in ("VAE", *METHODS):
            part = of(both, method=method, weight=1 if method == "VAE" else weight)
            means = [mean_of(of(part, sigma=sigma), SCORE) for sigma in strengths]
            value, low, high, _ = np.array(means).T
            shift = 0.06 * (("VAE", *METHODS).index(method) - 1.5)
            place = np.arange(len(strengths)) + shift
            bars = [value - low, high - value]
            axes.errorbar(
                place, value, bars, fmt="o-", color=COLORS[method], label=method, capsize=3
            )
        names = ["none", *[f"sigma {sigma:g}" for sigma in strengths[1:]]]
        axes.set_xticks(range(len(strengths)), names)
        axes.set(title=f"beta = {weight:g}", xlabel="correlation of x and y")
        axes.set_ylim(0, 1)
    figure.axes[0].set_ylabel("MIG on the full grid")
    figure.axes[-1].legend()
    return figure


def readings(frame: pd.DataFrame) -> Figure | None:
    """Draw the rank correlation of what one sees without factors with the MIG."""
    sets = sets_of(frame)
    if not sets:
        return None
    figure = Figure(figsize=(2.2 + 3.2 * len(sets), 2.8))
    grid = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for axes, data in zip(grid, sets, strict=True):
        found = rank_correlations(of(frame, data=data, sigma=0))
        value, low, high, _ = np.array(list(found.values())).T
        places = np.arange(len(found))
        bars = [value - low, high - value]
        blue, grey = COLORS["beta-TCVAE"], COLORS["VAE"]
        axes.barh(places, value, xerr=bars, capsize=3, color=blue, ecolor=grey)
        axes.axvline(0, color=grey, linewidth=1)
        axes.set(xlim=(-1, 1), xticks=[-1, -0.5, 0, 0.5, 1], title=NAMES[data])
        axes.set_xlabel("rank correlation with the MIG")
    grid[0].set_yticks(places, list(found))
    grid[0].invert_yaxis()
    return figure


def sets_of(frame: pd.DataFrame) -> list[str]:
    """Return the data sets on which all methods were trained."""
    return [data for data in NAMES if len(of(frame, part=data))]


FIGURES: dict[str, Callable[[pd.DataFrame], Figure | None]] = {
    "distribution": distribution,
    "trade-off": trade_off,
    "weights": single_weights,
    "correlated": correlated,
    "readings": readings,
}
