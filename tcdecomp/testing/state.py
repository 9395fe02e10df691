"""What a check must leave as it was: a model's tensors and modes, and torch's random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["left_as_it_was", "set_mode", "state_of"]


def _modules(model: Any) -> dict[str, nn.Module]:
    return dict(model.named_modules()) if isinstance(model, nn.Module) else {}


def set_mode(model: Any, *, training: bool) -> None:
    """Set a module to train or eval mode; leave other objects alone."""
    if isinstance(model, nn.Module):
        model.train(training)


def _tensors(model: Any) -> dict[str, Tensor]:
    if not isinstance(model, nn.Module):
        return {}
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def state_of(model: Any) -> dict[str, Any]:
    """Return copies of parameters, buffers and gradients, and the modes, by what they are."""
    tensors = _tensors(model)
    state: dict[str, Any] = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        state[f"the gradient of {name}"] = None if tensor.grad is None else tensor.grad.clone()
    for name, module in _modules(model).items():
        state[f"the mode of {name or 'the model'}"] = module.training
    return state


@contextmanager
def left_as_it_was(model: Any) -> Iterator[None]:
    """Put back whatever changes inside, and let nothing be drawn from torch's generators."""
    tensors, modules = _tensors(model), _modules(model)
    values = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    gradients = {name: tensor.grad for name, tensor in tensors.items()}
    modes = {name: module.training for name, module in modules.items()}
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(values[name])
                tensor.grad = gradients[name]
        for name, module in modules.items():
            module.training = modes[name]
