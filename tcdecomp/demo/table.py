"""The table, and the sentences below it."""

from __future__ import annotations

from statistics import mean, stdev
from textwrap import fill

from tcdecomp.demo.evaluation import Figures, Sampling
from tcdecomp.demo.sprites import Sprites

__all__ = ["notes", "table", "verdict"]

WRAP = 100
COLUMNS = {
    "index-code MI": ("index_code_mi", 2),
    "total corr.": ("total_correlation", 2),
    "dim.-wise KL": ("dimension_wise_kl", 2),
    "KL": ("kl", 2),
    "reconstr.": ("reconstruction", 1),
    "MIG": ("mig", 2),
}


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
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def cell(values: list[float], digits: int) -> str:
    """Return a figure; of several, their mean and in brackets their standard deviation."""
    text = f"{mean(values):.{digits}f}"
    return f"{text} ({stdev(values):.{digits}f})" if len(values) > 1 else text


def notes(sprites: Sprites, sampling: Sampling, results: dict[str, list[Figures]]) -> str:
    """Return what the figures are, and how exact."""
    every = [run for runs in results.values() for run in runs]
    seeds = len(every) // len(results)
    terms = (
        f"terms over all {len(sprites):,} images from {sampling.samples:,} samples, standard "
        f"error up to {max(run.error for run in every):.4f}"
    )
    grey = f" (at best {sprites.floor:.1f}: the pixels are grey)" if sprites.floor > 0.05 else ""
    bins = f"MIG of the posterior means in {sampling.bins} bins"
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
