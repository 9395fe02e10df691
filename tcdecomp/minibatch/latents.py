"""What a posterior of any family, its sample and its prior must be to go together.

A latent is one *event* of a distribution: a number, or a vector where the family has vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, constraints
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import SigmoidTransform

from tcdecomp._autocast import no_autocast
from tcdecomp.priors import Prior, check_prior

__all__ = ["Part", "is_discrete", "lies_in_support", "parts_of", "saturates"]


class Part(NamedTuple):
    """D latents of one family.

    Attributes
    ----------
    posterior : Distribution
        Of batch shape (M, D).
    z : Tensor, shape (M, D) and that of an event
        Its sample, in float32 or float64 where it has fractions.
    prior : Distribution
        With events of the same shape, and batch shape (), (1,), (D,) or (1, D).
    label : str
        What errors have behind an argument's name: the number of the part, in brackets.
    """

    posterior: Distribution
    z: Tensor
    prior: Distribution
    label: str = ""


def parts_of(posterior: Any, z: Any, prior: Any) -> list[Part]:
    """Return the parts of a posterior; parameters and errors are those of ``decompose_family``."""
    if not isinstance(posterior, list | tuple):
        return [_part(posterior, z, prior)]
    if prior is None:
        prior = [None] * len(posterior)
    for name, given in (("z", z), ("prior", prior)):
        count = len(given) if isinstance(given, list | tuple) else type(given).__name__
        if count != len(posterior) or count == 0:
            raise ValueError(
                f"posterior and {name} must be sequences of as many parts, at least one; got "
                f"{len(posterior)} and {count}"
            )
    triples = zip(posterior, z, prior, strict=True)
    parts = [_part(*triple, f"[{i}]") for i, triple in enumerate(triples)]
    rows = len(parts[0].z)
    for part in parts:
        if len(part.z) != rows:
            raise ValueError(
                f"posterior{part.label} must have M = {rows} rows, as posterior[0] has; "
                f"got {len(part.z)}"
            )
        _check_device(f"z{part.label}", part.z, parts[0].z)
    return parts


def is_discrete(distribution: Distribution) -> bool:
    """Tell whether log_prob is of a mass, not of a density."""
    support = _support(distribution)
    return support is not None and support.is_discrete


def lies_in_support(z: Tensor, distribution: Distribution) -> bool:
    """Tell whether all values do, as far as the distribution says; it waits for an accelerator."""
    support = _support(distribution)
    return support is None or bool(support.check(z).all())  # type: ignore[no-untyped-call]


def saturates(z: Tensor, distribution: Distribution) -> bool:
    """Tell whether a value was cut off where torch's sigmoid is; it waits for an accelerator."""
    last = distribution
    while transforms := getattr(last, "transforms", None) or getattr(last, "parts", None):
        last = transforms[-1]
    if not isinstance(last, SigmoidTransform):
        return False
    limits = torch.finfo(z.dtype)
    return bool(((z <= limits.tiny) | (z >= 1 - limits.eps)).any())


def _part(posterior: Any, z: Any, prior: Any, label: str = "") -> Part:
    if not isinstance(posterior, Distribution):
        raise TypeError(
            f"posterior{label} must be a torch Distribution; got {type(posterior).__name__}. A "
            "part that depends on another's sample, q(z2|x, z1), is not served: parts are "
            "independent of each other given x"
        )
    latents = _latents(posterior, label)
    if not isinstance(z, Tensor):
        raise TypeError(f"z{label} must be a torch.Tensor; got {type(z).__name__}")
    shape = latents.batch_shape + latents.event_shape
    if z.shape != shape:
        raise ValueError(
            f"z{label} must have shape {tuple(shape)}, as a sample of posterior{label} has; "
            f"got {tuple(z.shape)}"
        )
    if z.is_floating_point():
        z = z.to(torch.promote_types(z.dtype, torch.float32))
    factors = _factors(prior, latents, z, label)
    _check_parameters(f"posterior{label}", latents, z)
    _check_parameters(f"prior{label}", factors, z)
    return Part(latents, z, factors, label)


