"""The ways in which a layer may write a log-variance."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["SCALES", "slope"]


class Scale(NamedTuple):
    """The log-variance as a function of what the layer gives, and the inverse function."""

    to_logvar: Callable[[Tensor], Tensor]
    from_logvar: Callable[[Tensor], Tensor]


SCALES = {
    "logvar": Scale(lambda raw: raw, lambda logvar: logvar),
    "log_sd": Scale(lambda raw: 2 * raw, lambda logvar: logvar / 2),
    "sd": Scale(lambda raw: 2 * raw.log(), lambda logvar: (logvar / 2).exp()),
    "variance": Scale(torch.log, torch.exp),
    # The standard deviation is softplus(raw).
    "softplus": Scale(
        lambda raw: 2 * softplus(raw).log(), lambda logvar: (logvar / 2).exp().expm1().log()
    ),
}


def slope(scale: str, raw: Tensor) -> Tensor:
    """Return d logvar / d raw, element by element, in float64."""
    with torch.enable_grad():
        leaf = raw.detach().double().requires_grad_()
        (gradient,) = torch.autograd.grad(SCALES[scale].to_logvar(leaf).sum(), leaf)
    return gradient
