"""The prior p(z) = prod_j p(z_j): the standard normal, or any factorised torch Distribution.

A prior may differ by item, as p(z|c) of a conditional VAE. MI and TC do not depend on the prior.
The third term is then E_n[sum_j log q(z_j) - log p(z|n)], against each item's own prior, and may
be negative.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, constraints, kl_divergence

from tcdecomp._checks import refuse_class
from tcdecomp.posterior import Posterior, log_normal

__all__ = [
    "Prior",
    "check_kl",
    "check_prior",
    "closed_form_kl",
    "closed_form_kl_j",
    "differs_by_item",
    "factors_of",
    "log_prior",
]

Prior = Distribution | Callable[[], Distribution] | None


def check_prior(prior: Prior) -> None:
    """Refuse what cannot be a prior.

    Raises
    ------
    TypeError
        If the prior is not None, a Distribution or a callable.
    """
    refuse_class("prior", prior)
    if prior is not None and not isinstance(prior, Distribution) and not callable(prior):
        raise TypeError(
            "prior must be None (standard normal), a torch Distribution or a callable that "
            f"returns one; got {type(prior).__name__}"
        )


def factors_of(prior: Prior, posterior: Posterior) -> Distribution | None:
    """Return the prior's one-dimensional factors, of batch shape (), (1,), (D,), (1, D) or (M, D).

    Raises
    ------
    TypeError
        If a callable returned something else than a Distribution.
    ValueError
        If the prior does not factorise over D dimensions, is not a density on the real numbers,
        lies on another device or has parameters of half precision.
    """
    check_prior(prior)
    if prior is None:
        return None
    factors = prior if isinstance(prior, Distribution) else prior()
    if not isinstance(factors, Distribution):
        raise TypeError(
            f"prior must return a torch Distribution when called; got {type(factors).__name__}"
        )
    while isinstance(factors, Independent):
        factors = factors.base_dist
    _check_factors(factors, posterior)
    return factors


def _check_factors(factors: Distribution, posterior: Posterior) -> None:
    rows, dim = posterior.mu.shape
    shape = tuple(factors.batch_shape)
    got = f"{type(factors).__name__} with batch shape {shape} and event shape"
    if factors.event_shape:
        raise ValueError(
            f"prior must factorise over the D = {dim} latent dimensions, like Normal with batch "
            f"shape ({dim},); got {got} {tuple(factors.event_shape)}"
        )
    if shape not in {(), (1,), (dim,), (1, dim), (rows, dim)}:
        raise ValueError(
            f"prior must have batch shape ({dim},), or ({rows}, {dim}) for a prior of each row; "
            f"got {got} ()"
        )
    if not _covers_the_line(factors):
        raise ValueError(
            f"prior must have a density on all real numbers, as z has; got {type(factors).__name__}"
        )
    for parameter in vars(factors).values():
        if isinstance(parameter, Tensor) and parameter.dim() and parameter.is_floating_point():
            _check_parameter(parameter, posterior)


def _check_parameter(parameter: Tensor, posterior: Posterior) -> None:
    if parameter.device != posterior.z.device:
        raise ValueError(
            f"prior must be on the device of z, {posterior.z.device}; got {parameter.device}. "
            "A module that returns the prior follows .to(device)"
        )
    if parameter.dtype.itemsize < 4:
        raise ValueError(
            f"prior must have parameters of float32 or float64; got {parameter.dtype}. A module "
            "that returns the prior can raise them there"
        )


def _covers_the_line(factors: Distribution) -> bool:
    try:
        support = factors.support
    except NotImplementedError:
        return True  # the distribution does not say
    support = getattr(support, "base_constraint", support)  # a mixture's
    return support is None or isinstance(support, type(constraints.real))


def differs_by_item(factors: Distribution | None) -> bool:
    """Tell whether there is a prior for each item, of batch shape (M, D)."""
    return factors is not None and factors.batch_shape[:-1].numel() > 1


def log_prior(factors: Distribution | None, z: Tensor) -> Tensor:
    """Return log p(z), shape (..., M), in nats."""
    if factors is None:
        zero = z.new_zeros(())
        return log_normal(z, zero, zero).sum(-1)
    return factors.log_prob(z).sum(-1).to(z.dtype)


def closed_form_kl(factors: Distribution | None, posterior: Posterior) -> Tensor:
    """Return KL(q(z|n) || p(z)), shape (M,), in nats; errors are those of the one by dimension."""
    return closed_form_kl_j(factors, posterior).sum(1)


def closed_form_kl_j(factors: Distribution | None, posterior: Posterior) -> Tensor:
    """Return KL(q(z_j|n) || p(z_j)), shape (M, D), in nats.

    Raises
    ------
    ValueError
        If torch has no closed form for this prior.
    """
    mu, logvar = posterior.mu, posterior.logvar
    if factors is None:
        # expm1 keeps the digits of a collapsed dimension, whose logvar is almost 0.
        return 0.5 * (mu.square() + torch.expm1(logvar) - logvar)
    normal = Normal(mu, (0.5 * logvar).exp(), validate_args=False)
    try:
        return kl_divergence(normal, factors).to(mu.dtype)
    except NotImplementedError:
        raise ValueError(
            "prior must have a closed-form KL from a Normal in torch.distributions when "
            f'kl="closed"; {type(factors).__name__} has none. decompose and TCDecomposition take '
            'kl="sampled"'
        ) from None


def check_kl(kl: Tensor, posterior: Posterior) -> None:
    """Raise a ValueError that names the row whose KL, shape (..., M), overflows."""
    if not (finite := kl.isfinite()).all():
        row = int((~finite).nonzero()[0, -1])
        mu, logvar = posterior.mu[row].detach(), posterior.logvar[row].detach()
        column = int(torch.maximum(logvar, 2 * mu.abs().log()).argmax())
        raise ValueError(
            f"logvar and mu must have a KL to the prior that is finite in {kl.dtype}; got logvar "
            f"{logvar[column].item():.4g} and mu {mu[column].item():.4g} at row {row}, column "
            f"{column}. Clamp logvar in the encoder, or pass float64"
        )
