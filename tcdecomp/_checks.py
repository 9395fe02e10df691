"""Checks that several modules share, and the words of their errors and warnings."""

from __future__ import annotations

import math
import operator
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, SupportsIndex

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

__all__ = [
    "WarnOnce",
    "check_finite",
    "check_generator",
    "check_logvar",
    "check_tensors",
    "checked_device",
    "checked_int",
    "checked_labels",
    "checked_size",
    "doubting",
    "integer",
    "largest_logvar",
    "refuse_class",
    "warn_always",
    "warn_user",
    "without_doubts",
]

_INSIDE = ("tcdecomp", "tcdecomp_adapters", "torch")


def warn_user(message: str) -> None:
    """Warn of something in the line of the user's code that called into the library."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None:
        frame, level = frame.f_back, level + 1
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _INSIDE:
            break
    warnings.warn(message, UserWarning, stacklevel=level)


# Doubts are looked for in the first calls, and in every so many after them.
FIRST, EVERY = 10, 1000


class WarnOnce:
    """Warn of each kind of doubt once, for as long as this object lives."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._calls = 0

    def is_due(self) -> bool:
        """Count a call, and tell whether doubts are to be looked for in it."""
        self._calls += 1
        return self._calls <= FIRST or self._calls % EVERY == 1

    def __call__(self, kind: str, text: str | None) -> None:
        """Warn with the text, if there is one and the kind was not told before."""
        if text is not None and kind not in self._told:
            self._told.add(kind)
            warn_user(text)


def warn_always(kind: str, text: str | None) -> None:
    """Warn with the text, if there is one. Python's own filters decide what the user sees."""
    if text is not None:
        warn_user(text)


_DOUBTING = ContextVar("tcdecomp_doubting", default=True)


def doubting() -> bool:
    """Tell whether a batch may be doubted here."""
    return _DOUBTING.get()


@contextmanager
def without_doubts() -> Iterator[None]:
    """Doubt no batch inside, and count none as looked at: no training step comes from there."""
    token = _DOUBTING.set(False)
    try:
        yield
    finally:
        _DOUBTING.reset(token)


