"""The parts of a printed report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tcdecomp._text import decimal, table
from tcdecomp.metrics import MutualInfoGap
from tcdecomp.metrics.columns import FloatArray, list_names
from tcdecomp.terms import TERM_LABELS, Estimate

__all__ = ["LABELS", "estimates_text", "gap_text", "latents_text"]

SHOWN = 20  # latents in a printed table
NEAR = 0.95  # share of log N from which the index-code MI is close to log N
# The labels of a report's estimates, in their order. The parts of total correlation follow it.
LABELS = {
    "kl": TERM_LABELS["kl"],
    "index_code_mi": TERM_LABELS["index_code_mi"],
    "total_correlation": TERM_LABELS["total_correlation"],
    "tc_active": "among active latents",
    "tc_passive": "among passive latents",
    "tc_between": "between the two",
    "dimension_wise_kl": TERM_LABELS["dimension_wise_kl"],
}


def estimates_text(estimates: Mapping[str, Estimate], items: int) -> str:
    """Return the terms as a table, and say if the index-code MI is as large as it can be."""
    rows = [("", "nats", "+-")]
    for name, (value, error) in estimates.items():
        indent = "  " if name.startswith("tc_") else ""
        rows.append((indent + LABELS[name], decimal(value), decimal(error)))
    limit = math.log(items)
    if estimates["index_code_mi"].value < NEAR * limit:
        return table(rows)
    return (
        f"{table(rows)}\nindex-code MI is near its maximum log N = {limit:.4f}; "
        "more items may tell more"
    )


def latents_text(
    names: Sequence[str], columns: Mapping[str, FloatArray], active: NDArray[np.bool_]
) -> str:
    """Return the latents as a table: all, or those with the largest values in the first column."""
    first, *_ = columns.values()
    rows = [
        (
            names[j],
            *(decimal(values[j]) for values in columns.values()),
            "yes" if active[j] else "no",
        )
        for j in np.sort(np.argsort(-first, kind="stable")[:SHOWN])
    ]
    more = len(first) - len(rows)
    rest = f"\n... and {more} with smaller {next(iter(columns))}" if more else ""
    return table([("latent", *columns, "active"), *rows]) + rest


def gap_text(
    gap: MutualInfoGap,
    active: NDArray[np.bool_],
    score_active: float | None,
    score_densities: float | None,
) -> str:
    """Return the MIG as a table, and say which of its best latents are not active."""
    first, rest = str(gap).split("\n", 1)
    passive = ~active[gap.best_latent]
    names = [name for name, flag in zip(gap.factor_names, passive, strict=True) if flag]
    if not active.any():
        first += ", but no latent is active"
    elif names:
        first += f", but the best latent of {list_names(names)} is not active"
    if score_active is not None and not active.all():
        rest += f"\nMIG {score_active:.4f} over the active latents alone"
    if score_densities is not None:
        rest += f"\ndensity MIG {score_densities:.4f}, of the posterior densities without bins"
    return f"{first}\n{rest}"
