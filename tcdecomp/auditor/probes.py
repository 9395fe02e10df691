"""Batches whose answers are known: what the auditor puts to somebody's code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

__all__ = ["SHARPEST", "Probe", "apart", "batch", "ordinary", "together"]

# Batch size, data-set size, dimensions. They are small and all different: no two forms agree.
SIZES = ((7, 5000, 3), (4, 1000, 3), (6, 7, 2), (5, 300, 1), (4, 20, 1))
SHARPEST = -4.5  # the smallest log-variance that counts as ordinary
SPACING = 16.0  # between posteriors that do not overlap, however the code misreads their variance


@dataclass(frozen=True, eq=False)
class Probe:
    """One batch of a data set of N items. The code gets it with the noise, and with its negative.

    The noise is (z - mu) in standard deviations. If it is +1 and -1, then its square, and its
    products with the means, are on average over both signs what they are in expectation. Code that
    takes entropies or the KL in closed form gives the same answer as code that samples them.
    """

    mu: Tensor  # (M, D), as the others
    logvar: Tensor
    noise: Tensor
    dataset_size: int

    @property
    def shape(self) -> tuple[int, int]:
        """Return (M, D)."""
        size, dim = self.mu.shape
        return size, dim

    def map(self, change: Callable[[Tensor], Tensor]) -> Probe:
        """Return the probe with its three tensors changed."""
        mu, logvar, noise = map(change, (self.mu, self.logvar, self.noise))
        return Probe(mu, logvar, noise, self.dataset_size)

    def samples(self) -> Iterator[Tensor]:
        """Yield z, shape (M, D), for both signs of the noise."""
        deviation = (0.5 * self.logvar).exp() * self.noise
        yield self.mu + deviation
        yield self.mu - deviation


def normal(size: int, dim: int, generator: Generator) -> Tensor:
    """Draw from the standard normal distribution."""
    return torch.randn(size, dim, generator=generator, dtype=torch.float64)


def between(low: float, high: float, shape: tuple[int, int], generator: Generator) -> Tensor:
    """Draw from a uniform distribution."""
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def batch(
    size: int,
    dataset_size: int,
    dim: int,
    generator: Generator,
    logvar: tuple[float, float],
    centre: float = 0.0,
    spread: float = 1.0,
) -> Probe:
    """Return a batch with log-variances from this range. Its means are multiples of 1/64."""
    mu = centre + (64 * spread * normal(size, dim, generator)).round() / 64
    logvars = between(*logvar, (size, dim), generator)
    noise = 2 * torch.randint(2, (size, dim), generator=generator).to(mu) - 1
    return Probe(mu, logvars, noise, dataset_size)


def ordinary(generator: Generator) -> list[Probe]:
    """Return overlapping posteriors of several sizes, which identify a form.

    The log-variances are above 0, so that code that takes them for variances has an answer, too.
    """
    return [batch(*sizes, generator, (0.25, 1.0), spread=2.0) for sizes in SIZES]


def steep(generator: Generator) -> Probe:
    """Return a batch where no term is near 0 and the own component matters in part of the rows."""
    mu = 5 * normal(13, 1, generator) + normal(13, 3, generator) / 2
    return Probe(mu, between(0.25, 2.25, (13, 3), generator), normal(13, 3, generator), 100)


def apart(size: int, dataset_size: int, dim: int = 1) -> Probe:
    """Return posteriors that do not overlap in any dimension: MI is -log(own weight)."""
    mu = SPACING * (torch.arange(size, dtype=torch.float64) - (size - 1) / 2)
    mu = mu[:, None].repeat(1, dim)
    return Probe(mu, torch.full_like(mu, 0.5), torch.ones_like(mu), dataset_size)


def together(size: int, dataset_size: int, dim: int = 1) -> Probe:
    """Return identical posteriors: for D = 1, MI is -log(sum of a row's weights)."""
    mu = torch.zeros(size, dim, dtype=torch.float64)
    return Probe(mu, torch.full_like(mu, 0.5), torch.ones_like(mu), dataset_size)


def narrow_one(place: float) -> Probe:
    """Return a narrow posterior, with this mean, among wide ones that are all alike.

    Near 0 the wide components matter to the narrow one's point, never the reverse. The answers at
    two places then differ by what the narrow point gives, which all right weights agree on.
    """
    mu = torch.tensor([2.0, -3.0], dtype=torch.float64).repeat(5, 1)
    logvar = torch.tensor([5.0, 5.5], dtype=torch.float64).repeat(5, 1)
    mu[2], logvar[2] = place, torch.tensor([0.25, 0.75])
    return Probe(mu, logvar, torch.ones_like(mu), 100)
