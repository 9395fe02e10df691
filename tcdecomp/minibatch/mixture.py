"""The aggregate posterior's log-densities: log-sums of its components, and their weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tcdecomp.kernels import Kernel, LogSums, log_sums, operators
from tcdecomp.kernels.components import Components
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
    """Return ``joint * mean_i log q(z_i) + marginal * mean_i sum_j log q(z_ij)`` of a batch.

    That is all that a mean-reduced loss needs of the mixture, and what the one-pass kernel gives
    together with its gradient.
    """
    z, mu, logvar = posterior.z, posterior.mu, posterior.logvar
    trained = torch.is_grad_enabled() and any(t.requires_grad for t in (z, mu, logvar))
    one_pass = trained and kernel != "dense" and 0 not in weights
    # torch.compile cannot look into the one-pass kernel, and Triton has none.
    if not one_pass or torch.compiler.is_compiling() or operators.triton_serves(z):
        sums = log_sums(z, Components(mu, logvar), kernel=kernel)
        log_qz, log_qz_j = log_mixture(sums, *weights)
        return joint * log_qz.mean() + marginal * log_qz_j.sum(1).mean()
    log_own, log_other = map(math.log, weights)
    return operators.differentiable_mean_log_mixture(
        z, mu, logvar, log_own, log_other, joint, marginal
    )


def _log(weight: float) -> float:
    return math.log(weight) if weight > 0 else -math.inf
