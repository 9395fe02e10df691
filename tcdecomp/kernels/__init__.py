"""Log-densities of mixtures of Gaussians: the expensive part of every estimate.

Each kernel is a file that opens with the mathematics that it computes: ``dense`` (the reference),
``blocked`` (all pairs in linear memory, any device), ``linear`` (the marginals in linear time, any
device), ``compiled`` (the same for float32 on the CPU, by numba) and ``triton`` (CUDA). The rest of
the library calls only the functions here. This file alone decides which kernel serves.
"""

from __future__ import annotations

import math
import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from tcdecomp import posterior
from tcdecomp.kernels import dense, operators
from tcdecomp.kernels.components import Components, Keep, LogSums
from tcdecomp.posterior import log_normal

__all__ = [
    "Components",
    "Keep",
    "Kernel",
    "LogSums",
    "log_joint",
    "log_mixture",
    "log_sum",
    "log_sums",
    "look_at",
    "mean_log_mixture",
]

# "auto" chooses among the others by device, dtype and size.
Kernel = Literal["auto", "dense", "blocked", "linear", "triton"]

# Up to this many densities on the CPU, the few operations of the dense kernel cost less.
DENSE_UP_TO = 2**16
# From this many densities on, grids cost less than pairs in plain torch.
LINEAR_FROM = 2**25
# Log of the largest weight of others over that of the own component for which grids are accurate.
FARTHEST = 18.0

WEIGHTS = {"all": (0.0, 0.0), "own": (0.0, -math.inf), "others": (-math.inf, 0.0)}


def log_sum(
    z: Tensor,
    components: Components,
    items: Tensor | None = None,
    *,
    keep: Keep,
    kernel: Kernel = "auto",
) -> tuple[Tensor, Tensor]:
    """Return the log of the sum of the kept components' densities at each point, in nats.

    Parameters
    ----------
    z : Tensor, shape (M, D)
        Points, float32 or float64.
    components : Components
        What q(z) is a mixture of.
    items : Tensor, shape (M,), optional
        Each point's item, if the components have theirs. None: component i is point i's own
        for i < M, and all later ones belong to others.
    keep : {"all", "own", "others"}
        Which components count.
    kernel : {"auto", "dense", "blocked", "linear", "triton"}
        "dense" needs O(M K D) memory and serves every transform of torch.func, the others need
        O((M + K) D). "linear" takes the marginals from grids, where weights are numbers and not
        -inf and there are no items; elsewhere, "blocked" serves in its place.

    Returns
    -------
    joint : Tensor, shape (M,)
        The sums of q(z|component). A sum without components is -inf.
    marginals : Tensor, shape (M, D)
        The sums of q(z_j|component), for each dimension j.

    Raises
    ------
    ValueError
        If the kernel is "triton" and Triton cannot serve these tensors.
    """
    return log_mixture(z, components, *WEIGHTS[keep], items, kernel=kernel)


def log_sums(
    z: Tensor, components: Components, items: Tensor | None = None, *, kernel: Kernel = "auto"
) -> LogSums:
    """Return the log-sums over a point's own components and over all others.

    Parameters and errors are those of :func:`log_sum`.
    """
    others, others_j = log_sum(z, components, items, keep="others", kernel=kernel)
    if items is None:
        size = z.shape[0]
        own_j = log_normal(z, components.mu[:size], components.logvar[:size])
        return LogSums(own_j.sum(1), others, own_j, others_j)
    own, own_j = log_sum(z, components, items, keep="own", kernel=kernel)
    return LogSums(own, others, own_j, others_j)


def log_joint(z: Tensor, components: Components, *, kernel: Kernel = "auto") -> Tensor:
    """Return the joint log-sums over all components, shape (M,), without a gradient.

    Parameters and errors are those of :func:`log_sum`.
    """
    name = _kernel_of_mixture(kernel, z, components.mu, 0.0, 0.0, None)
    if name not in ("compiled", "linear"):
        return log_sum(z, components, keep="all", kernel=kernel)[0]
    return operators.log_joint(z, *components[:2], name)


def log_mixture(
    z: Tensor,
    components: Components,
    log_own: float | Tensor,
    log_other: float | Tensor,
    items: Tensor | None = None,
    *,
    kernel: Kernel = "auto",
) -> tuple[Tensor, Tensor]:
    """Return log q(z), shape (M,), and log q(z_j), shape (M, D), of the weighted mixture, in nats.

    Parameters
    ----------
    log_own, log_other : float, or Tensor of shape (M,)
        Log of the weight of each own component, and of each other. -inf leaves components out.
        They get no gradient.
    z, components, items, kernel
        As in :func:`log_sum`, with its errors.
    """
    mu, logvar, ids = components
    name = _kernel_of_mixture(kernel, z, mu, log_own, log_other, items)
    own, other = (
        w.to(z.dtype) if isinstance(w, Tensor) else z.new_full(z.shape[:1], w)
        for w in (log_own, log_other)
    )
    if name == "dense":
        return dense.log_mixture(z, mu, logvar, own, other, items, ids)
    return operators.log_mixture(z, mu, logvar, own, other, items, ids, name)


