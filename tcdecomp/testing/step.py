"""One training step under the same random numbers each time, and how two steps compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tcdecomp.testing.require import require
from tcdecomp.testing.state import parameters_of

__all__ = ["LossFn", "check_close", "gradient_of", "loss_of"]

LossFn = Callable[[Any], Tensor]


def loss_of(loss_fn: LossFn, model: Any) -> Tensor:
    """Return the loss of a step, with its graph."""
    torch.manual_seed(0)
    loss: object = loss_fn(model)
    if not (isinstance(loss, Tensor) and loss.numel() == 1):
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise AssertionError(f"loss_fn must return a scalar tensor; got {got}")
    return loss.reshape(())


def gradient_of(loss: Tensor, model: Any) -> Tensor:
    """Return the gradient for all that is trained, as one vector; keep the graph."""
    parameters = parameters_of(model)
    if not (parameters and loss.requires_grad):
        return loss.new_zeros(1)
    gradients = torch.autograd.grad(
        loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([gradient.flatten() for gradient in gradients])


def check_close(got: Tensor, want: Tensor, what: str, slack: float = 0.0) -> None:
    """Refuse a loss, or a gradient, that differs by more than float32 rounds, and the slack."""
    off = (got - want).norm().item()
    allowed = 1e-5 * (1 + want.norm().item()) + slack
    if want.dim():
        require(off <= allowed, f"{what}, in its gradients, too: they are off by {off:.3g}")
    else:
        require(off <= allowed, f"{what}: expected {want.item():.6g}; got {got.item():.6g}")
