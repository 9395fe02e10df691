"""The items of several processes, each of which has some of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

from tcdecomp._processes import GlobalBatch, shared_refusal
from tcdecomp.metrics.columns import Columns
from tcdecomp.posterior import Posterior
from tcdecomp.scoring.items import Items, of_posterior

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["gathered"]


class _Share(NamedTuple):
    """What a process says of its items, and codes that are not the means of posteriors."""

    settings: dict[str, str]
    items: Items


def gathered(
    own: Callable[[], Items], group: ProcessGroup | None, settings: Callable[[], dict[str, str]]
) -> Items:
    """Return the items of all processes, the same in each; without a group, those of this one.

    They are in the order of their places, where every process knows its own, or else in the order
    of the ranks.

    Parameters
    ----------
    own : callable
        Returns the items of this process.
    group : ProcessGroup, optional
        The processes.
    settings : callable
        Returns, after that, what else must be the same in all of them.

    Raises
    ------
    ValueError
        In all processes, if they do not agree or have items in common; and if ``own`` raises in
        one of them, in all others.
    """
    with shared_refusal(group, None):
        items, others = own(), settings()
    if group is None:
        return items
    posterior = None if items.posterior is None else items.posterior.in_working_precision()
    rows = torch.from_numpy(items.codes) if posterior is None else posterior.mu
    batch = GlobalBatch(group, rows, {"whether there are posteriors": int(posterior is not None)})
    codes = items.codes if posterior is None else items.codes[:0]
    shares = _exchanged(_Share(others, items._replace(codes=codes, posterior=None)), group)
    order = _order([share.places for share in shares], batch.size)
    factors = _joined_factors(shares, order)
    if posterior is None:
        codes = np.concatenate([share.codes for share in shares])[order]
        return items._replace(codes=codes, factors=factors)
    mu, logvar = (
        batch.all(moment)[torch.from_numpy(order)] for moment in (posterior.mu, posterior.logvar)
    )
    return of_posterior(Posterior(mu, mu, logvar), factors)._replace(found=items.found)


def _exchanged(own: _Share, group: ProcessGroup) -> list[Items]:
    """Return the items of every process as they are told, if the processes agree."""
    shares: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(shares, own, group=group)
    items = [share.items for share in shares]
    columns = [None if part.factors is None else part.factors.names for part in items]
    names = dict.fromkeys(name for share in shares for name in share.settings)
    for what, said in (
        *((name, [share.settings.get(name) for share in shares]) for name in names),
        ("whether factors are looked for in the batches", [part.found for part in items]),
        ("seed and epoch of a DistributedSampler", [part.shuffle for part in items]),
        ("the columns of codes", [part.names for part in items]),
        ("the columns of factors", columns),
    ):
        if len(set(said)) > 1:
            raise ValueError(
                f"{what} must be the same in every process of process_group; got {said} by rank"
            )
    return items


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


def _joined_factors(shares: Sequence[Items], order: NDArray[np.intp]) -> Columns | None:
    parts = [share.factors for share in shares if share.factors is not None]
    if not parts:
        return None
    columns = zip(*(part.arrays for part in parts), strict=True)
    joined = tuple(np.concatenate(column)[order] for column in columns)
    return Columns("factors", parts[0].names, joined)
