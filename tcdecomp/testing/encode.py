"""What an adapter's tcdecomp_encode must hold to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tcdecomp.plugins.models import encode
from tcdecomp.posterior import Posterior
from tcdecomp.testing.noise import check_noise
from tcdecomp.testing.require import require
from tcdecomp.testing.state import left_as_it_was, set_mode, state_of

__all__ = ["check_encode"]


def check_encode(model: Any, batch: Any) -> None:
    """Check that an adapter encodes ``batch`` with ``model`` as the hook asks.

    There is a row for each item, all is finite, and in eval mode the moments come out the same
    again; parameters, buffers, gradients and modes stay as they are; and
    (z - mu) / exp(logvar / 2) is standard normal in train mode. The last finds a standard
    deviation or a variance that is passed as ``logvar``, where the adapter returns the z that the
    model has drawn.

    Parameters
    ----------
    model : object
        A model that the adapter serves.
    batch : object
        At least 2 items for it.

    Raises
    ------
    AssertionError
        If one of these does not hold.
    NoAdapterError
        If no adapter serves the model.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp.testing import check_encode
    >>> class Encoder(torch.nn.Linear):
    ...     def encode(self, x):
    ...         return self(x).chunk(2, dim=1)
    >>> check_encode(Encoder(5, 6), torch.randn(8, 5))
    """
    with left_as_it_was(model), torch.no_grad():
        set_mode(model, training=False)
        before = state_of(model)
        posterior = encode(model, batch)
        _check_rows(posterior, batch)
        _check_finite(posterior)
        _check_moments(posterior, encode(model, batch))
        _check_unchanged(before, state_of(model))
        set_mode(model, training=True)
        check_noise(lambda: encode(model, batch))


def _check_rows(posterior: Posterior, batch: Any) -> None:
    rows, items = len(posterior.mu), _possible_lengths(batch)
    if items:
        message = "encode must return a row for each item; got"
        require(rows in items, f"{message} {rows} rows for a batch of {items[0]}")


def _possible_lengths(batch: Any) -> list[int]:
    """Return how many items the batch may have: that of its first tensor, or its own length."""
    if isinstance(batch, Tensor):
        return [len(batch)]
    entries = list(batch.values()) if isinstance(batch, Mapping) else batch
    if not isinstance(entries, Sequence):
        return []
    lengths = [len(entry) for entry in entries if isinstance(entry, Tensor)]
    return [*lengths[:1], len(entries)]


def _check_finite(posterior: Posterior) -> None:
    for name in ("mu", "logvar", "z"):
        finite = bool(getattr(posterior, name).isfinite().all())
        require(finite, f"{name} must be finite")


def _check_moments(first: Posterior, again: Posterior) -> None:
    for name in ("mu", "logvar"):
        same = torch.allclose(getattr(first, name), getattr(again, name))
        require(same, f"{name} must come out the same twice in eval mode")


def _check_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    for name, value in before.items():
        same = (
            torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
        )
        require(same, f"encode must leave all as it is; it changed {name}")
