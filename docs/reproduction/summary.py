"""What the table of results says: means with intervals, differences paired by seed, and ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from reproduction.grid import PARTS, runs
from tcdecomp.metrics import Interval, interval_of_mean

__all__ = [
    "METHODS",
    "READINGS",
    "SCORE",
    "best_weight",
    "chosen_by_others",
    "curve",
    "differences",
    "load",
    "mean_of",
    "of",
    "of_weights",
    "rank_correlations",
    "strengths",
    "training_set",
    "varied",
    "with_full_grid",
]

SCORE = "mig_density"  # the paper's MIG
METHODS = ("beta-VAE", "beta-TCVAE", "FactorVAE")
# What a person sees who has no factors.
READINGS = {
    "total correlation": "total_correlation",
    "index-code MI": "index_code_mi",
    "dimension-wise KL": "dimension_wise_kl",
    "reconstruction loss": "reconstruction",
    "active units": "active_units",
}
RESAMPLES = 1000


def load(path: Path) -> pd.DataFrame:
    """Return the rows of those seeds that a part has in full: all methods have the same seeds."""
    frame = pd.read_csv(path)
    planned = {part: len(list(runs(part, [0]))) for part in PARTS}
    found = frame.groupby(["part", "seed"])["key"].transform("size")
    return frame[found == frame["part"].map(planned)]


def of(frame: pd.DataFrame, **conditions: object) -> pd.DataFrame:
    """Return the rows that have these values."""
    for column, value in conditions.items():
        frame = frame[frame[column] == value]
    return frame


def curve(frame: pd.DataFrame, method: str) -> pd.DataFrame:
    """Return a method's rows with those of the VAE, which is each method at weight 1."""
    return frame[frame["method"].isin([method, "VAE"])].sort_values(["weight", "seed"])


def of_weights(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that vary single weights, and those on squares of the same seeds."""
    rows = of(frame, part="weights")
    squares = of(frame, part="squares")
    return pd.concat([squares[squares["seed"].isin(rows["seed"])], rows])


def varied(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return the runs where these weights are equal and the others are 1, by that weight."""
    weights = frame[["alpha", "beta", "gamma"]]
    equal = weights[names].eq(weights[names[0]], axis=0).all(axis=1)
    others = weights.drop(columns=names).eq(1).all(axis=1)
    rows = frame[equal & others & (frame["method"] != "FactorVAE")]
    return rows.assign(weight=rows[names[0]])


def with_full_grid(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the runs on correlated factors, with those of the same seeds on the full grid."""
    runs = of(frame, part="correlated")
    full = of(frame, part="squares").merge(runs[["method", "weight", "seed"]].drop_duplicates())
    return pd.concat([full, runs])


def mean_of(frame: pd.DataFrame, column: str) -> Interval:
    """Return the mean over runs with its 95 % interval; a single run has none."""
    values = frame[column].to_numpy(float)
    if len(values) < 2:
        return Interval(float(values.mean()), np.nan, np.nan, np.nan)
    return interval_of_mean(values)


def best_weight(frame: pd.DataFrame, method: str, column: str = SCORE) -> float:
    """Return the weight above 1 at which a method's mean is the highest."""
    return float(of(frame, method=method).groupby("weight")[column].mean().idxmax())


def chosen_by_others(frame: pd.DataFrame, method: str) -> pd.DataFrame:
    """Return each seed's run at the weight that is the best on average over the other seeds.

    A weight that is chosen and compared on the same seeds looks better than it is.
    """
    runs = of(frame, method=method)
    seeds = runs["seed"].unique() if runs["seed"].nunique() > 1 else []
    weights = {seed: best_weight(runs[runs["seed"] != seed], method) for seed in seeds}
    return runs[runs["weight"] == runs["seed"].map(weights)]


def strengths(frame: pd.DataFrame) -> list[float]:
    """Return the sigmas of the runs: 0, the full grid, then from weak to strong correlation."""
    return sorted(frame["sigma"].unique(), key=lambda sigma: (sigma > 0, -sigma))


def training_set(sigma: float) -> str:
    """Return the name of a training set, by its strength of correlation."""
    return {0: "full grid", np.inf: "uniform draw"}.get(sigma, f"sigma {sigma:g}")


def differences(one: pd.DataFrame, other: pd.DataFrame, column: str = SCORE) -> NDArray[np.float64]:
    """Return the difference in each seed that both have."""
    a, b = (runs.set_index("seed")[column] for runs in (one, other))
    return (a - b).dropna().to_numpy(float)


def rank_correlations(frame: pd.DataFrame, score: str = SCORE) -> dict[str, Interval]:
    """Return Spearman's correlation of each reading with the score over all runs.

    The interval is that of a bootstrap over seeds: runs of one seed start alike. One seed has none.
    """
    values = frame[[*READINGS.values(), score]].to_numpy(float)
    seeds = frame["seed"].to_numpy()
    parts = [values[seeds == seed] for seed in np.unique(seeds)]
    found = _ranks(values)
    low, high, error = np.full((3, len(READINGS)), np.nan)
    if len(parts) > 1:
        rng = np.random.default_rng(0)
        draws = [rng.integers(len(parts), size=len(parts)) for _ in range(RESAMPLES)]
        resampled = np.array([_ranks(np.concatenate([parts[i] for i in draw])) for draw in draws])
        low, high = np.nanquantile(resampled, [0.025, 0.975], axis=0)
        error = np.nanstd(resampled, axis=0)
    rows = zip(found, low, high, error, strict=True)
    return {label: Interval(*map(float, row)) for label, row in zip(READINGS, rows, strict=True)}


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Spearman's correlation of each column with the last one; NaN for a constant one."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.corrcoef(rankdata(values, axis=0), rowvar=False)[-1, :-1]