def integer(value: SupportsIndex) -> int:
    """Return ``operator.index(value)``, or raise a TypeError for a bool.

    Before numpy 2.3, ``operator.index`` takes numpy's bools, too.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, bool) or str(getattr(value, "dtype", None)) in ("bool", "torch.bool"):
        raise TypeError
    return operator.index(value)


def checked_int(name: str, value: SupportsIndex, low: int) -> int:
    """Return the value as an int of at least ``low``; errors name the argument.

    Raises
    ------
    TypeError, ValueError
        If the value is not an int (a bool is not one), or is below ``low``.
    """
    try:
        number = integer(value)
    except TypeError:
        got = f"{value!r} ({type(value).__name__})"
        raise TypeError(f"{name} must be an int >= {low}; got {got}") from None
    if number < low:
        raise ValueError(f"{name} must be an int >= {low}; got {number}")
    return number


def refuse_class(argument: str, value: object) -> None:
    """Raise a TypeError for a class in place of an object of that class."""
    if isinstance(value, type):
        name = value.__name__
        raise TypeError(f"{argument} must be an object; got the class {name}. Pass {name}(...)")


def checked_size(dataset_size: SupportsIndex, items: int = 1) -> int:
    """Return N as an int of at least the number of items in the batch.

    Raises
    ------
    TypeError, ValueError
        If N is not an int, or there are more items than N.
    """
    what = "the number N of items of the data set that the batch was drawn from"
    try:
        size = integer(dataset_size)
    except TypeError:
        kind = type(dataset_size).__name__
        got = f"{dataset_size!r} ({kind})"
        if isinstance(dataset_size, Dataset | DataLoader):
            got = f"a {kind}. Pass len(dataset), or len(loader.dataset)"
        raise TypeError(f"dataset_size must be an int, {what}; got {got}") from None
    if size < items:
        raise ValueError(
            f"dataset_size must be {what}, at least the batch size M = {items}; got {size}"
        )
    return size


def checked_device(device: torch.device | str) -> torch.device:
    """Return a device on which torch can make a tensor here, or raise a ValueError."""
    try:
        return torch.empty(0, device=device).device
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ValueError(
            f'device must be one that torch has here, such as "cpu"; got {device!r}: '
            f"{str(error).splitlines()[0]}"
        ) from error


def check_generator(generator: object) -> None:
    """Raise a TypeError for what is no source of random numbers."""
    if generator is not None and not isinstance(generator, Generator):
        raise TypeError(
            f"generator must be a torch.Generator; got {type(generator).__name__}. "
            "torch.Generator().manual_seed(0) makes one"
        )


def check_tensors(**tensors: Tensor) -> None:
    """Refuse tensors that are not one batch of shape (M, D); errors name the arguments.

    A tensor named ``z`` may hold K samples of each item, of shape (K, M, D).

    Raises
    ------
    TypeError, ValueError
        As :class:`tcdecomp.Posterior` says.
    """
    devices = set()
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            remedy = f". Pass torch.as_tensor({name})" if hasattr(tensor, "__array__") else ""
            raise TypeError(f"{name} must be a torch.Tensor; got {type(tensor).__name__}{remedy}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must have a floating-point dtype; got {tensor.dtype}")
        devices.add(tensor.device)
    _check_shapes(tensors)
    if len(devices) > 1:
        got = ", ".join(str(tensor.device) for tensor in tensors.values())
        raise ValueError(f"{_names(tensors)} must be on one device; got {got}")


def _names(tensors: dict[str, Tensor]) -> str:
    *most, last = tensors
    return f"{', '.join(most)} and {last}"


def _check_shapes(tensors: dict[str, Tensor]) -> None:
    shape, logvar = tensors["mu"].shape, tensors["logvar"].shape
    samples = tensors["z"].shape if "z" in tensors else shape
    per_item = samples[1:] if len(samples) == 3 else samples
    if len(shape) != 2 or not shape == logvar == per_item:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        got = ", ".join(map(str, shapes.values()))
        raise ValueError(
            f"{_names(tensors)} must share one shape (M, D); got "
            f"{got}{_remedy(tensors['mu'], shapes)}"
        )
    if 0 in samples or 0 in shape:
        empty = tuple(samples if 0 in samples else shape)
        raise ValueError(f"{_names(tensors)} must not be empty; got shape {empty}")


def _remedy(mu: Tensor, shapes: dict[str, Any]) -> str:
    """Say what makes tensors of more dimensions a batch, as far as their shapes and mu tell."""
    if mu.dim() < 3 or len(set(shapes.values())) > 1:
        return ""
    if mu.dim() == 3 and len(mu) > 1 and bool((mu == mu[:1]).all()):
        return (
            ". mu repeats along its first dimension, as for K samples of each item: pass z of "
            "shape (K, M, D) with mu[0] and logvar[0] of shape (M, D)"
        )
    return (
        ". For time steps or pixels call decompose_sites; for K samples of each item pass z of "
        "shape (K, M, D) with mu and logvar of shape (M, D); if all entries of an item are its "
        "latents, flatten(1) of each gives (M, D)"
    )


def checked_labels(name: str, labels: Tensor, rows: Tensor) -> Tensor:
    """Return an integer for each of the rows, as int64; errors give the name.

    Raises
    ------
    TypeError, ValueError
        If the labels are not an integer tensor of shape (M,) on the device of the rows.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of integers; got {type(labels).__name__}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name} must have an integer dtype; got {labels.dtype}")
    if labels.shape != rows.shape[:1]:
        raise ValueError(
            f"{name} must have shape ({len(rows)},), an integer for each row; "
            f"got {tuple(labels.shape)}"
        )
    if labels.device != rows.device:
        raise ValueError(f"{name} must be on the device of mu, {rows.device}; got {labels.device}")
    return labels.long()


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise a ValueError that names the first value of an (..., M, D) tensor that is not finite."""
    finite = tensor.isfinite()
    if not finite.all():
        place = (~finite).nonzero()[0].tolist()
        *sample, row, column = place
        where = f"sample {sample[0]}, " if sample else ""
        raise ValueError(
            f"{name} must be finite; got {tensor[tuple(place)].item()} at "
            f"{where}row {row}, column {column}"
        )


def largest_logvar(dtype: torch.dtype) -> float:
    """Return the log-variance from which on, up or down, a standard deviation overflows."""
    return 2 * math.log(torch.finfo(dtype).max)


def check_logvar(logvar: Tensor) -> None:
    """Raise a ValueError that names a log-variance with no finite standard deviation or inverse."""
    check_finite("logvar", logvar)
    limit = largest_logvar(logvar.dtype)
    if (beyond := logvar.abs() > limit).any():
        row, column = beyond.nonzero()[0].tolist()
        raise ValueError(
            f"logvar must be at least {-limit:.1f} and at most {limit:.1f} in {logvar.dtype}, for "
            "exp(logvar / 2) and its inverse to be finite; got "
            f"{logvar[row, column].item()} at row {row}, column {column}. "
            "Clamp logvar in the encoder"
        )
