"""The aggregate posterior's log-densities: log-sums of its components, and their weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tcdecomp import kernels
from tcdecomp.kernels import Components, Kernel, LogSums
from tcdecomp.posterior import Posterior

__all__ = ["log_mixture", "mean_log_mixture"]


def log_mixture(sums: LogSums, own: float, other: float) -> tuple[Tensor, Tensor]:
    """Weigh log-sums into the estimated log q(z), shape (M,), and log q(z_j), shape (M, D).

    Parameters
    ----------
    sums : LogSums
        Log-sums at M points.
    own, other : float
        Weight of a point's own component, and of each other; see
        :mod:`tcdecomp.minibatch.estimators`.
    """
    log_own, log_other = _log(own), _log(other)
    return (
        torch.logaddexp(sums.own + log_own, sums.others + log_other),
        torch.logaddexp(sums.own_j + log_own, sums.others_j + log_other),
    )


def mean_log_mixture(
    posterior: Posterior,
    weights: tuple[float, float],
    *,
    joint: float,
    marginal: float,
    kernel: Kernel = "auto",
) -> Tensor:
    """Return ``joint * mean_i log q(z_i) + marginal * mean_i sum_j log q(z_ij)`` of a batch."""
    components = Components(posterior.mu, posterior.logvar)
    log_own, log_other = map(_log, weights)
    return kernels.mean_log_mixture(
        posterior.z, components, log_own, log_other, joint=joint, marginal=marginal, kernel=kernel
    )


def _log(weight: float) -> float:
    return math.log(weight) if weight > 0 else -math.inf
