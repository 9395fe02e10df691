"""What one pass over a validation or test set, or one training batch, adds up to."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, distributed

from tcdecomp import Bracket, Terms, mig_score
from tcdecomp.scoring import loaders

__all__ = ["Tally", "told_once"]

T = TypeVar("T")


@contextmanager
def told_once(told: set[str]) -> Iterator[None]:
    """Give the warnings that are not among those told, apart from numbers and names, and add them.

    Python's own filter forgets what it has shown each time that some code changes the filters.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        kind = re.sub(r"'[^']*'|[\d.]+", "", str(warning.message))
        if kind not in told:
            told.add(kind)
            place = warning.filename, warning.lineno
            warnings.warn_explicit(warning.message, warning.category, *place)


class Tally:
    """Terms summed over rows, their bracket, and codes with their factors, of all processes.

    They are merged when they are read.

    Parameters
    ----------
    processes : int
        How many of the trainer's there are, each with a tally of its own.
    size : int
        N of the set.
    rows : int, optional
        How many of this process's rows count in the MIG; those after them are repeated items.
    bracket : Bracket, optional
        To update with each batch.
    """

    def __init__(
        self,
        processes: int,
        size: int,
        rows: int | None = None,
        bracket: Bracket | None = None,
    ) -> None:
        self._processes = processes
        self.size = size
        self._counted = rows
        self.bracket = bracket or Bracket()
        self._rows = 0
        self._sums: dict[str, Tensor] = {}
        self._codes: list[NDArray[Any]] = []
        self._factors: list[NDArray[Any]] = []

    def add_terms(self, terms: Terms, rows: int) -> None:
        """Add the mean terms of a batch of so many rows."""
        self._rows += rows
        for name, value in terms._asdict().items():
            if value is not None:
                self._sums[name] = self._sums.get(name, 0) + rows * value

    def add_codes(self, codes: Tensor, factors: NDArray[Any]) -> None:
        """Add a batch's codes (M, D) and factors (M, K) or (M,)."""
        self._codes.append(codes.numpy(force=True))
        self._factors.append(factors)

    def means(self) -> dict[str, float]:
        """Return each term's mean over the rows of all processes; nothing if there were none."""
        sums = {name: total.item() for name, total in self._sums.items()}
        parts = self._gather((self._rows, sums))
        rows = sum(count for count, _ in parts)
        names = dict.fromkeys(name for _, sums in parts for name in sums)
        return {name: sum(sums.get(name, 0) for _, sums in parts) / rows for name in names}

    def interval_ends(self) -> dict[str, float]:
        """Return lower and upper values of the terms; nothing of fewer than two batches."""
        whole = Bracket()
        for part in self._gather(self.bracket.seen()):
            whole.merge(part)
        if whole.num_batches < 2:
            return {}
        intervals = {name: whole.interval(name) for name in Terms._fields if name != "kl"}
        return {
            f"{name}_{end}": getattr(interval, end)
            for name, interval in intervals.items()
            for end in ("low", "high")
        }

    def mig(self, options: dict[str, Any], *, found: bool = False) -> dict[str, float]:
        """Return the MIG of the codes of all processes; nothing if there were no factors.

        Parameters
        ----------
        options : dict
            Of :func:`tcdecomp.mig_score`.
        found : bool
            Whether nobody named the factors. A warning then names those that are left out.
        """
        own = [np.concatenate(x)[: self._counted] for x in (self._codes, self._factors) if x]
        parts = [part for part in self._gather(own) if part]
        if not parts:
            return {}
        codes, factors = map(np.concatenate, zip(*parts, strict=True))
        if found:
            usable = loaders.usable_factors(factors, "TCMonitor")
            factors = factors.reshape(len(factors), -1)[:, usable]
        return {"mig": mig_score(codes, factors, **options)} if factors.size else {}

    def _gather(self, value: T) -> list[T]:
        """Return every process's value, in each process."""
        # A process group alone says nothing: the trainer may run in one of its processes only.
        if self._processes == 1:
            return [value]
        values: list[Any] = [None] * self._processes
        distributed.all_gather_object(values, value)
        return values
