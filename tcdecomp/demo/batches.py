"""Batches of distinct items, all steps of a training in one epoch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

from tcdecomp.demo.sprites import Sprites

__all__ = ["Batches", "batches"]


class Batches(Sampler[Tensor]):
    """The indices of ``steps`` batches, cut from one random order of the items after another.

    The end of an order that does not fill a batch is dropped: the estimators count on a batch of
    *distinct* items. As one epoch of all steps it also spares Lightning's work between epochs.
    """

    def __init__(self, size: int, batch_size: int, steps: int, seed: int) -> None:
        self.size, self.batch_size, self.steps, self.seed = size, batch_size, steps, seed

    def __iter__(self) -> Iterator[Tensor]:
        return islice(self._endless(), self.steps)

    def __len__(self) -> int:
        return self.steps

    def _endless(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            order = torch.randperm(self.size, generator=generator)
            full = self.size - self.size % self.batch_size
            yield from order[:full].view(-1, self.batch_size)


def batches(
    sprites: Sprites, batch_size: int, steps: int, seed: int
) -> DataLoader[tuple[Tensor, ...]]:
    """Return a loader of ``steps`` batches (images, factors)."""
    data = TensorDataset(sprites.flat(), torch.from_numpy(sprites.factors))
    # Each index is a whole batch: the data set is asked once per step, not once per image.
    return DataLoader(data, sampler=Batches(len(data), batch_size, steps, seed), batch_size=None)
