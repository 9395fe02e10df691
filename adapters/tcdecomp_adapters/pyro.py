"""The adapter of ``pyro``: attach to a TraceMeanField_ELBO, whose loss is a sum over a plate."""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer import ELBO, SVI, JitTraceMeanField_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBOModule
from torch import Tensor

from tcdecomp import Posterior, TCDecomposition, hookimpl
from tcdecomp.plugins import Attachment, check_criterion

__all__ = ["tcdecomp_attach"]


@hookimpl
def tcdecomp_attach(
    model: Any, criterion: TCDecomposition, dataset_size: int | None
) -> Attachment | None:
    """Add the criterion minus the plain KL to the loss of an ELBO, at pyro's own scale.

    The guide must have one latent site, ``Normal(mu, scale).to_event(1)`` in one plate, and its
    prior in the model must be ``Normal(0, 1).to_event(1)``. Pyro's loss is a sum over the plate,
    times the site's scale (N / M if the plate subsamples, the weight of ``poutine.scale``); so is
    what is added. A plate that subsamples states N.

    Raises
    ------
    TypeError
        If the model is of pyro's inference, but not a TraceMeanField_ELBO.
    ValueError
        If the criterion has a prior of its own, or a reduction other than "mean".
    """
    if not isinstance(model, ELBO | ELBOModule | SVI):
        return None
    if not isinstance(model, TraceMeanField_ELBO) or isinstance(model, JitTraceMeanField_ELBO):
        raise TypeError(
            "model must be the TraceMeanField_ELBO that computes the loss, which has the KL in "
            f"closed form, and not a Jit one; got {type(model).__name__}"
        )
    check_criterion(criterion, "pyro", prior=False)
    return Attachment(
        model, "_differentiable_loss_particle", _loss, criterion, dataset_size, stated=True
    )


def _loss(attachment: Attachment, model_trace: Any, guide_trace: Any) -> tuple[Any, Any]:
    """Return the loss and the surrogate that is differentiated, each with the excess."""
    loss, surrogate = attachment.original(model_trace, guide_trace)
    site = _latent(model_trace, guide_trace)
    posterior = _posterior(site)
    _check_prior(model_trace.nodes[site["name"]], posterior)
    mean = attachment.excess(posterior.z, posterior.mu, posterior.logvar, _stated_size(site))
    excess = (mean.expand(len(posterior.mu)) * site["scale"]).sum()
    return loss + excess.item(), surrogate + excess


def _latent(model_trace: Any, guide_trace: Any) -> dict[str, Any]:
    """Return the one latent site of the guide."""
    sites: list[dict[str, Any]] = [
        site
        for name, site in guide_trace.nodes.items()
        if site["type"] == "sample" and name in model_trace.nodes
    ]
    if len(sites) != 1:
        raise ValueError(f"the guide must have one latent site; got {[s['name'] for s in sites]}")
    return sites[0]


def _posterior(site: dict[str, Any]) -> Posterior:
    """Return the guide's posteriors."""
    must = f"site {site['name']!r} of the guide must be Normal(mu, scale).to_event(1) in one plate"
    plates = [frame.name for frame in site["cond_indep_stack"]]
    dims = len(site["fn"].event_shape)
    if len(plates) != 1 or dims != 1:
        raise ValueError(f"{must}; got {dims} event dimensions, in the plates {plates}")
    if site["mask"] is not None or torch.as_tensor(site["scale"]).numel() != 1:
        raise ValueError(f"{must}, with one scale for all rows and no mask; got others")
    return _normal(site, site["value"], must)


def _check_prior(site: dict[str, Any], posterior: Posterior) -> None:
    must = f"site {site['name']!r} of the model must be Normal(0, 1).to_event(1)"
    prior = _normal(site, posterior.z, must)
    if prior.mu.any() or prior.logvar.any():
        raise ValueError(f"{must}, the criterion's prior; got another mean or scale")


def _normal(site: dict[str, Any], z: Tensor, must: str) -> Posterior:
    try:
        return Posterior.from_normal(site["fn"], z)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{must}: {error}") from error


def _stated_size(site: dict[str, Any]) -> int | None:
    """Return the size of a plate that subsamples; else the plate may be as large as the batch."""
    (plate,) = site["cond_indep_stack"]
    return None if plate.full_size in (None, plate.size) else int(plate.full_size)
