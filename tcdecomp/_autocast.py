"""Autocast is off wherever densities are computed, in the forward and in the backward."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch.amp import is_autocast_available

__all__ = ["no_autocast"]

_NOTHING = nullcontext()
_is_available = cache(is_autocast_available)


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which autocast lowers nothing on this device."""
    kind = device.type
    # torch.compile cannot ask, and knows no device without autocast.
    if torch.compiler.is_compiling() or (_is_available(kind) and torch.is_autocast_enabled(kind)):
        return torch.autocast(kind, enabled=False)
    return _NOTHING
