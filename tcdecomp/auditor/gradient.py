"""Whether the gradient is that of the value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from tcdecomp.auditor.probes import Probe
from tcdecomp.auditor.subject import RaisedError, Subject, relative_error

__all__ = ["Gradient", "gradient"]

STEP = 1 / 256  # of the finite differences


@dataclass(frozen=True)
class Gradient:
    """Slopes of the three answers (rows) along one direction of z, mu and logvar (columns).

    Attributes
    ----------
    carried : Tensor of bool, shape (3,)
        Whether each answer has a gradient at all.
    slopes, differences : Tensor, shape (3, 3)
        The slopes by autograd, and by finite differences.
    """

    carried: Tensor
    slopes: Tensor
    differences: Tensor

    @property
    def error(self) -> float:
        """Return the largest relative difference between the two."""
        return relative_error(self.slopes, self.differences)


def gradient(subject: Subject, probe: Probe, generator: Generator) -> Gradient | None:
    """Compare the slopes along a direction of each input with finite differences."""
    if subject.dtype not in (torch.float32, torch.float64):
        return None
    cast = probe.to(subject.device, subject.dtype)
    inputs = [next(cast.samples()), cast.mu, cast.logvar]
    shifts = torch.randn(3, *probe.shape, generator=generator).to(cast.mu)
    # Clones of leaves, so that code which writes into its input may do so.
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    z, mu, logvar = (leaf.clone() for leaf in leaves)
    try:
        answers = subject.terms(z, mu, logvar, probe.dataset_size)
    except RaisedError:  # code that leaves torch refuses tensors with a graph
        return Gradient(torch.zeros(3, dtype=torch.bool), *torch.zeros(2, 3, 3))
    slopes = torch.stack([_slopes(answer, leaves, shifts) for answer in answers])
    differences = torch.stack(
        [_difference(subject, inputs, i, shifts[i], probe.dataset_size) for i in range(3)], 1
    )
    return Gradient(slopes.abs().sum(1) > 0, slopes, differences)


def _slopes(answer: Tensor, leaves: list[Tensor], shifts: Tensor) -> Tensor:
    if not answer.requires_grad:
        return torch.zeros(3, dtype=torch.float64)
    gradients = torch.autograd.grad(
        answer, leaves, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.stack(
        [(g * shift).sum().cpu().double() for g, shift in zip(gradients, shifts, strict=True)]
    )


def _difference(
    subject: Subject, inputs: list[Tensor], index: int, shift: Tensor, dataset_size: int
) -> Tensor:
    def moved(step: float) -> Tensor:
        tensors = [tensor.clone() for tensor in inputs]
        tensors[index] += step * shift
        return subject.terms(tensors[0], tensors[1], tensors[2], dataset_size).detach()

    return (moved(STEP) - moved(-STEP)) / (2 * STEP)
