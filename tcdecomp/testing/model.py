"""What the checks do with a model: run a step, compare losses, and leave the model as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LossFn", "check_close", "gradient_of", "left_as_it_was", "loss_of", "require"]

LossFn = Callable[[Any], Tensor]


def require(ok: bool, message: str) -> None:
    """Raise an AssertionError with this message unless ``ok``; under ``python -O``, too."""
    if not ok:
        raise AssertionError(message)


def module_of(model: Any) -> nn.Module:
    """Return the model, or one module of all modules among the attributes of another object."""
    if isinstance(model, nn.Module):
        return model
    module, attributes = nn.Module(), getattr(model, "__dict__", {})
    module._modules.update({n: m for n, m in attributes.items() if isinstance(m, nn.Module)})
    return module


def _tensors_of(model: Any) -> dict[str, Tensor]:
    """Return parameters and buffers, by name."""
    module = module_of(model)
    return dict([*module.named_parameters(), *module.named_buffers()])


def state_of(model: Any) -> dict[str, Any]:
    """Return copies of parameters, buffers, gradients and modes, by name."""
    state: dict[str, Any] = {"the grad mode": torch.is_grad_enabled()}
    for name, tensor in _tensors_of(model).items():
        state[name] = tensor.detach().clone()
        state[f"the gradient of {name}"] = None if tensor.grad is None else tensor.grad.clone()
    for name, module in module_of(model).named_modules():
        state[f"the mode of {name or 'the model'}"] = module.training
    return state


@contextmanager
def left_as_it_was(model: Any) -> Iterator[None]:
    """Restore parameters, buffers, gradients, modes and torch's random numbers at the end."""
    tensors = [(t, t.detach().clone(), t.grad) for t in _tensors_of(model).values()]
    modes = [(module, module.training) for module in module_of(model).modules()]
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        with torch.no_grad():
            for tensor, value, gradient in tensors:
                tensor.copy_(value)
                tensor.grad = gradient
        for module, training in modes:
            module.training = training


def loss_of(loss_fn: LossFn, model: Any) -> Tensor:
    """Return the loss of a step, with its graph; each time with the same random numbers."""
    torch.manual_seed(0)
    loss: object = loss_fn(model)
    if not (isinstance(loss, Tensor) and loss.numel() == 1):
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise AssertionError(f"loss_fn must return a scalar tensor; got {got}")
    return loss.reshape(())


def gradient_of(loss: Tensor, model: Any) -> Tensor:
    """Return the gradient for all trained parameters as one vector; keep the graph."""
    parameters = [tensor for tensor in _tensors_of(model).values() if tensor.requires_grad]
    if not (parameters and loss.requires_grad):
        return loss.new_zeros(1)
    gradients = torch.autograd.grad(
        loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([gradient.flatten() for gradient in gradients])


def check_close(got: Tensor, want: Tensor, what: str, slack: float = 0.0) -> None:
    """Check that a loss, or a gradient, differs by no more than float32 rounding and the slack."""
    off = (got - want).norm().item()
    allowed = 1e-5 * (1 + want.norm().item()) + slack
    if want.dim():
        require(off <= allowed, f"{what}, in its gradients, too: they are off by {off:.3g}")
    else:
        require(off <= allowed, f"{what}: expected {want.item():.6g}; got {got.item():.6g}")
