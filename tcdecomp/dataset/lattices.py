r"""One-dimensional mixtures of Gaussians as tables, in linear time.

A Gaussian is a weighted sum of narrower Gaussians on a lattice of step h,

    N(x; mu, s^2) = sum_g w_g N(x; g h, sigma^2),    w_g = h N(g h; mu, s^2 - sigma^2),

with a relative error of 2 exp(-2 pi^2 sigma^2 (s^2 - sigma^2) / (s h)^2). The weights of all
components that share sigma and h are added up in one table, whose size does not depend on the
number of components.

Components are sorted into *bands* of their standard deviation, S <= s < 2^(1/4) S, where S is a
power of 2^(1/4). A band has sigma^2 = S^2 / 2 and h = S / 2.4, so that the error is 1e-12. Weights
end 6.5 standard deviations from mu, which costs 1e-10. Bands and lattices are the same for all
data: lattice points are multiples of h. So tables of different items can be added.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy

import torch
from torch import Tensor

from tcdecomp._progress import progress

__all__ = ["Lattices", "TooLongError"]

PER_OCTAVE = 4  # bands
LOWEST = 2**12  # bands below S = 1: float64 has no smaller standard deviation
BANDS = 2 * LOWEST
PER_STD = 2.4  # lattice points in S
FALL = PER_STD**2 / 2  # sigma^2 in lattice units
WEIGHTS = 32  # lattice points that a component reaches
FINER = 2  # points of a grid for each point of the finest lattice: q log q has more detail than q
READS = 16  # lattice points to either side that a density is read from: 9 sigma
BLOCK = 2**12  # components at a time on the CPU, which one thread does in its cache,
LARGE_BLOCK = 2**18  # and on other devices
ROWS = 128, 2**12  # points at which densities are read at a time: at least, and at most
FARTHEST = 2.0**52  # lattice points from 0 that a float64 tells apart


class TooLongError(ValueError):
    """The standard deviations are too small beside the range of the means."""


class Lattices:
    """Mixtures q(z_j|c) of the posteriors in class c, for latents j: float64, on one device.

    Parameters
    ----------
    latents, classes : int
        Numbers of latents and of classes.
    device : torch.device
        Where the tables are, unless it has no float64. Inputs are moved there.
    largest : int
        Numbers that the table may hold, and the densities of all latents on their grids.
    """

    def __init__(self, latents: int, classes: int, device: torch.device, largest: int) -> None:
        self.latents, self.classes, self.largest = latents, classes, largest
        if device.type == "mps":  # which has no float64
            device = torch.device("cpu")
        # The lattice points in use, for each latent and band: none yet
        self.first = torch.full((latents * BANDS,), 2**62, device=device)
        self.last = -self.first
        self.table = torch.zeros(classes, 0, dtype=torch.float64, device=device)

    def add(self, mu: Tensor, logvar: Tensor, rows: Tensor, weight: Tensor | None = None) -> None:
        """Add posteriors.

        Parameters
        ----------
        mu, logvar : Tensor, shape (B, D)
            Finite moments.
        rows : Tensor, shape (B, K), integer
            K classes that each item belongs to.
        weight : Tensor, shape (B,), optional
            Weight of each item. Default: 1.

        Raises
        ------
        TooLongError
            If the tables would have too many lattice points, or points too far from 0 for float64.
        """
        mu, logvar, rows = (t.detach().to(self.table.device) for t in (mu, logvar, rows))
        _check_distance(mu, logvar, self)
        weight = None if weight is None else weight.to(self.table.device)
        blocks, first, last = _blocks(mu), self.first.clone(), self.last.clone()

        def find_ends(latent: int) -> None:
            own = slice(latent * BANDS, (latent + 1) * BANDS)
            for block in blocks:
                band, start, *_ = _places(mu[block, latent], logvar[block, latent])
                first[own].scatter_reduce_(0, band, start, "amin")
                last[own].scatter_reduce_(0, band, start + WEIGHTS - 1, "amax")

        def spread(latent: int) -> None:
            own = origin[latent * BANDS : (latent + 1) * BANDS]
            for block in blocks:
                part = None if weight is None else weight[block]
                moments = mu[block, latent], logvar[block, latent]
                _spread(self.table, own, *moments, rows[block], part)

        with _threads(mu.device) as pool:  # each latent has columns of its own
            list(pool.map(find_ends, range(self.latents)))
            self._reserve(first, last)
            origin = self._starts()[:-1] - self.first
            list(progress(pool.map(spread, range(self.latents)), "densities q(z_j)"))

    def put(self, other: Lattices, rows: Tensor) -> None:
        """Add other lattices of the same latents, whose classes are ``rows`` here."""
        self._reserve(torch.minimum(self.first, other.first), torch.maximum(self.last, other.last))
        self._copy(other, rows)

    def to(self, device: torch.device) -> Lattices:
        """Return the same lattices on another device."""
        result = copy(self)
        result.first, result.last = self.first.to(device), self.last.to(device)
        result.table = self.table.to(device)
        return result

    def densities(self, points: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums of densities of each latent at its sorted points, (classes, points)."""
        with _threads(self.table.device) as pool:
            return list(pool.map(self._density, range(self.latents), points))

    def grid(self, latent: int) -> tuple[Tensor, float]:
        """Return sorted points that cover all of a latent, and their distance.

        Sums of q log q over these points times the distance are integrals, to 1e-9.
        """
        bands = self._bands(latent)
        finest = bands[0][1] / FINER
        low = min((int(self.first[band]) - READS) * step for band, step, _ in bands)
        high = max((int(self.last[band]) + READS) * step for band, step, _ in bands)
        low, high = math.floor(low / finest), math.ceil(high / finest)
        points = torch.arange(low, high + 1, dtype=torch.float64, device=self.table.device)
        return points * finest, finest

    def _density(self, latent: int, x: Tensor) -> Tensor:
        result = self.table.new_zeros(len(self.table), len(x))
        spacing = (x[-1] - x[0]).item() / len(x)
        for band, step, part in self._bands(latent):
            origin = int(self.first[band])
            # Of a wide band, many points read the same part
            rows = int(min(max(ROWS[0], 64 * step / max(spacing, 1e-9 * step)), ROWS[1]))
            for start in range(0, len(x), rows):
                position = x[start : start + rows] / step - origin
                low = max(0, math.floor(position[0].item() - READS))
                high = min(part.shape[1], math.ceil(position[-1].item() + READS) + 1)
                if low < high:
                    points = torch.arange(low, high, device=x.device)
                    gauss = (-0.5 / FALL * (points[:, None] - position).square()).exp()
                    result[:, start : start + rows] += part[:, low:high] @ gauss / step
        return result / math.sqrt(2 * math.pi * FALL)

    def _bands(self, latent: int) -> list[tuple[int, float, Tensor]]:
        """Return the bands in use by a latent, from the narrowest on: place, step and table."""
        starts = self._starts()
        places = range(latent * BANDS, (latent + 1) * BANDS)
        used = (self.first <= self.last)[places.start : places.stop].nonzero().squeeze(1).tolist()
        return [
            (
                places[band],
                2 ** ((band - LOWEST) / PER_OCTAVE) / PER_STD,
                self.table[:, int(starts[places[band]]) : int(starts[places[band] + 1])],
            )
            for band in used
        ]

    def _starts(self) -> Tensor:
        """Return the columns of the table at which each band of each latent starts, and its end."""
        lengths = (self.last - self.first + 1).clamp(min=0)
        return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])

    def _reserve(self, first: Tensor, last: Tensor) -> None:
        """Make room for more lattice points."""
        if torch.equal(first, self.first) and torch.equal(last, self.last):
            return
        _check_length(first.view(self.latents, BANDS), last.view(self.latents, BANDS), self)
        old = copy(self)
        self.first, self.last = first, last
        self.table = old.table.new_zeros(self.classes, int(self._starts()[-1]))
        self._copy(old, torch.arange(self.classes, device=first.device))

    def _copy(self, other: Lattices, rows: Tensor) -> None:
        ours, theirs = self._starts(), other._starts()
        for band in (other.first <= other.last).nonzero().squeeze(1).tolist():
            start, stop = int(theirs[band]), int(theirs[band + 1])
            column = int(ours[band] + other.first[band] - self.first[band])
            self.table[rows, column : column + stop - start] += other.table[:, start:stop]


