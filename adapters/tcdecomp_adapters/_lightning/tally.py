"""What one pass over the validation data, or one training batch, adds up to."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, distributed

from tcdecomp import Bracket, Terms, mig_score
from tcdecomp.scoring import loaders

__all__ = ["Tally"]

T = TypeVar("T")


class Tally:
    """Terms summed over rows, their bracket, and codes with their factors, of all processes.

    They are merged when they are read.

    Parameters
    ----------
    processes : int
        How many of the trainer's there are, each with a tally of its own.
    bracket : Bracket, optional
        To update with each batch.
    """

    def __init__(self, processes: int, bracket: Bracket | None = None) -> None:
        self._processes = processes
        self._rows = 0
        self._sums: dict[str, Tensor] = {}
        self.bracket = bracket or Bracket()
        self._codes: list[Any] = []
        self._factors: list[Any] = []

    def add_terms(self, terms: Terms, rows: int) -> None:
        """Add the mean terms of a batch of so many rows."""
        self._rows += rows
        for name, value in terms._asdict().items():
            if value is not None:
                self._sums[name] = self._sums.get(name, 0) + rows * value

    def add_codes(self, codes: Tensor, factors: Any) -> None:
        """Add a batch's codes (M, D) and factors (M, K) or (M,)."""
        self._codes.append(codes.cpu().numpy())
        self._factors.append(np.asarray(factors.cpu() if isinstance(factors, Tensor) else factors))

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

    def mig(self, rows: int | None = None, *, skip_constant: bool = False) -> dict[str, float]:
        """Return the MIG of the codes of all processes; nothing if there were no factors.

        Parameters
        ----------
        rows : int, optional
            How many of this process's rows count, those after them being repeated items.
        skip_constant : bool
            Whether factors of a single value are left out, with a warning, or are an error.
        """
        parts = self._gather((_joined(self._codes, rows), _joined(self._factors, rows)))
        codes = _joined([part for part, _ in parts if part is not None])
        factors = _joined([part for _, part in parts if part is not None])
        if skip_constant and factors is not None:
            usable = loaders.usable_factors(factors, "TCMonitor")
            factors = factors.reshape(len(factors), -1)[:, usable] if usable.any() else None
        return {} if codes is None or factors is None else {"mig": mig_score(codes, factors)}

    def _gather(self, value: T) -> list[T]:
        """Return every process's value, in each process."""
        # A process group alone says nothing: the trainer may run in one of its processes only.
        if self._processes == 1:
            return [value]
        values: list[Any] = [None] * self._processes
        distributed.all_gather_object(values, value)
        return values


def _joined(arrays: list[Any], rows: int | None = None) -> NDArray[Any] | None:
    return np.concatenate(arrays)[:rows] if arrays else None
