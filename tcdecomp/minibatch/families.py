r"""Posteriors of any factorised family, in one part or in several.

The terms need only log q(z_ij | component k) of a posterior. A torch Distribution of batch shape
(M, D) gives it for all points i and components k by broadcasting, in memory for O(M^2 D).

A latent is one *event* of the distribution: a number, or a vector where the family has vectors,
such as the relaxed categorical. Parts that are independent of each other given x,
q(z|n) = q(z_1|n) q(z_2|n), are further latents, each of its own family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex

import torch
from torch import Tensor, inf
from torch.distributions import Distribution, kl_divergence

from tcdecomp._autocast import no_autocast
from tcdecomp._checks import check_finite, checked_size
from tcdecomp.minibatch.estimators import Estimator, Weights
from tcdecomp.minibatch.latents import Part, is_discrete, lies_in_support, parts_of, saturates
from tcdecomp.minibatch.options import KL, Options, Reduction
from tcdecomp.priors import Prior
from tcdecomp.terms import Terms

__all__ = ["decompose_family"]


def decompose_family(
    z: Tensor | Sequence[Tensor],
    posterior: Distribution | Sequence[Distribution],
    dataset_size: SupportsIndex,
    *,
    prior: Prior | Sequence[Prior] = None,
    estimator: str | Weights = "mss",
    kl: KL = "closed",
    reduction: Reduction = "mean",
    validate: bool = True,
) -> Terms:
    """Estimate the terms of one batch whose posterior is any factorised torch Distribution.

    Differentiable where z is reparameterised and continuous; other posteriors have values only.
    ``TCDecomposition.weigh`` makes the loss of the terms. Autocast is off in the forward; half
    precision of z is raised to float32.

    Parameters
    ----------
    z : Tensor or sequence, of shape (M, D) and the shape of an event
        A sample of the posterior, or of each part. With a further first dimension, K samples, over
        which the terms are averaged.
    posterior : Distribution or sequence
        Of batch shape (M, D), or an ``Independent`` one of batch shape (M,) around it. Several
        distributions are the parts of one latent code, independent of each other given x.
        Parameters are float32 or float64.
    dataset_size : int
        N, as in :func:`tcdecomp.decompose`.
    prior : Distribution, callable or sequence, optional
        A prior that factorises over the D latents, of batch shape (), (1,), (D,) or (1, D), or a
        callable that returns it; one for each part. None is the standard normal, for latents that
        are real numbers.
    estimator, kl, reduction
        As in :func:`tcdecomp.decompose`.
    validate : bool
        Whether to refuse z outside of the support or equal to the mean, log-densities that are
        not finite, and a support that differs between items. The look waits for an accelerator;
        under ``torch.compile`` there is no look. ``validate_args`` of a distribution sets what it
        looks at itself.

    Returns
    -------
    Terms
        The three terms and the KL, in nats.

    Raises
    ------
    TypeError
        If an argument has the wrong type. A part that is a function of another part's sample is no
        Distribution.
    ValueError
        If the posterior or the prior does not factorise, shapes, supports or devices do not go
        together, a gradient is wanted of a z that has none, or where
        :func:`tcdecomp.decompose` raises it.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import Laplace
    >>> from tcdecomp import TCDecomposition, decompose_family
    >>> _ = torch.manual_seed(0)
    >>> loc = torch.randn(64, 4, requires_grad=True)
    >>> posterior, prior = Laplace(loc, 0.3), Laplace(0.0, 1.0)
    >>> terms = decompose_family(posterior.rsample(), posterior, 10_000, prior=prior)
    >>> loss = TCDecomposition(beta=6).weigh(terms)
    >>> loss.backward()
    """
    options = Options(estimator, None, kl, reduction, None, validate, "dense")
    if samples := _samples(z, posterior):
        priors = [part.prior for part in parts_of(posterior, samples[0], prior)]  # called once
        common: Any = {
            "prior": priors if isinstance(posterior, list | tuple) else priors[0],
            "estimator": estimator,
            "reduction": reduction,
            "validate": validate,
        }
        # The closed form does not depend on the sample
        forms = [kl, *["sampled"] * (len(samples) - 1)]
        results = [
            decompose_family(sample, posterior, dataset_size, kl=form, **common)  # type: ignore[arg-type]
            for sample, form in zip(samples, forms, strict=True)
        ]
        terms = zip(*(result[:3] for result in results), strict=True)
        mi, tc, dimension_wise_kl = (torch.stack(term).mean(0) for term in terms)
        return Terms(mi, tc, dimension_wise_kl, results[0].kl)
    parts = parts_of(posterior, z, prior)
    size = checked_size(dataset_size, len(parts[0].z))
    look = options.looks_at(parts[0].z)
    with no_autocast(parts[0].z.device):
        logs = torch.cat([_log_densities(part, look) for part in parts], -1)
        log_pz = torch.cat([_log_prior(part, look) for part in parts], -1).sum(1)
        log_qz_n, log_qz, log_product = _log_mixture(logs, options.estimate, size)
        closed = [_closed_form_kl(part) for part in parts] if kl == "closed" else []
    kls = torch.cat(closed, -1).sum(1) if closed else None
    per_item = Terms.from_log_densities(log_qz_n, log_qz, log_product, log_pz, kls)
    return per_item.map(options.reduce)


def _samples(z: Any, posterior: Any) -> list[Any] | None:
    """Return the K samples, if z has one dimension more than a sample of the posterior."""
    if isinstance(posterior, list | tuple) and isinstance(z, list | tuple):
        parts = [_samples(*part) for part in zip(z, posterior, strict=False)]
        known = [part for part in parts if part is not None]
        if not parts or len(known) < len(parts):
            return None
        if len(counts := {len(part) for part in known}) > 1:
            raise ValueError(
                f"z must have equally many samples in every part; got {sorted(counts)}"
            )
        return list(zip(*known, strict=True))
    if not isinstance(z, Tensor) or not isinstance(posterior, Distribution):
        return None
    return list(z) if z.shape[1:] == posterior.batch_shape + posterior.event_shape else None


def _log_mixture(logs: Tensor, estimator: Estimator, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return log q(z|n), log q(z) and sum_j log q(z_j), shape (M,), from all pairs' (M, M, D)."""
    logs = torch.cat([logs, logs.sum(-1, keepdim=True)], -1)  # the joint is the last
    own = logs.diagonal(dim1=0, dim2=1).T
    is_own = torch.eye(len(own), dtype=torch.bool, device=own.device)
    mixture = estimator.of_pairs(own, logs.masked_fill(is_own[..., None], -inf), size)
    return own[:, -1], mixture[:, -1], mixture[:, :-1].sum(1)


