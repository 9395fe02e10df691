"""Log-sums of component densities: the expensive part of every estimate, and which kernel does it.

Each kernel is a file that opens with the mathematics that it computes: ``dense`` (the reference),
``blocked`` (linear memory, any device), ``triton`` (CUDA) and ``onepass`` (value and gradient of
the mean-reduced training loss together).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from tcdecomp.kernels import dense, operators
from tcdecomp.kernels.components import Components
from tcdecomp.kernels.contract import Keep, LogSums
from tcdecomp.posterior import log_normal

__all__ = ["Keep", "Kernel", "LogSums", "log_sum", "log_sums"]

Kernel = Literal["auto", "dense", "lean"]

# Up to this many densities on the CPU, the few operations of the dense kernel cost less.
DENSE_UP_TO = 2**16


def log_sums(
    z: Tensor, components: Components, items: Tensor | None = None, *, kernel: Kernel = "auto"
) -> LogSums:
    """Return the log-sums over a point's own components and over all others.

    Parameters
    ----------
    z : Tensor, shape (M, D)
        Points, float32 or float64.
    components : Components
        What q(z) is a mixture of.
    items : Tensor, shape (M,), optional
        Each point's item, where the components have theirs. None: component i is point i's own
        for i < M, and all later ones belong to others.
    kernel : {"auto", "dense", "lean"}
        "lean" is the blocked kernel, or Triton's for float32 on CUDA; "auto" chooses by size.
    """
    others, others_j = log_sum(z, components, items, keep="others", kernel=kernel)
    if items is None:
        size = z.shape[0]
        own_j = log_normal(z, components.mu[:size], components.logvar[:size])
        return LogSums(own_j.sum(1), others, own_j, others_j)
    own, own_j = log_sum(z, components, items, keep="own", kernel=kernel)
    return LogSums(own, others, own_j, others_j)


def log_sum(
    z: Tensor,
    components: Components,
    items: Tensor | None = None,
    *,
    keep: Keep,
    kernel: Kernel = "auto",
) -> tuple[Tensor, Tensor]:
    """Return the joint log-sums (M,) and the marginal ones (M, D) over the kept components."""
    mu, logvar, component_items = components
    if kernel == "auto":
        densities = z.shape[0] * mu.shape[0] * z.shape[1]
        kernel = "dense" if z.device.type == "cpu" and densities <= DENSE_UP_TO else "lean"
    function = dense.log_sum if kernel == "dense" else operators.differentiable_log_sum
    return function(z, items, mu, logvar, component_items, keep)