def mean_log_mixture(
    z: Tensor,
    components: Components,
    log_own: float,
    log_other: float,
    *,
    joint: float,
    marginal: float,
    kl: float = 0.0,
    kernel: Kernel = "auto",
) -> Tensor:
    """Return a loss that is made of means over the points, a scalar.

    It is ``joint * log q(z) + marginal * sum_j log q(z_j) + kl * KL(q(z|n) || N(0, I))``. Where it
    pays, the value and its gradient are computed in one pass. Component i is point i's own for
    i < M.

    Parameters
    ----------
    joint, marginal, kl : float
        Coefficients of the means.
    z, components, log_own, log_other, kernel
        As in :func:`log_mixture`, with its errors.
    """
    mu, logvar, _ = components
    name = _kernel_of_mixture(kernel, z, mu, log_own, log_other, None)
    trained = torch.is_grad_enabled() and (
        z.requires_grad or mu.requires_grad or logvar.requires_grad
    )
    weighted = -math.inf not in (log_own, log_other)
    if trained and weighted and kernel == "auto" and name == "dense":
        name = "blocked"  # in one pass it takes fewer operations than autograd
    if weighted and name not in ("dense", "triton"):
        options = log_own, log_other, joint, marginal, kl, name
        return operators.mean_log_mixture(z, mu, logvar, *options, trained=trained)
    log_q, log_q_j = log_mixture(z, components, log_own, log_other, kernel=kernel)
    return operators.mean_of(log_q, log_q_j, mu, logvar, joint, marginal, kl)


def look_at(z: Tensor, mu: Tensor, logvar: Tensor) -> tuple[float, bool]:
    """Do what :func:`tcdecomp.posterior.look_at` does, in one call where that is compiled."""
    single = z.dtype == torch.float32 and z.dim() == 2 and z.device.type == "cpu"
    if single and _is_usable("compiled"):
        return operators.function_of("compiled", "look_at")(z, mu, logvar)  # type: ignore[no-any-return]
    return posterior.look_at(z, mu, logvar)


def _kernel_of_mixture(
    kernel: Kernel,
    z: Tensor,
    mu: Tensor,
    log_own: float | Tensor,
    log_other: float | Tensor,
    items: Tensor | None,
) -> str:
    """Return the name of the kernel that serves."""
    if kernel == "triton":
        _check_triton(z)
    if kernel not in ("auto", "linear"):
        return kernel
    on_cpu, chosen = z.device.type == "cpu", kernel == "linear"
    exact = z.dtype == torch.float64 or not on_cpu  # and not yet run on a CUDA device
    if (chosen or not exact) and _takes_grids(z, mu, log_own, log_other, items):
        if on_cpu and z.dtype == torch.float32 and _is_usable("compiled"):
            return "compiled"
        if chosen or z.numel() * mu.shape[0] >= LINEAR_FROM:
            return "linear"
    small = on_cpu and z.numel() * mu.shape[0] <= DENSE_UP_TO
    return "dense" if small and not chosen else "blocked"


def _takes_grids(
    z: Tensor,
    mu: Tensor,
    log_own: float | Tensor,
    log_other: float | Tensor,
    items: Tensor | None,
) -> bool:
    """Tell whether the marginals may come from grids, on which a point's own is there, too."""
    if isinstance(log_own, Tensor) or isinstance(log_other, Tensor):
        return False
    if items is not None or z.device.type == "mps":  # which has no float64
        return False
    same = log_own == log_other > -math.inf
    return same or (len(z) <= len(mu) and -math.inf < log_other - log_own < FARTHEST)


def _check_triton(z: Tensor) -> None:
    nvidia = z.device.type == "cuda" and torch.version.hip is None
    if not (nvidia and z.dtype == torch.float32 and _is_usable("triton")):
        raise ValueError(
            "kernel 'triton' needs float32 tensors on an NVIDIA GPU, and the package triton; got "
            f"{z.dtype} on {z.device.type}. kernel='blocked' serves any device and dtype"
        )


def _is_usable(name: str) -> bool:
    """Tell whether a kernel that needs a package of its own can be imported."""
    return _can_import(name)


# What torch.compiler.assume_constant_result does, without the second that Dynamo takes to import.
_is_usable._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _can_import(name: str) -> bool:
    package = {"triton": "triton", "compiled": "numba"}[name]
    if find_spec(package) is None:
        return False
    try:
        import_module(f"tcdecomp.kernels.{name}")
    except Exception as error:
        warnings.warn(
            f"{package} is installed but cannot be used, so a slower kernel serves: "
            f"{type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True
