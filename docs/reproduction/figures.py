"""The figures, each in a light and a dark form, from the table of results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproduction.summary import (
    METHODS,
    SCORE,
    curve,
    load,
    mean_of,
    of,
    of_weights,
    rank_correlations,
    strengths,
    training_set,
    varied,
    with_full_grid,
)

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
}
VARIED = {
    "TC alone (beta-TCVAE)": (["beta"], COLORS["beta-TCVAE"]),
    "MI alone": (["alpha"], "#bf5af2"),
    "dimension-wise KL alone": (["gamma"], "#e5534b"),
    "all three (beta-VAE)": (["alpha", "beta", "gamma"], COLORS["beta-VAE"]),
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
                    figure.savefig(folder / f"{name}-{theme}.png", dpi=180, transparent=True)


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
        "figure.constrained_layout.h_pad": 0.12,
        "font.size": 10.5,
        "legend.frameon": False,
    }


def distribution(frame: pd.DataFrame) -> Figure | None:
    """Draw the MIG of every run by method and beta, with means and intervals: figure 1."""
    panels = stacked(sets_of(frame), height=3)
    for axes, data in panels:
        runs = of(frame, part=data)
        for method in ("VAE", *METHODS):
            spread(axes, of(runs, method=method), method)
        weights = sorted(runs["weight"].unique())
        axes.set_xticks(range(len(weights)), ["1 (VAE)", *(f"{w:g}" for w in weights[1:])])
        axes.set(title=NAMES[data], xlabel="beta", ylabel="MIG", ylim=(0, 1))
        axes.grid(visible=False, axis="x")
    return shown(panels)


def spread(axes: Axes, runs: pd.DataFrame, method: str) -> None:
    """Draw the runs of a method at each weight."""
    shift = 0.27 * ((*METHODS, "VAE").index(method) % 3 - 1)
    for index, (_, part) in enumerate(runs.groupby("weight")):
        place = 0 if method == "VAE" else 1 + index + shift
        points(axes, part, place, method, labelled=index == 0)


def points(axes: Axes, runs: pd.DataFrame, place: float, method: str, *, labelled: bool) -> None:
    """Draw a point for each run, and a bar for the mean with its interval."""
    color = COLORS[method]
    shift = np.linspace(-0.07, 0.07, len(runs))
    axes.scatter(place + shift, runs[SCORE], s=11, color=color, alpha=0.55, linewidths=0)
    value, low, high, _ = mean_of(runs, SCORE)
    bars = [[value - low], [high - value]]
    label = method if labelled else None
    axes.errorbar(place, value, bars, fmt="_", color=color, ms=9, capsize=2.5, label=label)


def trade_off(frame: pd.DataFrame) -> Figure | None:
    """Draw the mean MIG against the mean TC for each beta, larger for higher beta: figure 2."""
    panels = stacked(sets_of(frame), height=3.6)
    for axes, data in panels:
        for method in METHODS:
            means = curve(of(frame, part=data), method).groupby("weight")
            middle = means[["total_correlation", SCORE]].mean()
            x, y = middle["total_correlation"], middle[SCORE]
            axes.plot(x, y, color=COLORS[method], linewidth=1, alpha=0.5)
            sizes = 20 + 22 * middle.index.to_numpy()
            axes.scatter(x, y, s=sizes, color=COLORS[method], alpha=0.75, label=method)
        axes.set(xscale="log", xlabel="mean total correlation (nats)", ylabel="mean MIG")
        axes.set(title=f"{NAMES[data]}: larger circles, higher beta", ylim=(0, 1))
    return shown(panels)


def single_weights(frame: pd.DataFrame) -> Figure | None:
    """Draw the MIG and the reconstruction loss where one weight is not 1."""
    runs = of_weights(frame)
    names = {SCORE: "MIG", "reconstruction": "reconstruction loss (nats)"}
    panels = stacked(list(names) if len(runs) else [], height=3)
    for axes, column in panels:
        for label, (weights, color) in VARIED.items():
            line(axes, varied(runs, weights), column, color, label)
        top = max(means.get_ydata().max() for means in axes.lines)
        axes.set(xlabel="weight (the other weights are 1)", ylabel=names[column])
        axes.set_ylim(0, 1 if column == SCORE else 1.15 * top)
    return shown(panels)


def line(axes: Axes, runs: pd.DataFrame, column: str, color: str, label: str) -> None:
    """Draw means over seeds with their 95 % intervals, along the weight."""
    groups = [(weight, mean_of(part, column)) for weight, part in runs.groupby("weight")]
    weights = [weight for weight, _ in groups]
    value, low, high, _ = np.array([mean for _, mean in groups]).T
    axes.fill_between(weights, low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot(weights, value, "o-", color=color, label=label, markersize=4, linewidth=1.5)


def correlated(frame: pd.DataFrame) -> Figure | None:
    """Draw the MIG on the full grid after training on correlated factors."""
    runs = with_full_grid(frame)
    sigmas = strengths(runs)
    panels = stacked(["squares"] if len(runs) else [], height=3.4)
    for axes, _ in panels:
        for index, method in enumerate(("VAE", *METHODS)):
            part = of(runs, method=method)
            for place, sigma in enumerate(sigmas):
                values = of(part, sigma=sigma)
                points(axes, values, place + 0.2 * (index - 1.5), method, labelled=place == 0)
        names = [training_set(sigma).replace(" ", "\n") for sigma in sigmas]
        axes.set_xticks(range(len(sigmas)), names)
        axes.set(xlabel="training set; smaller sigma, stronger correlation", ylim=(0, 1))
        axes.set_ylabel("MIG on the full grid")
        axes.grid(visible=False, axis="x")
    return shown(panels)


def readings(frame: pd.DataFrame) -> Figure | None:
    """Draw the rank correlation of what one sees without factors with the MIG."""
    panels = stacked(["squares"] if sets_of(frame) else [], height=3)
    for axes, _ in panels:
        for index, data in enumerate(sets_of(frame)):
            found = rank_correlations(of(frame, data=data, sigma=0))
            value, low, high, _ = np.array(list(found.values())).T
            places = np.arange(len(found)) + 0.35 * (index - 0.5)
            color = [COLORS["beta-TCVAE"], COLORS["FactorVAE"]][index]
            bars = [value - low, high - value]
            options = {"height": 0.33, "color": color, "ecolor": COLORS["VAE"], "capsize": 3}
            axes.barh(places, value, xerr=bars, label=NAMES[data], **options)
        axes.axvline(0, color=COLORS["VAE"], linewidth=1)
        axes.set_yticks(np.arange(len(found)), list(found))
        axes.invert_yaxis()
        axes.set(xlim=(-1, 1), xticks=[-1, -0.5, 0, 0.5, 1])
        axes.set_xlabel("rank correlation with the MIG")
    return shown(panels)


def sets_of(frame: pd.DataFrame) -> list[str]:
    """Return the data sets on which all methods were trained."""
    return [data for data in NAMES if len(of(frame, part=data))]


def stacked(names: list[str], height: float) -> list[tuple[Axes, str]]:
    """Return axes below each other, which a narrow screen can show, with the name of each."""
    if not names:
        return []
    figure = Figure(figsize=(5, height * len(names)))
    return list(zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True))


def shown(panels: list[tuple[Axes, str]]) -> Figure | None:
    """Return the figure of the panels with a legend above, or None where there are no panels."""
    if not panels:
        return None
    axes, _ = panels[0]
    figure = axes.figure
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        columns = 2 if max(map(len, labels)) > 12 else 4
        legend = figure.legend(handles, labels, loc="outside upper center", ncols=columns)
        for handle in legend.legend_handles:
            if hasattr(handle, "set_sizes"):
                handle.set_sizes([60])
    return figure


FIGURES: dict[str, Callable[[pd.DataFrame], Figure | None]] = {
    "distribution": distribution,
    "trade-off": trade_off,
    "weights": single_weights,
    "correlated": correlated,
    "readings": readings,
}
