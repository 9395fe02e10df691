"""What a data loader says beside its batches: the N that they are drawn from, and their factors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

__all__ = [
    "factors_of",
    "places_of",
    "rows_of",
    "sampler_of",
    "shuffle_of",
    "size_of",
    "varying_factors",
]

_SAMPLERS = (SequentialSampler, RandomSampler, DistributedSampler)


def size_of(loader: Any) -> int | None:
    """Return the number of items from which the loader draws batches without replacement.

    None where that is not certain: only a torch DataLoader over a map-style data set, with one of
    torch's own samplers, is known to draw so. Their subclasses may do anything.
    """
    if (
        isinstance(loader, DataLoader)
        and type(loader.batch_sampler) is BatchSampler
        and type(loader.batch_sampler.sampler) in _SAMPLERS  # which need not be the loader's
        and not _repeats(loader.batch_sampler.sampler, len(loader.dataset))  # type: ignore[arg-type]
    ):
        return len(loader.dataset)  # type: ignore[arg-type]
    return None


def _repeats(sampler: Any, size: int) -> bool:
    """Tell whether one process may draw an item twice in one pass."""
    return getattr(sampler, "replacement", False) or getattr(sampler, "num_samples", 0) > size


def sampler_of(loader: Any) -> Any:
    """Return what chooses the items of a loader's batches; None if the loader has no sampler."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    sampler = getattr(loader, "sampler", None) if batch_sampler is None else batch_sampler
    # A batch sampler's own sampler need not be the loader's.
    return sampler.sampler if type(sampler) is BatchSampler else sampler


def places_of(loader: Any) -> range | None:
    """Return the places, in a DistributedSampler's order, of the rows that this process draws.

    Without those with which items repeat: so that all processes get equally many rows, some items
    are dealt out twice, the last row of some processes. (Item i of the order goes to process i
    modulo their number.) None for another sampler.
    """
    sampler = sampler_of(loader)
    if type(sampler) is not DistributedSampler:
        return None
    return range(sampler.rank, len(sampler.dataset), sampler.num_replicas)  # type: ignore[arg-type]


def shuffle_of(loader: Any) -> tuple[int, int] | None:
    """Return seed and epoch of the order of a DistributedSampler that shuffles; None of others."""
    sampler = sampler_of(loader)
    if type(sampler) is not DistributedSampler or not sampler.shuffle:
        return None
    return sampler.seed, sampler.epoch


def rows_of(loader: Any) -> int | None:
    """Return how many rows this process draws before items repeat; None if all of them count."""
    places = places_of(loader)
    return None if places is None else len(places)


def factors_of(batch: Any) -> Any:
    """Return a batch's factors: a mapping's "factors", or the integers second in a pair.

    A pair whose second entry is not a tensor of integers or bools, of shape (M,) or (M, K), may
    hold targets of any kind: None.
    """
    if isinstance(batch, Mapping):
        return batch.get("factors")
    if not (isinstance(batch, Sequence) and len(batch) == 2 and isinstance(batch[1], Tensor)):
        return None
    second = batch[1]
    inexact = second.is_floating_point() or second.is_complex()
    return None if inexact or second.dim() not in (1, 2) else second


def varying_factors(factors: NDArray[Any], who: str) -> NDArray[Any] | None:
    """Return the columns with more than one value, or None if there are none.

    Factors that nobody picked, since the batches held them, may have a single value, which a score
    cannot use: ``who`` warns that it leaves them out.
    """
    columns = factors.reshape(len(factors), -1)
    varies = (columns != columns[:1]).any(0)
    if not varies.all():
        warnings.warn(
            f"{who} leaves the factors {np.flatnonzero(~varies).tolist()} out of the MIG: they "
            "have a single value in these batches",
            stacklevel=4,
        )
    return columns[:, varies] if varies.any() else None
