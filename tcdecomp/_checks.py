"""What is refused, and in which words: checks that several modules share."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, SupportsIndex

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tcdecomp.loss import TCDecomposition

__all__ = [
    "check_criterion",
    "check_distinct",
    "check_finite",
    "check_logvar",
    "check_tensors",
    "checked_int",
    "checked_labels",
]


def checked_int(name: str, value: SupportsIndex, low: int) -> int:
    """Return the value as an int; the errors name the argument.

    Raises
    ------
    TypeError, ValueError
        If it is no int (a bool is none), or below ``low``.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        got = f"{value!r} ({type(value).__name__})"
        raise TypeError(f"{name} must be an int >= {low}; got {got}") from None
    if number < low:
        raise ValueError(f"{name} must be an int >= {low}; got {number}")
    return number


def check_tensors(**tensors: Tensor) -> None:
    """Refuse what does not go together as one batch; the errors name the arguments.

    Raises
    ------
    TypeError, ValueError
        As :class:`Posterior` says.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor; got {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must have a floating-point dtype; got {tensor.dtype}")
    *most, last = tensors
    names = f"{', '.join(most)} and {last}"
    shapes = [tuple(tensor.shape) for tensor in tensors.values()]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2:
        got = ", ".join(map(str, shapes))
        remedy = "; flatten(1) makes one row of each item" if len(shapes[0]) > 2 else ""
        raise ValueError(f"{names} must share one shape (M, D); got {got}{remedy}")
    if 0 in shapes[0]:
        raise ValueError(f"{names} must not be empty; got shape {shapes[0]}")
    devices = [tensor.device for tensor in tensors.values()]
    if len(set(devices)) > 1:
        raise ValueError(f"{names} must be on one device; got {', '.join(map(str, devices))}")


def checked_labels(name: str, labels: Tensor, mu: Tensor) -> Tensor:
    """Return an integer for each row of ``mu``, as int64; errors give the name.

    Raises
    ------
    TypeError, ValueError
        If the labels are not an integer tensor of shape (M,) on the device of ``mu``.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of integers; got {type(labels).__name__}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name} must have an integer dtype; got {labels.dtype}")
    if labels.shape != mu.shape[:1]:
        raise ValueError(
            f"{name} must have shape ({len(mu)},), an integer for each row; "
            f"got {tuple(labels.shape)}"
        )
    if labels.device != mu.device:
        raise ValueError(f"{name} must be on the device of mu, {mu.device}; got {labels.device}")
    return labels.long()


def check_distinct(name: str, labels: Tensor) -> None:
    """Raise a ValueError that names the first label that is there twice."""
    values, counts = torch.unique(labels, return_counts=True)
    if len(values) < len(labels):
        value, count = (part[counts > 1][0].item() for part in (values, counts))
        raise ValueError(
            f"{name} must be drawn without replacement, each at most once in a batch; got "
            f"{value} {count} times"
        )


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise a ValueError that names the first value of an (M, D) tensor that is not finite."""
    finite = tensor.isfinite()
    if not finite.all():
        row, column = (~finite).nonzero()[0].tolist()
        raise ValueError(
            f"{name} must be finite; got {tensor[row, column].item()} at row {row}, column {column}"
        )


def check_logvar(logvar: Tensor) -> None:
    """Raise a ValueError that names a log-variance from which no standard deviation follows.

    That is one that is not finite, or so low that the inverse of its standard deviation is not.
    """
    check_finite("logvar", logvar)
    lowest = -2 * math.log(torch.finfo(logvar.dtype).max)
    if (logvar < lowest).any():
        row, column = (logvar < lowest).nonzero()[0].tolist()
        raise ValueError(
            f"logvar must be at least {lowest:.1f} in {logvar.dtype}, for exp(-logvar / 2) to be "
            f"finite; got {logvar[row, column].item()} at row {row}, column {column}"
        )


def check_criterion(criterion: TCDecomposition, framework: str, *, prior: bool = True) -> None:
    """Refuse a criterion whose excess a framework cannot add to its own loss.

    Parameters
    ----------
    criterion : TCDecomposition
        To have ``reduction="mean"``.
    framework : str
        Its name, for the error.
    prior : bool
        Whether the criterion may have a prior other than the standard normal, to which the
        framework's KL is.

    Raises
    ------
    ValueError
        If the criterion does not average over the batch, or must not have its prior.
    """
    if criterion.reduction != "mean":
        raise ValueError(
            f'criterion must have reduction="mean" with {framework}; got {criterion.reduction!r}'
        )
    if not prior and criterion.prior is not None:
        raise ValueError(
            f"criterion must have prior=None with {framework}, whose own KL is to the standard "
            f"normal; got {type(criterion.prior).__name__}"
        )
