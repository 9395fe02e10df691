"""The posterior that a LightningModule's step leaves in ``self.posterior``, and attach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tcdecomp import Posterior, TCDecomposition
from tcdecomp._checks import check_criterion
from tcdecomp.plugins import Attachment

__all__ = ["attach_to_step", "left_posterior"]

_REMEDY = "set self.posterior = (z, mu, logvar), or a Posterior, anew in every training_step"


def left_posterior(module: Any, before: object) -> Posterior | None:
    """Return what the step left in ``module.posterior``, or None if ``before`` is still there.

    Raises
    ------
    TypeError
        If it is neither a Posterior nor a (z, mu, logvar) triple.
    """
    left = getattr(module, "posterior", None)
    if left is None or left is before:
        return None
    if isinstance(left, Posterior):
        return left
    if isinstance(left, tuple | list) and len(left) == 3:
        return Posterior(*left)
    raise TypeError(
        f"{type(module).__name__}.posterior must be a Posterior or a (z, mu, logvar) triple; "
        f"got {type(left).__name__}"
    )


def attach_to_step(module: Any, criterion: TCDecomposition, dataset_size: int | None) -> Attachment:
    """Add the criterion's excess over the plain KL to the loss of the module's training_step.

    The loss that the step itself logs stays the one without.

    Raises
    ------
    ValueError
        If the module optimizes by hand, or the criterion's reduction is not "mean".
    """
    name = type(module).__name__
    if not module.automatic_optimization:
        raise ValueError(
            "model must have automatic_optimization, since attach adds to the loss that "
            f"training_step returns; in {name} call criterion(z, mu, logvar, dataset_size) there"
        )
    check_criterion(criterion, "Lightning")
    return _StepAttachment(module, "training_step", _training_step, criterion, dataset_size)


class _StepAttachment(Attachment):
    """An attachment that is detached in a compiled module, too."""

    def detach(self) -> None:
        # A Trainer wraps the steps of a compiled module, and can put back those before.
        context = getattr(self.model, "_compiler_ctx", None) or {}
        if context.get("original_training_step") is self:
            vars(self.model)["training_step"] = self
            context["original_training_step"] = self.original
        super().detach()


def _training_step(attachment: Attachment, *args: Any, **kwargs: Any) -> Any:
    module = attachment.model
    before = getattr(module, "posterior", None)
    output = attachment.original(*args, **kwargs)
    posterior = left_posterior(module, before)
    if posterior is not None:
        module.posterior = posterior.detach()  # a graph kept on the module breaks deepcopy
    if output is None:  # Lightning skips the step
        return None
    loss = _loss_of(output)
    if posterior is None:
        raise ValueError(
            f"{type(module).__name__}.training_step must leave its posterior, which attach takes "
            f"from there; it left none in this step: {_REMEDY}"
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


def _with_excess(loss: Tensor, attachment: Attachment, posterior: Posterior) -> Tensor:
    excess = attachment.excess(posterior.z, posterior.mu, posterior.logvar)
    criterion = attachment.criterion
    if criterion.alpha == criterion.beta == criterion.gamma == 1:
        return loss  # after the checks, since a schedule may go on
    if loss.requires_grad and not (posterior.z.requires_grad and posterior.mu.requires_grad):
        raise ValueError(
            f"{type(attachment.model).__name__}.posterior must carry its graph for attach to train "
            "it; got detached tensors. Leave z, mu and logvar as the step computed them"
        )
    return loss + excess
