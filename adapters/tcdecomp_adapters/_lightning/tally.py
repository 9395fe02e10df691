"""What one pass over the validation data, or one training batch, adds up to."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from torch import Tensor, distributed

from tcdecomp import Terms, mig_score

__all__ = ["Tally"]

T = TypeVar("T")


class Tally:
    """Terms summed over rows, and codes with their factors, merged over processes when read."""

    def __init__(self) -> None:
        self._rows = 0
        self._sums: dict[str, Tensor] = {}
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
        parts = _gather((self._rows, {name: total.item() for name, total in self._sums.items()}))
        rows = sum(count for count, _ in parts)
        names = dict.fromkeys(name for _, sums in parts for name in sums)
        return {name: sum(sums.get(name, 0) for _, sums in parts) / rows for name in names}

    def mig(self) -> dict[str, float]:
        """Return the MIG of the codes of all processes; nothing if there were no factors."""
        parts = _gather((self._codes, self._factors))
        codes = [array for part, _ in parts for array in part]
        factors = [array for _, part in parts for array in part]
        return {"mig": mig_score(np.concatenate(codes), np.concatenate(factors))} if codes else {}


def _gather(value: T) -> list[T]:
    """Return every process's value, in each process."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
