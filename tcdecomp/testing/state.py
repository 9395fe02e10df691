"""What a check must leave as it was: a model's tensors and modes, and torch's random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["left_as_it_was", "modules_of", "parameters_of", "set_mode", "state_of"]


def _parts(model: Any) -> dict[str, nn.Module]:
    """Return the model, or the modules among the attributes of one that is no module."""
    if isinstance(model, nn.Module):
        return {"": model}
    attributes = getattr(model, "__dict__", {})
    return {name: part for name, part in attributes.items() if isinstance(part, nn.Module)}


def modules_of(model: Any) -> dict[str, nn.Module]:
    """Return every module of the model, by its name."""
    return {
        f"{part}.{name}".strip("."): module
        for part, whole in _parts(model).items()
        for name, module in whole.named_modules()
    }


def _tensors_of(model: Any) -> dict[str, Tensor]:
    """Return parameters and buffers, by name."""
    return {
        f"{part}.{name}".strip("."): tensor
        for part, whole in _parts(model).items()
        for named in (whole.named_parameters(), whole.named_buffers())
        for name, tensor in named
    }


def parameters_of(model: Any) -> list[Tensor]:
    """Return the parameters that are trained."""
    return [tensor for tensor in _tensors_of(model).values() if tensor.requires_grad]


def set_mode(model: Any, *, training: bool) -> None:
    """Set all modules to train or eval mode."""
    for part in _parts(model).values():
        part.train(training)


def state_of(model: Any) -> dict[str, Any]:
    """Return copies of parameters, buffers and gradients, and the modes, by what they are."""
    tensors = _tensors_of(model)
    state: dict[str, Any] = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        state[f"the gradient of {name}"] = None if tensor.grad is None else tensor.grad.clone()
    for name, module in modules_of(model).items():
        state[f"the mode of {name or 'the model'}"] = module.training
    state["the grad mode"] = torch.is_grad_enabled()
    return state


@contextmanager
def left_as_it_was(model: Any) -> Iterator[None]:
    """Put back whatever changes inside, and let nothing be drawn from torch's generators."""
    tensors, modules = _tensors_of(model), modules_of(model)
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
