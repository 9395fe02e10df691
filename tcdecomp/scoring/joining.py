"""The items of several processes as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tcdecomp._processes import check_agreement
from tcdecomp.metrics.columns import Columns
from tcdecomp.scoring.items import Items

__all__ = ["joined"]


def joined(parts: Sequence[Items], own: int = 0) -> Items:
    """Return the items of all processes: in the order of their places, or else of the ranks.

    Parameters
    ----------
    parts : sequence of Items
        Those of each process.
    own : int
        Which of them are those of this process.

    Raises
    ------
    ValueError
        If the processes do not agree, or have items in common.
    """
    if len(parts) == 1:
        return parts[0]
    for what, told in _to_agree(parts).items():
        check_agreement(what, told)
    order = _order([part.places for part in parts], sum(len(part.codes) for part in parts))
    moments = factors = None
    if all(part.moments is not None for part in parts):
        columns = zip(*(part.moments for part in parts if part.moments), strict=True)
        mu, logvar = (torch.cat(column)[torch.from_numpy(order)] for column in columns)
        moments = mu, logvar
    if parts[0].factors is not None:
        told = [part.factors.arrays for part in parts if part.factors is not None]
        arrays = tuple(np.concatenate(column)[order] for column in zip(*told, strict=True))
        factors = Columns("factors", parts[0].factors.names, arrays)
    codes = np.concatenate([part.codes for part in parts])[order]
    return replace(parts[own], codes=codes, moments=moments, factors=factors)


def _to_agree(parts: Sequence[Items]) -> Mapping[str, list[Any]]:
    return {
        "D, the number of latents,": [len(part.names) for part in parts],
        "whether there are posteriors": [part.moments is not None for part in parts],
        "whether factors are looked for in the batches": [part.found for part in parts],
        "seed and epoch of a DistributedSampler": [part.shuffle for part in parts],
        "the columns of codes": [part.names for part in parts],
        "the columns of factors": [part.factors and part.factors.names for part in parts],
    }


def _order(places: Sequence[range | None], size: int) -> NDArray[np.intp]:
    """Return the number, in the order of the ranks, of each item of the whole."""
    known = [place for place in places if place is not None]
    if len(known) < len(places):
        return np.arange(size)
    dealt = np.concatenate(known)
    order = np.argsort(dealt)
    if (dealt[order] != np.arange(size)).any():
        raise ValueError(
            "batches must deal out each item to one process of process_group; got "
            f"DistributedSamplers that deal out the items {list(places)} by rank"
        )
    return order
