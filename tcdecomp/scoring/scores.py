"""The scores of a model's codes against the factors of its items."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tcdecomp._checks import warn_user
from tcdecomp.dataset.density_mig import density_mutual_info_gap
from tcdecomp.dataset.lattices import TooLongError
from tcdecomp.disentanglement import DisentanglementReport
from tcdecomp.disentanglement.evaluation import report_of
from tcdecomp.disentanglement.scores import checked_names
from tcdecomp.metrics import MutualInfoGap, contingency_tables, mutual_info_gap
from tcdecomp.metrics.columns import Columns
from tcdecomp.metrics.mig import bins_of
from tcdecomp.scoring.items import Items

__all__ = ["density_gap", "gaps", "other_scores"]


def other_scores(
    items: Items, scores: str | Iterable[str] | None, mig: Mapping[str, Any], seed: int
) -> DisentanglementReport | None:
    """Return the scores beside the MIG, with the options of the MIG."""
    names = [n for n in checked_names(scores) if n not in ("mig", "density_mig")]
    if items.factors is None or not names:
        return None
    codes = Columns("codes", items.names, tuple(items.codes.T))
    options = {**mig, "random_state": seed}
    options.pop("convention", None)  # of the MIG
    named = scores not in (None, "all")
    return report_of(names, codes, items.factors, options, named=named)


def density_gap(
    mu: Tensor, logvar: Tensor, items: Items, options: Mapping[str, Any]
) -> MutualInfoGap | None:
    """Return the gap of the posterior densities, of factors that are classes."""
    if items.factors is None or not np.all(options.get("discrete_factors", True)):
        return None
    weight = options.get("sample_weight")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those about factors and moments come from the rest
            gap = density_mutual_info_gap(mu, logvar, items.factors, sample_weight=weight)
    except TooLongError as error:
        warn_user(f"there is no MIG of the posterior densities: {error}")
        return None
    return dataclasses.replace(gap, latent_names=items.names)


def gaps(
    items: Items, active: NDArray[np.bool_], options: Mapping[str, Any]
) -> tuple[MutualInfoGap | None, MutualInfoGap | None]:
    """Return the gap of all latents, and that of the active ones."""
    if items.factors is None:
        return None, None
    counting = {"n_bins": bins_of(options.get("convention")), **options}
    rest = {name: counting.pop(name) for name in ("correction", "convention") if name in counting}
    tables = contingency_tables(items.codes, items.factors, **counting)
    tables = dataclasses.replace(tables, latent_names=items.names)
    whole = mutual_info_gap(tables, **rest)
    if active.all() or not active.any():
        return whole, whole if active.any() else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those about all latents have been given
        return whole, mutual_info_gap(tables.of_latents(active), **rest)
