"""The contract of an adapter's tcdecomp_encode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tcdecomp.plugins.models import encode
from tcdecomp.posterior import Posterior
from tcdecomp.testing.model import left_as_it_was, module_of, require, state_of

__all__ = ["check_encode", "check_noise"]

DRAWS = 4000  # the mean square of so many standard normals is 1, with a standard error of 0.022


def check_encode(model: Any, batch: Any) -> None:
    """Check that an adapter encodes ``batch`` with ``model`` as the hook asks.

    The posterior must have a row for each item, and finite values. In eval mode the moments must be
    the same twice. Parameters, buffers, gradients and modes must stay as they are. In train mode
    (z - mu) / exp(logvar / 2) must be standard normal: this finds an adapter that passes a standard
    deviation or a variance as ``logvar``, if the adapter returns the z that the model drew.

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
        module_of(model).eval()
        before = state_of(model)
        posterior, again = encode(model, batch), encode(model, batch)
        _check_rows(posterior, batch)
        for name in ("mu", "logvar", "z"):
            finite = bool(getattr(posterior, name).isfinite().all())
            require(finite, f"{name} must be finite")
        for name in ("mu", "logvar"):
            same = torch.allclose(getattr(posterior, name), getattr(again, name))
            require(same, f"{name} must come out the same twice in eval mode")
        after = state_of(model)
        for name, value in before.items():
            tensor = isinstance(value, Tensor) and isinstance(after[name], Tensor)
            same = torch.equal(value, after[name]) if tensor else value == after[name]
            require(same, f"encode must leave all as it is; it changed {name}")
        module_of(model).train()
        check_noise(lambda: encode(model, batch))


def _check_rows(posterior: Posterior, batch: Any) -> None:
    """Check the number of rows: of the batch's first tensor, or else the batch's own length."""
    entries = list(batch.values()) if isinstance(batch, Mapping) else batch
    if isinstance(entries, Tensor | Sequence):
        tensors = [] if isinstance(entries, Tensor) else entries
        items = [*[len(e) for e in tensors if isinstance(e, Tensor)][:1], len(entries)]
        rows, message = len(posterior.mu), "encode must return a row for each item; got"
        require(rows in items, f"{message} {rows} rows for a batch of {items[0]}")


def check_noise(draw: Callable[[], Posterior]) -> None:
    """Check (z - mu) / exp(logvar / 2) of the posteriors of one batch, drawn many times.

    If ``logvar`` is a standard deviation or a variance, its mean square is always below 0.55.
    """
    draws: list[Posterior] = []
    while len(draws) < 2 or sum(posterior.z.numel() for posterior in draws) < DRAWS:
        posterior = draw().detach()
        sampled = not torch.equal(posterior.z, posterior.mu)
        require(sampled, "z must be a sample in train mode, not mu")
        draws.append(posterior)
    z, mu, logvar = (torch.stack(tensors) for tensors in zip(*draws, strict=True))
    square = ((z - mu) * (-0.5 * logvar).exp()).square().mean().item()
    require(
        abs(square - 1) < 0.2,
        f"(z - mu) / exp(logvar / 2) must be standard normal; its mean square is {square:.3g}. "
        "logvar is the logarithm of the variance, not the variance or the standard deviation",
    )
    moved = bool(z.var(0).mean() > mu.var(0).mean())
    require(moved, "z must be the sample, and mu its mean, not the reverse")
