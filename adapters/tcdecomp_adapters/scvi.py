"""The adapter of ``scvi``: its models, and the modules in them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from scvi.model.base import BaseModelClass
from scvi.module import MULTIVAE, PEAKVAE, TOTALVAE, VAE
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor
from torch.distributions import Normal

from tcdecomp import Posterior, TCDecomposition, hookimpl
from tcdecomp.plugins import Attachment, check_criterion

__all__ = ["tcdecomp_attach", "tcdecomp_encode"]

# The losses that hold kl_weight * KL(qz || N(0, 1)), by their reduction over a batch's rows. A
# subclass that inherits one is served, one that overrides it is not.
_MEAN = (VAE.loss, TOTALVAE.loss, MULTIVAE.loss)
_SUM = (PEAKVAE.loss,)
_LOGGED = ("index_code_mi", "total_correlation", "dimension_wise_kl")


@hookimpl
def tcdecomp_encode(model: Any, batch: Any) -> Posterior | None:
    """Return ``qz`` of the module's inference, and the ``z`` that it has drawn from it.

    Raises
    ------
    TypeError, ValueError
        If the batch is no dictionary of tensors, as scvi's data loaders yield it, or inference
        gives no Normal ``qz`` with a sample ``z``.
    """
    module = _module_of(model)
    if module is None:
        return None
    if not isinstance(batch, Mapping):
        raise TypeError(
            "batch must be a dictionary of tensors, as scvi's data loaders yield them; "
            f"got {type(batch).__name__}"
        )
    return _posterior(module, module.inference(**module._get_inference_input(batch)))


@hookimpl
def tcdecomp_attach(
    model: Any, criterion: TCDecomposition, dataset_size: int | None
) -> Attachment | None:
    """Add the criterion minus the plain KL to the module's loss, times ``kl_weight``.

    The training plan states N, the number of training cells. Each training step logs its terms:
    ``model.history`` has ``index_code_mi_train``, ``total_correlation_train`` and
    ``dimension_wise_kl_train``. Without gradients, as in validation, the loss stays scvi's.

    Raises
    ------
    TypeError
        If the module's loss is not one whose KL is known, as that of SCANVI is not.
    ValueError
        If the criterion has a prior of its own, or a reduction other than "mean"; in a training
        step, if the module's own prior on z is not N(0, 1).
    """
    module = _module_of(model)
    if module is None:
        return None
    if type(module).loss not in (*_MEAN, *_SUM):
        raise TypeError(
            "model must have the loss of VAE, TOTALVAE, MULTIVAE or PEAKVAE, in which the place of "
            f"the KL to N(0, 1) is known; got {type(model).__name__}. In a loss of your own, with "
            "such a KL, take n_obs as an argument and add kl_weight * "
            "criterion.excess_of(z, qz.loc, 2 * qz.scale.log(), n_obs)"
        )
    check_criterion(criterion, "scvi", prior=False)
    _check_untransformed(module)
    signature = _with_n_obs(type(module).loss)
    return Attachment(
        module, "loss", _loss, criterion, dataset_size, stated=True, signature=signature
    )


def _loss(
    attachment: Attachment,
    tensors: Any,
    inference_outputs: Any,
    generative_outputs: Any,
    *,
    kl_weight: Tensor | float = 1.0,
    n_obs: int | None = None,
    **options: Any,
) -> LossOutput:
    output = attachment.original(
        tensors, inference_outputs, generative_outputs, kl_weight=kl_weight, **options
    )
    # Not the module's mode: a second train() of scvi's leaves it in eval. A validation step states
    # the N of the training set, and other callers none.
    if not torch.is_grad_enabled():
        return output
    _check_prior(attachment.model, generative_outputs)
    posterior = _posterior(attachment.model, inference_outputs)
    terms = attachment.decompose(posterior.z, posterior.mu, posterior.logvar, n_obs)
    rows = len(posterior.mu) if type(attachment.model).loss in _SUM else 1
    logged = {name: getattr(terms, name).detach() for name in _LOGGED}
    return replace(
        output,
        loss=output.loss + rows * kl_weight * attachment.criterion.excess(terms),
        extra_metrics={**output.extra_metrics, **logged},
    )


def _module_of(model: Any) -> BaseModuleClass | None:
    module = getattr(model, "module", None) if isinstance(model, BaseModelClass) else model
    return module if isinstance(module, BaseModuleClass) else None


def _with_n_obs(loss: Any) -> inspect.Signature:
    """Return a method's signature with ``n_obs`` added, so that the training plan passes N."""
    signature = inspect.signature(loss)
    _, *parameters = signature.parameters.values()  # but self
    n_obs = inspect.Parameter("n_obs", inspect.Parameter.KEYWORD_ONLY, default=None)
    return signature.replace(parameters=[*parameters, n_obs])


def _posterior(module: BaseModuleClass, outputs: Mapping[str, Any]) -> Posterior:
    _check_untransformed(module)
    qz: Any = outputs.get("qz")
    if "qz_m" in outputs:  # MULTIVAE's way
        qz = Normal(outputs["qz_m"], outputs["qz_v"].sqrt())
    try:
        return Posterior.from_normal(qz, outputs.get("z"))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{type(module).__name__}.inference must give a Normal qz of shape (M, D), and a "
            f"sample z of it: {error}"
        ) from error


def _check_prior(module: BaseModuleClass, outputs: Mapping[str, Any]) -> None:
    """Refuse a pz that is not N(0, 1), if the loss uses it; other losses have N(0, 1) inside."""
    pz = outputs.get("pz")
    standard = isinstance(pz, Normal) and not pz.loc.any() and bool((pz.scale == 1).all())
    if type(module).loss is VAE.loss and not standard:
        raise ValueError(
            f"{type(module).__name__}.generative must give pz = Normal(0, 1), the prior of the "
            f"terms; got {pz}"
        )


def _check_untransformed(module: BaseModuleClass) -> None:
    kind = getattr(module, "latent_distribution", "normal")
    if kind != "normal":
        raise ValueError(
            f'{type(module).__name__} must have latent_distribution="normal", for z to be a sample '
            f"of qz; got {kind!r}"
        )
