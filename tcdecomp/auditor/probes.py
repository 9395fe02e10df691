"""Batches whose answers are known, to put to somebody else's code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

__all__ = [
    "CPU",
    "EXTREMES",
    "FAR_OUT",
    "LARGE",
    "SHARP",
    "SHARPEST",
    "Probe",
    "apart",
    "between",
    "narrow_one",
    "ordinary",
    "overlapping_pair",
    "shuffled",
    "steep",
    "together",
    "turned",
]

CPU = torch.device("cpu")

# Batch size, data-set size, dimensions: small, and all different, so that no two forms agree.
SIZES = ((7, 5000, 3), (4, 1000, 3), (6, 7, 2), (5, 300, 1), (4, 20, 1))
SHARPEST = -4.5  # least log-variance that is ordinary
SPACING = 16.0  # between posteriors that are to be apart, whatever is taken for their variance


@dataclass(frozen=True)
class Probe:
    """Posteriors and noise, which is put to the code with either sign.

    With noise of +1 and -1, its square and its products with the means are on average over the two
    signs what they are in expectation: code that takes entropies or the KL in closed form gives
    the same answer as code that samples them.

    Attributes
    ----------
    mu, logvar, noise : Tensor, shape (M, D)
        Means, log-variances, and the sample's distance from the mean in standard deviations.
    dataset_size : int
        N.
    """

    mu: Tensor
    logvar: Tensor
    noise: Tensor
    dataset_size: int

    @property
    def shape(self) -> tuple[int, int]:
        """Return (M, D)."""
        size, dim = self.mu.shape
        return size, dim

    def to(self, device: torch.device, dtype: torch.dtype) -> Probe:
        """Return the probe as the code gets it."""
        mu, logvar, noise = (t.to(device, dtype) for t in (self.mu, self.logvar, self.noise))
        return replace(self, mu=mu, logvar=logvar, noise=noise)

    def samples(self) -> Iterator[Tensor]:
        """Yield z, shape (M, D), for either sign of the noise."""
        deviation = (0.5 * self.logvar).exp() * self.noise
        yield self.mu + deviation
        yield self.mu - deviation


def ordinary(generator: Generator) -> list[Probe]:
    """Return overlapping posteriors of several sizes, from which a form is told.

    The log-variances are positive, so that code that takes them for variances has an answer too.
    """
    return [_overlapping(*sizes, generator) for sizes in SIZES]


def _overlapping(size: int, dataset_size: int, dim: int, generator: Generator) -> Probe:
    mu = 2 * torch.randn(size, dim, generator=generator, dtype=torch.float64)
    logvar = between(0.25, 1.0, (size, dim), generator)
    return Probe(mu, logvar, _signs(size, dim, generator), dataset_size)


def between(low: float, high: float, shape: tuple[int, int], generator: Generator) -> Tensor:
    """Draw from a uniform distribution."""
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def _signs(size: int, dim: int, generator: Generator) -> Tensor:
    return 2.0 * torch.randint(2, (size, dim), generator=generator, dtype=torch.float64) - 1


def steep(generator: Generator) -> Probe:
    """Return a batch in which no term is near 0, and own components matter more or less."""
    size = 13
    mu = 3 * torch.randn(size, 1, generator=generator, dtype=torch.float64)
    mu = mu + torch.randn(size, 3, generator=generator, dtype=torch.float64)
    logvar = between(0.25, 2.25, (size, 3), generator)
    noise = torch.randn(size, 3, generator=generator, dtype=torch.float64)
    return Probe(mu, logvar, noise, 100)


def apart(size: int, dataset_size: int, dim: int = 1) -> Probe:
    """Return posteriors that do not see each other, in any dimension: MI is -log(own weight)."""
    mu = SPACING * (torch.arange(size, dtype=torch.float64) - (size - 1) / 2)
    return _alike(mu[:, None].repeat(1, dim), dataset_size)


def together(size: int, dataset_size: int) -> Probe:
    """Return one-dimensional posteriors that are all one: MI is -log(sum of a row's weights)."""
    return _alike(torch.zeros(size, 1, dtype=torch.float64), dataset_size)


def _alike(mu: Tensor, dataset_size: int) -> Probe:
    return Probe(mu, torch.full_like(mu, 0.5), torch.ones_like(mu), dataset_size)


def overlapping_pair(first: int, second: int, size: int, dataset_size: int) -> Probe:
    """Return one-dimensional posteriors of which no two see each other but these.

    The second is the wider one, so that what each sees of the other differs.
    """
    mu = SPACING * torch.arange(1, size + 1, dtype=torch.float64)[:, None]
    mu[[first, second]] = 0.0
    probe = _alike(mu, dataset_size)
    probe.logvar[second] = 2.0
    return probe


def narrow_one(place: float) -> Probe:
    """Return a narrow posterior, at this place, among wide ones that are all the same.

    Near 0 it sees the wide ones, and their points never see it. Between two places the answers
    then differ by those for its own point, which are the same for all weights that are right.
    """
    mu = torch.tensor([2.0, -3.0], dtype=torch.float64).repeat(5, 1)
    logvar = torch.tensor([5.0, 5.5], dtype=torch.float64).repeat(5, 1)
    mu[2], logvar[2] = place, torch.tensor([0.25, 0.75])
    return Probe(mu, logvar, torch.ones_like(mu), 100)


def shuffled(probe: Probe) -> Probe:
    """Return the same batch with its rows in another order: odd ones first, the rest reversed."""
    rows = torch.arange(len(probe.mu))
    rows = torch.cat([rows[1::2], rows[::2].flip(0)])
    return replace(probe, mu=probe.mu[rows], logvar=probe.logvar[rows], noise=probe.noise[rows])


def turned(probe: Probe) -> Probe:
    """Return the same batch with its dimensions in the opposite order."""
    mu, logvar, noise = (tensor.flip(1) for tensor in (probe.mu, probe.logvar, probe.noise))
    return replace(probe, mu=mu, logvar=logvar, noise=noise)


def _many_dimensions(generator: Generator) -> Probe:
    mu = torch.randn(8, 100, generator=generator, dtype=torch.float64)
    return Probe(mu, torch.zeros_like(mu), _signs(8, 100, generator), 1000)


def _sharp(generator: Generator) -> Probe:
    mu = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    return Probe(mu, torch.full_like(mu, -12.0), _signs(8, 3, generator), 1000)


def _far_out(generator: Generator) -> Probe:
    # Multiples of 1/64, and standard deviations of 1/16: adding 128 loses no digit in float32.
    mu = torch.randint(-16, 17, (8, 3), generator=generator).double() / 64
    logvar = 2 * torch.full_like(mu, 1 / 16).log()
    return Probe(mu + 128, logvar, _signs(8, 3, generator), 1000)


def _large(generator: Generator) -> Probe:
    mu = torch.randn(33, 10, generator=generator, dtype=torch.float64)
    logvar = between(SHARPEST, 0.0, (33, 10), generator)
    return Probe(mu, logvar, _signs(33, 10, generator), 10_000)


LARGE, SHARP, FAR_OUT = "M = 33, N = 10000, D = 10", "log-variances of -12", "means near 128"

# The first is none, and common; a form that small batches tell has to hold there too.
EXTREMES = {
    LARGE: _large,
    "100 dimensions": _many_dimensions,
    SHARP: _sharp,
    FAR_OUT: _far_out,
}
