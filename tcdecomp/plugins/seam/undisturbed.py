"""A run of somebody's model that leaves no trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["undisturbed"]


@contextmanager
def undisturbed(model: nn.Module, *, parameters: bool = False) -> Iterator[None]:
    """Put back the model's attributes and buffers, and torch's global random generators.

    Lists, dicts and sets among the attributes get their entries back. The model's methods ``log``
    and ``log_dict`` do nothing inside. Other objects that the model holds, its loggers say, are
    not put back. ``parameters`` puts back parameters and their gradients, too: a method may train
    by itself.
    """
    weights: list[Tensor] = list(model.parameters()) if parameters else []
    tensors: list[Tensor] = [*model.buffers(), *weights]
    values = [tensor.detach().clone() for tensor in tensors]
    grads = [tensor.grad for tensor in weights]
    attributes = [(vars(module), dict(vars(module))) for module in model.modules()]
    held = [(entry, type(entry)(entry)) for _, saved in attributes for entry in _holders(saved)]
    for tensor in weights:
        tensor.grad = None  # a backward would add to it in place
    for name in ("log", "log_dict"):
        if callable(getattr(model, name, None)):
            vars(model)[name] = _ignore
    devices = sorted({t.device.index for t in model.parameters() if t.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for now, saved in attributes:
            now.clear()
            now.update(saved)
        for holder, entries in held:
            holder.clear()
            holder.extend(entries) if isinstance(holder, list) else holder.update(entries)
        for tensor, value in zip(tensors, values, strict=True):
            tensor.data.copy_(value)  # past autograd: a graph may have saved this tensor
        for tensor, grad in zip(weights, grads, strict=True):
            tensor.grad = grad


def _holders(attributes: dict[str, Any]) -> list[Any]:
    """Return the lists, dicts and sets among a module's attributes, of torch's own the buffers."""
    own = vars(nn.Module()).keys() - {"_buffers"}
    return [
        value
        for name, value in attributes.items()
        if name not in own and type(value) in (list, dict, set)
    ]


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Stand in for a method that logs."""
