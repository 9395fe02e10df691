r"""Whether z is a sample of its posterior, by its derivatives.

z = mu + sd * noise, and sd is a function of what a layer gives, raw. So dz/dmu = 1, and dz/draw is
(z - mu) / 2 times d logvar / draw. Both hold exactly, element by element, for any parameters of the
model, and for one way only to write a log-variance. The noise (z - mu) / sd has mean 0 and variance
1, to their standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tcdecomp.plugins.seam.reading import Reading, gradients, halves, stopped
from tcdecomp.plugins.seam.scales import SCALES, slope

__all__ = ["Evidence", "Noise", "Probe", "check_reading", "tolerance"]


_ENOUGH = 4096  # elements that are compared with each way to write a log-variance


def tolerance(*tensors: Tensor) -> float:
    """Return the relative error that rounding explains in the gradient of the coarsest tensor."""
    return 5e-2 if any(tensor.dtype.itemsize < 4 for tensor in tensors) else 1e-3


class Evidence(NamedTuple):
    """Means that move z one to one, and the spreads beside them, all of shape (M, D).

    ``columns`` says where z stands in what the layer took. ``errors`` are those of the ways to
    write a log-variance, relative to the gradient.
    """

    z: Tensor
    mean: Tensor
    spread: Tensor
    columns: Tensor
    errors: dict[str, float]

    def is_sample(self) -> bool:
        """Tell whether z is something else than the means."""
        return not torch.equal(self.z, self.mean)

    def fitting(self) -> list[str]:
        """Return the ways to write a log-variance that fit."""
        allowed = tolerance(self.spread, self.z)
        return [scale for scale, error in self.errors.items() if error < allowed]

    def noise(self, scale: str) -> Tensor:
        """Return (z - mu) / sd, in float64."""
        logvar = SCALES[scale].to_logvar(self.spread.detach().double())
        return (self.z - self.mean).detach().double() * (-0.5 * logvar).exp()


class Probe:
    """Two gradients of what a layer took, for tensors that may have led to it.

    The first weighs each column with its own number: the gradient of a mean is then the number of
    the column in which its z stands, wherever that is. The second has random weights.
    """

    def __init__(self, taken: Tensor, tensors: Sequence[Tensor]) -> None:
        self.shape, self.taken = taken.shape, taken.flatten(1)
        numbers = torch.arange(1, self.taken.shape[1] + 1, device=taken.device)
        g = torch.Generator("cpu").manual_seed(0)
        random = torch.rand(self.taken.shape, generator=g, device="cpu")
        self._weights = (random + 0.5).to(taken)  # away from 0: every element counts
        weights = numbers.to(taken.dtype).expand_as(self.taken), self._weights
        pulls = zip(*(gradients(self.taken, tensors, each) for each in weights), strict=True)
        self._pulls = {id(tensor): pull for tensor, pull in zip(tensors, pulls, strict=True)}

    def moves(self, mean: Tensor) -> bool:
        """Tell whether a tensor moves z one to one, and is not z itself."""
        first, second = (pull.flatten(1) for pull in self._pulls[id(mean)])
        columns = self._columns(first, second)
        return columns is not None and not torch.equal(self.taken[:, columns], mean.flatten(1))

    def examine(self, tensors: tuple[Tensor, ...], axis: int) -> Evidence | None:
        """Return the evidence for moments, two tensors or one to be cut; None if it is against."""
        firsts, seconds = (
            halves(tuple(self._pulls[id(tensor)][index] for tensor in tensors), axis)
            for index in (0, 1)
        )
        columns = self._columns(firsts[0], seconds[0])
        if columns is None:
            return None
        mean, spread = halves(tensors, axis)
        z = self.taken[:, columns]
        if torch.equal(z, mean) or not seconds[1].any():
            return Evidence(z, mean, spread, columns, {})
        few = slice(max(1, _ENOUGH // len(z)))
        pull = self._weights[:, columns[few]].double() * (z - mean)[:, few].detach() / 2
        raw, found = spread[:, few], seconds[1][:, few]
        errors = {scale: _off(found, pull * slope(scale, raw)) for scale in SCALES}
        return Evidence(z, mean, spread, columns, errors)

    def has_other_sources(
        self, evidence: Evidence, moments: Sequence[Tensor], sources: Sequence[Tensor]
    ) -> bool:
        """Tell whether sources move z past the moments: then z - mu is no noise."""
        weights = torch.zeros_like(self.taken)
        weights[:, evidence.columns] = 1
        with stopped(moments):
            return any(bool(pull.any()) for pull in gradients(self.taken, sources, weights))

    def _columns(self, first: Tensor, second: Tensor) -> Tensor | None:
        width, dim = self.taken.shape[1], first.shape[1]
        if dim > width:
            return None
        columns = first[0].double().nan_to_num(0).round().long() - 1
        if first.dtype.itemsize < 4 and dim == width:  # half precision cannot count far
            columns = torch.arange(dim, device=first.device)
        within = bool(((columns >= 0) & (columns < width)).all())
        if not within or not bool(columns.sort().values.diff().all()):
            return None
        return columns if _off(second, self._weights[:, columns]) < tolerance(second) else None


class Noise(NamedTuple):
    """Mean and variance of (z - mu) / sd, and the number of values that they are of."""

    mean: float
    variance: float
    size: int

    @classmethod
    def of(cls, evidence: Evidence, scale: str) -> Noise:
        """Return the noise in z."""
        noise = evidence.noise(scale)
        return cls(noise.mean().item(), noise.square().mean().item(), noise.numel())

    def is_standard(self) -> bool:
        """Tell whether both are within five standard errors of 0 and 1."""
        error = math.sqrt(1 / self.size)
        return abs(self.mean) < 5 * error and abs(self.variance - 1) < 5 * math.sqrt(2) * error

    def __str__(self) -> str:
        errors = math.sqrt(1 / self.size), math.sqrt(2 / self.size)
        return (
            f"mean {self.mean:.3f} +- {errors[0]:.3f}, variance {self.variance:.3f} "
            f"+- {errors[1]:.3f}"
        )


def check_reading(reading: Reading, names: str) -> Tensor | None:
    """Check that z is a sample of its posterior; return its columns, None if they are all."""
    rows, taken = len(reading.tensors[0]), reading.taken
    if rows != len(taken):
        raise ValueError(
            f"{names}: z must have a row for each row of the moments; got {len(taken)} rows of z "
            f"for {rows}. Draw one z for each item"
        )
    evidence = Probe(taken, reading.tensors).examine(reading.tensors, reading.axis)
    if evidence is None:
        raise ValueError(
            f"{names}: z must be mu + sd * noise, so that it moves one to one with the means; "
            "dz/dmu is not 1. find_seam(model, batch) looks for the layers"
        )
    if not evidence.is_sample():
        raise ValueError(
            f"{names}: z must be a sample; got z equal to mu, as a VAE in eval mode returns it. "
            "Call model.train()"
        )
    if reading.scale not in (fitting := evidence.fitting()):
        finds = "No scale does. find_seam(model, batch) looks for the layers"
        remedy = f"scale={fitting[0]!r} does" if fitting else finds
        raise ValueError(
            f"{names}: scale must say how the layer writes the spread of z; {reading.scale!r} does "
            f"not fit the gradient. {remedy}"
        )
    columns = evidence.columns
    in_order = bool((columns.diff() == 1).all()) and len(columns) == taken.flatten(1).shape[1]
    return None if in_order else columns.cpu()


def _off(got: Tensor, want: Tensor) -> float:
    """Return the distance relative to the larger norm; infinite if that is 0 or not finite."""
    got, want = got.double(), want.double()
    size = max(got.norm().item(), want.norm().item())
    distance = (got - want).norm().item()
    return distance / size if size > 0 and math.isfinite(distance) else math.inf
