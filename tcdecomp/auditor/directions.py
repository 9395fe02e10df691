"""Directions along which a gradient can be told from a wrong one, whatever of it is detached.

The answers depend on mu and logvar in three places: in log q(z|n), in the own component of the
mixture, and in its other components. Code may detach or damp any of them and be right in
expectation. Along a direction in which all three have the same slope, what is left of the slope has
its sign, and is no larger.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tcdecomp.auditor.forms import MATRICES
from tcdecomp.auditor.probes import Probe
from tcdecomp.posterior import log_normal

__all__ = ["directions"]


def directions(probe: Probe) -> Tensor:
    """Return a direction for each answer and each of z, mu and logvar, shape (3, 3, M, D).

    The answers are those of symmetric MSS to the positive sign of the noise. No entry of a
    direction is above 1.
    """
    size, _ = probe.shape
    pairs = [tensor.expand(size, size, -1) for tensor in (probe.mu, probe.logvar)]
    inputs = (next(probe.samples()), probe.mu, probe.logvar, *pairs)
    leaves = [tensor.double().clone().requires_grad_() for tensor in inputs]
    log_weights = MATRICES["symmetric MSS"](size, probe.dataset_size).log()
    return torch.stack(
        [
            _directions(
                *torch.autograd.grad(term, leaves, retain_graph=True, materialize_grads=True)
            )
            for term in _terms(log_weights, *leaves)
        ]
    )


def _terms(
    log_weights: Tensor, z: Tensor, mu: Tensor, logvar: Tensor, pair_mu: Tensor, pair_logvar: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the terms, with parameters of their own, (point, component, D), in the mixture."""
    density = log_normal(z[:, None], pair_mu, pair_logvar)
    log_qz_n = log_normal(z, mu, logvar).sum(1)
    log_qz = torch.logsumexp(density.sum(2) + log_weights, 1)
    log_product = torch.logsumexp(density + log_weights[:, :, None], 1).sum(1)
    log_pz = log_normal(z, torch.zeros_like(z), torch.zeros_like(z)).sum(1)
    return (log_qz_n - log_qz).mean(), (log_qz - log_product).mean(), (log_product - log_pz).mean()


def _directions(z: Tensor, mu: Tensor, logvar: Tensor, *pairs: Tensor) -> Tensor:
    """Return the directions for z, mu and logvar, given the gradients of one term."""
    shifts = [z, _balanced(mu, pairs[0]), _balanced(logvar, pairs[1])]
    return torch.stack([shift / shift.abs().max() for shift in shifts])


def _balanced(own: Tensor, pairs: Tensor) -> Tensor:
    """Return the shortest direction along which all parts of the gradient that are, slope alike."""
    diagonal = pairs.diagonal(dim1=0, dim2=1).T
    parts = torch.stack([own, diagonal, pairs.sum(0) - diagonal]).flatten(1)
    return parts.pinverse().sum(1).view_as(own)