def _check_length(first: Tensor, last: Tensor, of: Lattices) -> None:
    """Refuse tables that would be too large, by the first and last points, shape (D, BANDS)."""
    used = first <= last
    band = torch.arange(BANDS, device=first.device, dtype=torch.float64) - LOWEST
    step = torch.exp2(band / PER_OCTAVE) / PER_STD
    low = torch.where(used, (first - READS) * step, math.inf).amin(1)
    high = torch.where(used, (last + READS) * step, -math.inf).amax(1)
    span, finest = high - low, torch.where(used, step, math.inf).amin(1)
    points = ((last - first + 1.0) * used).sum().item()
    on_grids = FINER * of.latents * (span / finest).max().item()
    if max(points, on_grids) * of.classes <= of.largest:
        return
    j = int((span / finest).argmax())
    size = 8 * max(points, on_grids) * of.classes / 2**30
    raise TooLongError(
        f"logvar must not be so small beside the range of mu: latent {j} has means over a range of "
        f"{span[j].item():.3g} and a standard deviation of {PER_STD * finest[j].item():.2g}, which "
        f"would take {size:.1g} GiB of memory. {_remedy(_least_for_memory(span, of))}"
    )


def _check_distance(mu: Tensor, logvar: Tensor, of: Lattices) -> None:
    """Refuse means at which float64 does not tell lattice points apart."""
    per_size = PER_STD * 2 ** (1 / PER_OCTAVE) / FARTHEST  # a band reaches down to a smaller step
    mu, deviation = mu.double(), (0.5 * logvar.double()).exp()
    if not (far := mu.abs() * per_size > deviation).any():
        return
    row, j = far.nonzero()[0].tolist()
    least = max(
        1.05 * per_size * mu.abs().max().item(), _least_for_memory(mu.amax(0) - mu.amin(0), of)
    )
    raise TooLongError(
        f"logvar must not be so small beside mu: latent {j} has a mean of {mu[row, j].item():.4g} "
        f"and a standard deviation of {deviation[row, j].item():.2g}, which is too small for "
        f"float64 there. {_remedy(least)}"
    )


