"""The tensors in what a layer or a loss method returns, and the same output with others."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.distributions import Independent, Normal

__all__ = ["loss_in", "moments_in", "with_loss", "with_moments"]


def moments_in(output: Any) -> tuple[Tensor, ...]:
    """Return the one tensor, or the first two of a pair or a Normal; () for anything else."""
    if isinstance(output, Tensor):
        return (output,)
    if isinstance(output, Independent):
        return moments_in(output.base_dist)
    pair = (output.loc, output.scale) if isinstance(output, Normal) else output
    if isinstance(pair, tuple | list) and len(pair) > 1:
        first, second = pair[:2]
        if isinstance(first, Tensor) and isinstance(second, Tensor) and first.shape == second.shape:
            return first, second
    return ()


def with_moments(output: Any, tensors: tuple[Tensor, ...]) -> Any:
    """Return an output of the same kind that holds these tensors."""
    if isinstance(output, Tensor):
        return tensors[0]
    if isinstance(output, Independent):
        base = with_moments(output.base_dist, tensors)
        return Independent(base, output.reinterpreted_batch_ndims)
    if isinstance(output, Normal):
        loc, scale = tensors
        return Normal(loc, scale)
    entries = [*tensors, *output[2:]]
    return type(output)(*entries) if hasattr(output, "_fields") else type(output)(entries)


def loss_in(output: Any) -> Tensor | None:
    """Return the loss, a scalar, in what a method returned; None if there is none.

    It is the output itself, its entry "loss", its attribute ``loss``, or the first entry of a
    tuple or a list.
    """
    if isinstance(output, Mapping):
        found = output.get("loss")
    elif _is_plain_sequence(output):
        found = output[0] if output else None
    else:
        found = output if isinstance(output, Tensor) else getattr(output, "loss", None)
    scalar = isinstance(found, Tensor) and found.numel() == 1 and found.is_floating_point()
    return found if scalar else None


def with_loss(output: Any, loss: Tensor) -> Any:
    """Return an output of the same kind that holds this loss."""
    if isinstance(output, Tensor):
        return loss
    if _is_plain_sequence(output):
        return type(output)([loss, *output[1:]])
    if hasattr(output, "_replace"):
        return output._replace(loss=loss)
    if dataclasses.is_dataclass(output) and not isinstance(output, Mapping | type):
        return dataclasses.replace(output, loss=loss)
    changed = copy.copy(output)
    if isinstance(changed, Mapping):
        changed["loss"] = loss  # type: ignore[index]
    else:
        changed.loss = loss
    return changed


def _is_plain_sequence(output: object) -> bool:
    return isinstance(output, tuple | list) and not hasattr(output, "loss")
