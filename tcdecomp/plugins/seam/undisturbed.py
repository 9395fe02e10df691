"""A run of somebody's model that leaves no trace in it."""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["undisturbed"]

_LARGEST = 2**24  # elements of a tensor that is put back
_HOLDERS = (list, dict, set, deque, Counter, OrderedDict, defaultdict)


@contextmanager
def undisturbed(model: nn.Module, *, parameters: bool = False) -> Iterator[None]:
    """Put back the model's attributes and buffers, and torch's global random generators.

    Dense tensors among the attributes get their values back, up to 2**24 elements: a larger one is
    data, and a copy of it might not fit. Python's own lists, dicts, sets and deques get their
    entries back. Other objects that the model holds, such as arrays, loggers or what is in a list,
    are not put back if the model changes them in place. The model's methods ``log`` and
    ``log_dict`` do nothing inside. ``parameters`` puts back parameters and their gradients, too: a
    method may train by itself.
    """
    weights: list[Tensor] = list(model.parameters()) if parameters else []
    attributes = [(vars(module), dict(vars(module))) for module in model.modules()]
    entries = [entry for _, saved in attributes for entry in _own(saved)]
    loose = [entry for entry in entries if isinstance(entry, Tensor) and _is_state(entry)]
    tensors: list[Tensor] = [*model.buffers(), *weights, *loose]
    values = [tensor.detach().clone() for tensor in tensors]
    grads = [tensor.grad for tensor in weights]
    held = [(entry, copy.copy(entry)) for entry in entries if type(entry) in _HOLDERS]
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
        for now, before in (*attributes, *held):
            now.clear()
            now.extend(before) if hasattr(now, "extend") else now.update(before)
        for tensor, value in zip(tensors, values, strict=True):
            tensor.data.copy_(value)  # past autograd: a graph may have saved this tensor
        for tensor, grad in zip(weights, grads, strict=True):
            tensor.grad = grad


def _is_state(tensor: Tensor) -> bool:
    """Tell whether a run can change a tensor: not an expanded one, nor one of inference mode."""
    dense = tensor.layout is torch.strided and 0 not in tensor.stride()
    return dense and tensor.numel() <= _LARGEST and not tensor.is_inference()


def _own(attributes: dict[str, Any]) -> list[Any]:
    """Return the values of a module's attributes, of torch's own the dict of buffers."""
    torchs = vars(nn.Module()).keys() - {"_buffers"}
    return [value for name, value in attributes.items() if name not in torchs]


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Stand in for a method that logs."""