def _latents(posterior: Distribution, label: str) -> Distribution:
    """Return the posterior with its latents in its batch, of shape (M, D)."""
    latents = posterior
    while isinstance(latents, Independent) and len(latents.batch_shape) < 2:
        latents = latents.base_dist
    if len(latents.batch_shape) != 2 or 0 in latents.batch_shape:
        raise ValueError(
            f"posterior{label} must factorise over D latents, with batch shape (M, D) and "
            f"M, D >= 1; got {_describe(posterior)}. Numbers that depend on each other given x "
            "may be one latent: batch shape (M, 1), with them as the event"
        )
    return latents


def _factors(prior: Prior, latents: Distribution, z: Tensor, label: str) -> Distribution:
    """Return the prior of each latent."""
    check_prior(prior)
    if prior is None:
        real = isinstance(_range(_support(latents)), type(constraints.real))
        if latents.event_shape or not real:
            raise ValueError(
                f"prior{label} must be given for a {type(latents).__name__} posterior; None is the "
                "standard normal, of real numbers"
            )
        zero = torch.zeros((), dtype=z.dtype, device=z.device)
        return Normal(zero, zero + 1, validate_args=False)
    with no_autocast(z.device):
        factors = prior if isinstance(prior, Distribution) else prior()
    if not isinstance(factors, Distribution):
        raise TypeError(
            f"prior{label} must return a torch Distribution when called; "
            f"got {type(factors).__name__}"
        )
    while isinstance(factors, Independent) and len(factors.event_shape) > len(latents.event_shape):
        factors = factors.base_dist
    dim, event = latents.batch_shape[1], latents.event_shape
    shapes = {(), (1,), (dim,), (1, dim)}
    if factors.event_shape != event or tuple(factors.batch_shape) not in shapes:
        raise ValueError(
            f"prior{label} must factorise over the D = {dim} latents of posterior{label}, with "
            f"batch shape ({dim},) or () and event shape {tuple(event)}; got {_describe(factors)}. "
            "Under a prior that does not factorise there are MI and KL(q(z)||p(z)) only: make all "
            "of z one latent, of batch shape (M, 1)"
        )
    if not _covers(factors, latents):
        raise ValueError(
            f"prior{label} must have a density, or a mass, wherever posterior{label} has; got "
            f"{type(factors).__name__} for {type(latents).__name__}"
        )
    return factors


def _covers(prior: Distribution, posterior: Distribution) -> bool:
    """Tell whether both are densities, or masses, and the prior's bounds are no narrower."""
    wide, narrow = _support(prior), _support(posterior)
    if wide is None or narrow is None:
        return True  # the distribution does not say
    (low, high), (own_low, own_high) = _bounds(wide), _bounds(narrow)
    inside = [torch.as_tensor(low <= own_low), torch.as_tensor(own_high <= high)]
    return wide.is_discrete == narrow.is_discrete and all(bool(fits.all()) for fits in inside)


def _range(support: Constraint | None) -> Constraint | None:
    """Return where one number may lie."""
    # A mixture's, or that of independent numbers, is around it.
    while (inner := getattr(support, "base_constraint", None)) is not None:
        support = inner
    return support


def _bounds(support: Constraint) -> tuple[float | Tensor, float | Tensor]:
    numbers = _range(support)
    return getattr(numbers, "lower_bound", -math.inf), getattr(numbers, "upper_bound", math.inf)


def _support(distribution: Distribution) -> Constraint | None:
    try:
        return distribution.support
    except NotImplementedError:
        return None


def _check_parameters(name: str, distribution: Distribution, z: Tensor) -> None:
    for parameter in _tensors(distribution):
        if parameter.dim():
            _check_device(name, parameter, z)
        if parameter.is_floating_point() and parameter.dtype.itemsize < 4:
            raise ValueError(
                f"{name} must have parameters of float32 or float64; got {parameter.dtype}. Raise "
                "them before the distribution is made"
            )


def _check_device(name: str, tensor: Tensor, z: Tensor) -> None:
    if tensor.device != z.device:
        raise ValueError(f"{name} must be on the device of z, {z.device}; got {tensor.device}")


def _tensors(distribution: Distribution) -> Iterator[Tensor]:
    for value in vars(distribution).values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Distribution):
            yield from _tensors(value)


def _describe(distribution: Distribution) -> str:
    return (
        f"{type(distribution).__name__} with batch shape {tuple(distribution.batch_shape)} and "
        f"event shape {tuple(distribution.event_shape)}"
    )
