"""Whether z, mu and logvar are what they are called."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tcdecomp.posterior import Posterior
from tcdecomp.testing.require import require

__all__ = ["check_noise"]

_DRAWS = 4000  # the mean square of so many standard normals is 1 with a standard error of 0.022


def check_noise(draw: Callable[[], Posterior]) -> None:
    """Check (z - mu) / exp(logvar / 2) of the posteriors of one batch, drawn again and again.

    A standard deviation or a variance in the place of ``logvar`` gives a mean square below 0.55,
    whatever it is.
    """
    draws: list[Posterior] = []
    while len(draws) < 2 or sum(posterior.z.numel() for posterior in draws) < _DRAWS:
        posterior = draw().detach()
        sampled = not torch.equal(posterior.z, posterior.mu)
        require(sampled, "z must be a sample in train mode, not mu")
        draws.append(posterior)
    square = torch.stack([_standard(posterior) for posterior in draws]).square().mean().item()
    require(
        abs(square - 1) < 0.2,
        f"(z - mu) / exp(logvar / 2) must be standard normal; its mean square is {square:.3g}. "
        "logvar is the logarithm of the variance, not the variance or the standard deviation",
    )
    spread_z = torch.stack([posterior.z for posterior in draws]).var(0).mean()
    spread_mu = torch.stack([posterior.mu for posterior in draws]).var(0).mean()
    require(bool(spread_z > spread_mu), "z must be the sample, and mu its mean, not the reverse")


def _standard(posterior: Posterior) -> Tensor:
    return (posterior.z - posterior.mu) * (-0.5 * posterior.logvar).exp()