def _log_densities(part: Part, look: bool) -> Tensor:
    """Return log q(z_ij | component k), in places i, k, j of a tensor of shape (M, M, D)."""
    posterior, z, _, label = part
    pairs = z.unsqueeze(1)
    if look:
        _check_support("posterior", part, posterior)
        if not lies_in_support(pairs, posterior):
            raise ValueError(
                f"posterior{label} must have one support for all items; got "
                f"{type(posterior).__name__}, whose parameters bound it"
            )
        _check_sample(part)
    logs = posterior.log_prob(pairs)
    if logs.shape != (len(z), *posterior.batch_shape):
        raise ValueError(
            f"posterior{label}.log_prob must broadcast (M, 1, D) values to shape (M, M, D); got "
            f"{tuple(logs.shape)} from {type(posterior).__name__}"
        )
    if look:
        own = logs.detach().diagonal(dim1=0, dim2=1).T
        check_finite(f"the log-density of z{label} under posterior{label}", own)
    if logs.requires_grad and (is_discrete(posterior) or not z.requires_grad):
        raise ValueError(
            f"z{label} must be continuous and drawn by rsample() where a gradient is wanted; got a "
            f"sample of {type(posterior).__name__} without one. Under torch.no_grad() there are "
            "the values"
        )
    return logs


def _log_prior(part: Part, look: bool) -> Tensor:
    """Return log p(z_j), shape (M, D)."""
    if look:
        _check_support("prior", part, part.prior)
    log_pz = part.prior.log_prob(part.z)
    if look:
        name = f"the log-density of z{part.label} under prior{part.label}"
        check_finite(name, log_pz.detach())
    return log_pz


def _closed_form_kl(part: Part) -> Tensor:
    """Return KL(q(z_j|n) || p(z_j)), shape (M, D)."""
    try:
        # Some of torch's formulas do not broadcast.
        return kl_divergence(part.posterior, part.prior.expand(part.posterior.batch_shape))
    except NotImplementedError:
        raise ValueError(
            f"prior{part.label} must have a closed-form KL from the posterior in "
            f'torch.distributions when kl="closed"; {type(part.posterior).__name__} and '
            f'{type(part.prior).__name__} have none. kl="sampled" does without'
        ) from None
    except RuntimeError as error:  # as of categories that are not as many
        raise ValueError(f"prior{part.label} must fit posterior{part.label}: {error}") from error


def _check_support(name: str, part: Part, distribution: Distribution) -> None:
    if not lies_in_support(part.z, distribution):
        raise ValueError(
            f"z{part.label} must lie in the support of {name}{part.label}, "
            f"a {type(distribution).__name__}"
        )


def _check_sample(part: Part) -> None:
    posterior, z, _, label = part
    if is_discrete(posterior):
        return
    if saturates(z, posterior):
        raise ValueError(
            f"z{label} must not be rounded to the bounds of posterior{label}, where its density is "
            f"lost; got a {type(posterior).__name__} sample at 0 or 1 in {z.dtype}. "
            "LogitRelaxedBernoulli, for posterior, z and prior, has the same terms without rounding"
        )
    try:
        mean, deviation = posterior.mean, posterior.stddev
    except NotImplementedError:
        return  # nobody can have taken it for a sample
    visible = deviation > torch.finfo(z.dtype).eps * mean.abs()
    if torch.equal(z, mean.to(z.dtype)) and visible.any():
        raise ValueError(
            f"z{label} must be a sample of posterior{label}; got its mean, as a VAE in eval mode "
            "returns it. Draw one with rsample()"
        )
