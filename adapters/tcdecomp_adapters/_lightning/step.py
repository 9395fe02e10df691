"""The posterior that a LightningModule's step leaves in ``self.posterior``, and attach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tcdecomp import Posterior, TCDecomposition, hookimpl
from tcdecomp.plugins import Attachment, KLWeight, as_posterior, check_criterion, warn_user
from tcdecomp.scoring import loaders

__all__ = ["criterion_of", "doubt_size", "latest_posterior", "left_posterior", "tcdecomp_attach"]


@hookimpl
def tcdecomp_attach(
    model: Any, criterion: TCDecomposition, dataset_size: int | None
) -> Attachment | None:
    """Add the criterion minus the plain KL to the loss that ``training_step`` returns.

    The loss of the step must contain the KL to the criterion's prior. Its weight there is measured,
    and the addition has the same weight. The step must set ``self.posterior = (z, mu, logvar)``,
    with its graph. What the step itself logs stays the loss without the addition. In several
    processes each takes its own batch, unless the criterion has ``process_group="world"``.

    Raises
    ------
    ValueError
        If the module optimizes by hand, or the criterion's reduction is not "mean".
    """
    if not hasattr(model, "automatic_optimization"):
        return None
    if not model.automatic_optimization:
        raise ValueError(
            "model must have automatic_optimization, since attach adds to the loss that "
            f"training_step returns; in {type(model).__name__} call "
            "criterion(z, mu, logvar, dataset_size) there"
        )
    check_criterion(criterion, "Lightning")
    return _StepAttachment(model, "training_step", _training_step, criterion, dataset_size)


class _StepAttachment(Attachment):
    """An attachment that measures the KL's weight, and can be detached from a compiled module."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.weight = KLWeight()
        self.looked = False

    def detach(self) -> None:
        # A Trainer wraps the steps of a compiled module, and can put back those before.
        context = getattr(self.model, "_compiler_ctx", None) or {}
        if context.get("original_training_step") is self:
            vars(self.model)["training_step"] = self
            context["original_training_step"] = self.original
        super().detach()


def doubt_size(module: Any, size: int | None) -> None:
    """Warn if the module's trainer has a training loader of another number of items."""
    loader = getattr(getattr(module, "_trainer", None), "train_dataloader", None)
    found = loaders.size_of(loader)
    if found not in (None, size):
        warn_user(
            f"dataset_size is {size}, but the training loader draws from {found} items. Pass "
            f"dataset_size={found}, unless its data set repeats items"
        )


def latest_posterior(module: Any) -> Any:
    """Return ``module.posterior``, or else the posterior that the module's attachment keeps."""
    left = getattr(module, "posterior", None)
    return getattr(Attachment.of(module), "posterior", None) if left is None else left


def left_posterior(module: Any, before: object) -> Posterior | None:
    """Return the posterior that the step left, or None if ``before`` is still there."""
    left = latest_posterior(module)
    if left is None or left is before:
        return None
    name = f"{type(module).__name__}.posterior"
    if isinstance(left, Posterior) or (isinstance(left, tuple | list) and len(left) == 3):
        return as_posterior(left, name)
    # Other forms have no z, and a new one would not be that of the step.
    raise TypeError(
        f"{name} must be a (z, mu, logvar) triple or a Posterior; got {type(left).__name__}"
    )


def criterion_of(module: Any) -> TCDecomposition | None:
    """Return the criterion of the module's attachment, or its attribute ``criterion``."""
    for owner in (Attachment.of(module), module):
        if isinstance(criterion := getattr(owner, "criterion", None), TCDecomposition):
            return criterion
    return None


def _training_step(attachment: _StepAttachment, *args: Any, **kwargs: Any) -> Any:
    module = attachment.model
    if not attachment.looked:
        attachment.looked = True
        doubt_size(module, attachment.dataset_size)
    before = latest_posterior(module)
    output = attachment.original(*args, **kwargs)
    posterior = left_posterior(module, before)
    if posterior is not None:
        module.posterior = posterior.detach()  # a graph kept on the module breaks deepcopy
    if output is None:  # Lightning skips the step
        return None
    loss = _loss_of(output)
    if posterior is None:
        raise ValueError(
            f"{type(module).__name__}.training_step must leave its posterior for attach; it left "
            "none in this step: set self.posterior = (z, mu, logvar), or a Posterior, anew in "
            "every training_step"
        )
    total = _with_excess(loss, attachment, posterior)
    return {**output, "loss": total} if isinstance(output, Mapping) else total


def _loss_of(output: object) -> Tensor:
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor):
        raise TypeError(
            "training_step must return a Tensor, a mapping with a Tensor 'loss', or None; "
            f"got {type(output).__name__}"
        )
    return loss


def _with_excess(loss: Tensor, attachment: _StepAttachment, posterior: Posterior) -> Tensor:
    excess = attachment.excess(posterior.z, posterior.mu, posterior.logvar)
    criterion = attachment.criterion
    if criterion.alpha == criterion.beta == criterion.gamma == 1 or not loss.requires_grad:
        return loss  # after the checks, since a schedule may go on
    if not (posterior.z.requires_grad and posterior.mu.requires_grad):
        raise ValueError(
            f"{type(attachment.model).__name__}.posterior must carry its graph for attach to train "
            "it; got detached tensors. Leave z, mu and logvar as the step computed them"
        )
    return loss + attachment.weight.of_posterior(loss, posterior, criterion) * excess
