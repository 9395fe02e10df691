"""The tables of the page, written from the table of results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from reproduction.summary import (
    METHODS,
    SCORE,
    chosen_by_others,
    curve,
    differences,
    load,
    mean_of,
    of,
    of_weights,
    rank_correlations,
    strengths,
    training_set,
    with_full_grid,
)
from tcdecomp.metrics import Interval, interval_of_mean

__all__ = ["TABLES", "write_all"]

CHAMPION = "beta-TCVAE"
OTHERS = tuple(name for name in METHODS if name != CHAMPION)
NO_BREAK = "\N{NO-BREAK SPACE}"
AGAINST = [f"against {name}" for name in ("VAE", *OTHERS)]
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


def versus(one: pd.DataFrame, other: pd.DataFrame, column: str = SCORE) -> str:
    """Return the mean difference, paired by seed, and in how many seeds the first is higher."""
    found = differences(one, other, column)
    if len(found) < 2:
        return ""
    wins = f"({(found > 0).sum()} of {len(found)})".replace(" ", NO_BREAK)
    return f"{margin(interval_of_mean(found), '+')} {wins}"


def results(frame: pd.DataFrame) -> str:
    """Return a row for each method and weight: the MIG with its interval, and means."""
    rows = []
    for method in ("VAE", *METHODS):
        for weight, runs in of(frame, method=method).groupby("weight"):
            cells = [method, f"{weight:g}", margin(mean_of(runs, SCORE))]
            rows.append(cells + [f"{runs[column].mean():.2f}" for column in MEANS.values()])
    return markdown(["method", "beta", "MIG", *MEANS], rows)


def at_beta(frame: pd.DataFrame, beta: float | None) -> list[pd.DataFrame]:
    """Return the runs of beta-TCVAE, then of the VAE and of the others, at a beta.

    Without a beta, each has the one that its other seeds choose.
    """
    if beta is None:
        first, *others = (chosen_by_others(frame, name) for name in (CHAMPION, *OTHERS))
    else:
        first, *others = (of(frame, method=name, weight=beta) for name in (CHAMPION, *OTHERS))
    return [first, of(frame, method="VAE"), *others]


def comparisons(frame: pd.DataFrame) -> str:
    """Return beta-TCVAE against the others: at the same beta, and at chosen ones."""
    betas = sorted(of(frame, method=CHAMPION)["weight"].unique())
    rows = []
    for beta in (*betas, None):
        first, *others = at_beta(frame, beta)
        rows.append([f"{beta:g}" if beta else "chosen", *(versus(first, runs) for runs in others)])
    return markdown(["beta", *AGAINST], rows)


def in_short(frame: pd.DataFrame) -> str:
    """Return what the runs show at beta = 6, and at chosen betas."""
    columns = {"MIG": SCORE, "binned MIG": "mig", "reconstruction loss": "reconstruction"}
    rows = []
    for beta in (6.0, None):
        first, *others = at_beta(frame, beta)
        for name, runs in zip(("VAE", *OTHERS), others, strict=True):
            cells = ["6" if beta else "chosen", name]
            rows.append(cells + [versus(first, runs, column) for column in columns.values()])
    return markdown(["beta", "against", *columns], rows)


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
            cells = [
                label,
                f"{NO_BREAK}/{NO_BREAK}".join(f"{w:g}" for w in weights),
                margin(mean_of(runs, SCORE)),
            ]
            rows.append([*cells, *(versus(runs, vae, name) for name in (SCORE, "reconstruction"))])
    header = ["varied", "MI / TC / DWKL", "MIG", "MIG, difference", "reconstruction, difference"]
    return markdown(header, rows)


def correlated(frame: pd.DataFrame) -> str:
    """Return the MIG by method and strength of the correlation."""
    runs = with_full_grid(frame)
    sigmas = strengths(runs)
    rows = [
        [name, *(margin(mean_of(of(runs, method=name, sigma=s), SCORE)) for s in sigmas)]
        for name in ("VAE", *METHODS)
    ]
    return markdown(["method", *map(training_set, sigmas)], rows) if len(runs) else ""


def correlated_comparisons(frame: pd.DataFrame) -> str:
    """Return beta-TCVAE against the others at each strength of the correlation."""
    runs = with_full_grid(frame)
    rows = []
    for sigma in strengths(runs):
        first, *others = at_beta(of(runs, sigma=sigma), 6)
        rows.append([training_set(sigma), *(versus(first, other) for other in others)])
    return markdown(["training set", *AGAINST], rows)


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


TABLES: dict[str, Callable[[pd.DataFrame], str]] = {
    "in-short": part("squares", in_short),
    "squares": part("squares", results),
    "squares-comparisons": part("squares", comparisons),
    "objects": part("objects", results),
    "objects-comparisons": part("objects", comparisons),
    "weights": against_vae,
    "correlated": correlated,
    "correlated-comparisons": correlated_comparisons,
    "readings": readings,
}
