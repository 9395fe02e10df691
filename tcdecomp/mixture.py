"""The aggregate posterior's log-densities: log-sums of its components, and their weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tcdecomp.kernels import LogSums

__all__ = ["log_mixture"]


def log_mixture(sums: LogSums, own: float, other: float) -> tuple[Tensor, Tensor]:
    """Weigh log-sums into the estimated log q(z), shape (M,), and log q(z_j), shape (M, D).

    Parameters
    ----------
    sums : LogSums
        Log-sums at M points.
    own, other : float
        Weight of a point's own component, and of each other; see :mod:`tcdecomp.estimators`.
    """
    log_own, log_other = _log(own), _log(other)
    return (
        torch.logaddexp(sums.own + log_own, sums.others + log_other),
        torch.logaddexp(sums.own_j + log_own, sums.others_j + log_other),
    )


def _log(weight: float) -> float:
    return math.log(weight) if weight > 0 else -math.inf
