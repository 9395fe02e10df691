"""The tables of the page, written from the table of results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from reproduction.grid import PARTS
from reproduction.summary import (
    METHODS,
    SCORE,
    best_weight,
    curve,
    differences,
    load,
    mean_of,
    of,
    of_weights,
    rank_correlations,
    with_full_grid,
)
from tcdecomp.metrics import Interval, interval_of_mean

__all__ = ["TABLES", "write_all"]

SEEDS = 8  # that are planned
CHAMPION = "beta-TCVAE"
OTHERS = tuple(name for name in METHODS if name != CHAMPION)
Model = tuple[str, float]  # a method and its beta
NO_BREAK = "\N{NO-BREAK SPACE}"
DIFFERENCE = ("seeds with higher MIG", "mean difference")
MEANS = {
    "binned": "mig",
    "TC": "total_correlation",
    "MI": "index_code_mi",
    "DWKL": "dimension_wise_kl",
    "reconstr.": "reconstruction",
    "DCI D": "disentanglement",
}


def write_all(table: Path, folder: Path) -> None:
    """Write every table whose rows are there."""
    frame = load(table)
    for name, make in TABLES.items():
        if text := make(frame):
            (folder / f"{name}.md").write_text(text + "\n")


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table, or nothing if there are no rows."""
    head, *body = (f"| {' | '.join(cells)} |" for cells in (header, *rows))
    return "\n".join([head, "|---" * (head.count("|") - 1) + "|", *body]) if body else ""


def span(value: Interval) -> str:
    """Return a correlation and its 95 % interval; one seed has none."""
    bounds = f" ({value.low:+.2f} to {value.high:+.2f})" if value.low == value.low else ""
    return f"{value.value:+.2f}{bounds}".replace(" to ", f"{NO_BREAK}to{NO_BREAK}")


def margin(value: Interval, sign: str = "") -> str:
    """Return a mean and half the width of its symmetric 95 % interval."""
    if value.low != value.low:  # a single run has none
        return f"{value.value:{sign}.2f}"
    return f"{value.value:{sign}.2f} ± {value.high - value.value:.2f}".replace(" ", NO_BREAK)


def versus(one: pd.DataFrame, other: pd.DataFrame) -> list[str]:
    """Return in how many seeds the first has the higher MIG, and the mean difference."""
    found = differences(one, other)
    mean = margin(interval_of_mean(found), "+") if len(found) > 1 else "one seed"
    return [f"{(found > 0).sum()} of {len(found)}", mean]


def chosen(frame: pd.DataFrame, model: Model) -> pd.DataFrame:
    """Return the runs of a method at its beta."""
    method, beta = model
    return of(frame, method=method, weight=beta)


def label(model: Model) -> str:
    """Return the name of a method with its beta, which the VAE does not need."""
    method, beta = model
    return method if method == "VAE" else f"{method} {beta:g}"


def bests(frame: pd.DataFrame) -> list[tuple[Model, Model]]:
    """Return the pairs of beta-TCVAE with another method, each at its best beta."""
    best = {name: (name, best_weight(frame, name)) for name in METHODS}
    return [(best[CHAMPION], best[other]) for other in OTHERS]


def results(frame: pd.DataFrame) -> str:
    """Return a row for each method and weight: the MIG with its interval, and means."""
    rows = []
    for method in ("VAE", *METHODS):
        for weight, runs in of(frame, method=method).groupby("weight"):
            cells = [method, f"{weight:g}", str(len(runs)), margin(mean_of(runs, SCORE))]
            rows.append(cells + [f"{runs[column].mean():.2f}" for column in MEANS.values()])
    return markdown(["method", "weight", "seeds", "MIG", *MEANS], rows)


def comparisons(frame: pd.DataFrame) -> str:
    """Return beta-TCVAE against the others: at the same beta, and each at its best beta."""
    betas = sorted(of(frame, method=CHAMPION)["weight"].unique())
    same = [((CHAMPION, beta), (other, beta)) for other in OTHERS for beta in betas]
    rows = [
        [*(f"{label(model)}{note}" for model in pair), *versus(*(chosen(frame, m) for m in pair))]
        for pairs, note in ((same, ""), (bests(frame), ", its best"))
        for pair in pairs
    ]
    return markdown(["this", "against", *DIFFERENCE], rows)


