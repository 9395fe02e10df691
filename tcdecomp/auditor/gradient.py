"""Whether the gradient is that of the value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tcdecomp.auditor.directions import directions
from tcdecomp.auditor.probes import Probe
from tcdecomp.auditor.subject import RaisedError, Subject

__all__ = ["TOLERANCE", "Gradient", "gradient"]

STEP = 1 / 256  # of the finite differences
FLAT = 0.005  # part of the steepest slope that a slope may be off in any case
TOLERANCE = 0.05  # relative error of finite differences


@dataclass(frozen=True)
class Gradient:
    """Slopes of the three answers (rows) along directions of z, mu and logvar (columns).

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
    def _sizes(self) -> Tensor:
        """Return what the slopes' errors are relative to."""
        sizes = self.differences.abs()
        return sizes + FLAT * sizes.max()

    @property
    def error(self) -> float:
        """Return the largest relative difference between the two."""
        errors = (self.slopes - self.differences).abs() / self._sizes
        return errors.nan_to_num(torch.inf, posinf=torch.inf).max().item()

    @property
    def wrong(self) -> bool:
        """Whether nothing that may be detached explains the difference.

        Such slopes have the sign of the difference, and are no larger; none of z is 0.
        """
        left = self.slopes * self.differences.sign() / self._sizes
        explained = (left >= -TOLERANCE) & (left <= 1 + TOLERANCE)
        flat = (left < TOLERANCE) & (self.differences.abs() > FLAT * self._sizes.max())
        return not explained.all() or bool(flat[:, 0].any())


def gradient(subject: Subject, probe: Probe) -> Gradient | None:
    """Compare the slopes of each answer, along a direction of each input, with differences.

    Raises
    ------
    RaisedError
        If the backward pass of the code raises.
    """
    if subject.dtype not in (torch.float32, torch.float64):
        return None
    cast = probe.to(subject.device, subject.dtype)
    inputs = [next(cast.samples()), cast.mu, cast.logvar]
    shifts = directions(probe).to(cast.mu)
    # Clones of leaves, so that code which writes into its input may do so.
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    z, mu, logvar = (leaf.clone() for leaf in leaves)
    try:
        answers = subject.terms(z, mu, logvar, probe.dataset_size)
    except RaisedError:  # code that leaves torch refuses tensors with a graph
        return Gradient(torch.zeros(3, dtype=torch.bool), *torch.zeros(2, 3, 3))
    slopes = torch.stack(
        [_slopes(answer, leaves, along) for answer, along in zip(answers, shifts, strict=True)]
    )
    differences = torch.stack(
        [_differences(subject, inputs, shifts[:, i], i, probe.dataset_size) for i in range(3)], 1
    )
    return Gradient(slopes.abs().sum(1) > 0, slopes, differences)


def _slopes(answer: Tensor, leaves: list[Tensor], shifts: Tensor) -> Tensor:
    if not answer.requires_grad:
        return torch.zeros(3, dtype=torch.float64)
    try:
        gradients = torch.autograd.grad(
            answer, leaves, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    except Exception as error:
        raise RaisedError(f"{type(error).__name__} in its backward pass: {error}") from error
    return torch.stack(
        [(g * shift).sum().cpu().double() for g, shift in zip(gradients, shifts, strict=True)]
    )


def _differences(
    subject: Subject, inputs: list[Tensor], shifts: Tensor, index: int, dataset_size: int
) -> Tensor:
    """Return the slope of each answer along its own shift of one input, shape (3,)."""

    def moved(shift: Tensor) -> Tensor:
        tensors = [tensor.clone() for tensor in inputs]
        tensors[index] += shift
        return subject.terms(tensors[0], tensors[1], tensors[2], dataset_size).detach()

    changes = [moved(STEP * shift) - moved(-STEP * shift) for shift in shifts]
    return torch.stack(changes).diagonal() / (2 * STEP)
