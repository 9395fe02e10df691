"""Autocast is off wherever densities are computed, in the forward and in the backward."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["no_autocast"]


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which autocast lowers nothing on this device."""
    # torch.compile cannot ask, and knows no device without autocast.
    if torch.compiler.is_compiling() or torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