def in_short(squares: pd.DataFrame) -> str:
    """Return what the runs on squares show, a line for each comparison."""
    one = CHAMPION, 6.0
    pairs = [(one, ("VAE", 1.0)), (one, ("beta-VAE", 6.0)), *bests(squares)]
    return "\n".join(line(squares, *pair) for pair in pairs)


def line(frame: pd.DataFrame, one: Model, other: Model) -> str:
    """Return the differences of MIG and reconstruction loss between two methods at their betas."""
    runs = [chosen(frame, model) for model in (one, other)]
    wins, mean = versus(*runs)
    loss = margin(interval_of_mean(differences(*runs, "reconstruction")), "+")
    return (
        f"- {label(one)} against {label(other)}: higher MIG in {wins} seeds, {mean} on average. "
        f"The reconstruction loss differs by {loss} nats."
    )


def part(name: str, make: Callable[[pd.DataFrame], str]) -> Callable[[pd.DataFrame], str]:
    """Return a table of one part of the grid, or nothing if it has no rows."""

    def made(frame: pd.DataFrame) -> str:
        runs = of(frame, part=name)
        return make(runs) if len(runs) else ""

    return made


def against_vae(frame: pd.DataFrame) -> str:
    """Return what one weight alone does, against the VAE of the same seed."""
    squares = of_weights(frame)
    vae = of(squares, method="VAE")
    rows = []
    for label in ("beta-TCVAE", "alpha alone", "InfoMax", "gamma alone", "information dropout"):
        for _, runs in of(squares, method=label).groupby("weight"):
            weights = runs[["alpha", "beta", "gamma"]].iloc[0]
            cells = [label, " / ".join(f"{w:g}" for w in weights), margin(mean_of(runs, SCORE))]
            rows.append([*cells, *versus(runs, vae), f"{runs['reconstruction'].mean():.2f}"])
    return markdown(["varied", "MI / TC / DWKL", "MIG", *DIFFERENCE, "reconstr."], rows)


def correlated(frame: pd.DataFrame) -> str:
    """Return the MIG by method and strength of the correlation."""
    runs = with_full_grid(frame)
    strengths = sorted(runs["sigma"].unique(), key=lambda sigma: -sigma or -9)
    rows = [
        [name, *(margin(mean_of(of(runs, method=name, sigma=s), SCORE)) for s in strengths)]
        for name in ("VAE", *METHODS)
    ]
    header = ["method", *(f"sigma {s:g}" if s else "full grid" for s in strengths)]
    return markdown(header, rows) if len(runs) else ""


def readings(frame: pd.DataFrame) -> str:
    """Return the rank correlation of each reading with the MIG, over all methods and for each."""
    squares = of(frame, data="squares", sigma=0)
    groups = {"all runs": squares} | {name: curve(squares, name) for name in METHODS}
    if len(objects := of(frame, data="objects")):
        groups["colored squares"] = objects
    columns = {name: rank_correlations(runs) for name, runs in groups.items()}
    labels = next(iter(columns.values()))
    rows = [[label, *(span(column[label]) for column in columns.values())] for label in labels]
    return markdown(["reading", *columns], rows)


def still_open(frame: pd.DataFrame) -> str:
    """Return which seeds of the planned eight each part has and lacks."""
    rows = []
    for name in PARTS:
        done = sorted(of(frame, part=name)["seed"].unique())
        lacking = ",".join(str(seed) for seed in range(SEEDS) if seed not in done)
        command = f"`--parts {name} --seeds {lacking}`" if lacking else "nothing"
        rows.append([name, str(len(done)), f"{command}{' `--data FILE`' * (name == 'dsprites')}"])
    return markdown(["part", "seeds run", "completed by"], rows)


TABLES: dict[str, Callable[[pd.DataFrame], str]] = {
    "in-short": part("squares", in_short),
    "squares": part("squares", results),
    "squares-comparisons": part("squares", comparisons),
    "objects": part("objects", results),
    "objects-comparisons": part("objects", comparisons),
    "weights": against_vae,
    "correlated": correlated,
    "readings": readings,
    "open": still_open,
}