def _least_for_memory(span: Tensor, of: Lattices) -> float:
    """Return the least standard deviation for which memory lasts, by the ranges of the means."""
    per_deviation = max(  # the bands' steps are a geometric series
        span.sum().item() / (1 - 2 ** (-1 / PER_OCTAVE)), FINER * of.latents * span.max().item()
    )
    return 1.25 * PER_STD * per_deviation * of.classes / of.largest


def _remedy(deviation: float) -> str:
    return f"Pass logvar.clamp(min={2 * math.log(deviation):.1f})"


@contextmanager
def _threads(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """Return a pool of as many threads as torch has, in which each operation takes one."""
    count = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        workers = count if device.type == "cpu" else 1
        # The number is a thread's own
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(count)


def _blocks(mu: Tensor) -> list[slice]:
    size = BLOCK if mu.device.type == "cpu" else LARGE_BLOCK
    return [slice(start, start + size) for start in range(0, len(mu), size)]


def _spread(
    table: Tensor, origin: Tensor, mu: Tensor, logvar: Tensor, rows: Tensor, weight: Tensor | None
) -> None:
    """Add one latent of some items to the table; ``origin`` is the column of a band's point 0."""
    band, start, position, variance = _places(mu, logvar)
    points = torch.arange(WEIGHTS, device=mu.device)
    exponents = (points - (position - start)[:, None]).square_() * (-0.5 / variance)[:, None]
    height = (2 * math.pi * variance).rsqrt()
    height = height if weight is None else height * weight
    weights = (exponents.exp_() * height[:, None]).view(-1)
    columns = (origin[band] + start)[:, None] + points
    flat, width = table.view(-1), table.shape[1]
    for row in rows.T:
        flat.scatter_add_(0, (columns + (row * width)[:, None]).view(-1), weights)


def _places(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return each component's band and first lattice point, and its mean and variance there."""
    mu, logvar = mu.double(), logvar.double()
    band = (logvar * (0.5 * PER_OCTAVE / math.log(2))).floor()
    log_step = band * (math.log(2) / PER_OCTAVE) - math.log(PER_STD)
    position = mu / log_step.exp()
    variance = (logvar - 2 * log_step).exp() - FALL
    first = position.floor().long() - (WEIGHTS // 2 - 1)
    return LOWEST + band.long(), first, position, variance
