"""The adapter of ``torch``: modules with a method ``encode`` or ``kl_loss`` of their own.

``encode(batch)`` returns the posteriors of a batch, as (mu, logvar), a torch Normal or a Posterior.
``kl_loss(z, mu, logvar)`` is the KL term that the model's loss calls.
"""

from __future__ import annotations

import inspect
import math
import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tcdecomp import Posterior, TCDecomposition, hookimpl
from tcdecomp.plugins import Attachment

__all__ = ["tcdecomp_attach", "tcdecomp_encode"]


@hookimpl
def tcdecomp_encode(model: Any, batch: Any) -> Any:
    """Return what the model's own ``encode`` makes of the batch.

    Raises
    ------
    TypeError
        If ``encode`` returns None, which would pass for a model without it.
    """
    encode = getattr(model, "encode", None)
    if not callable(encode):
        return None
    answer = encode(batch)
    if answer is None:
        raise TypeError(f"{type(model).__name__}.encode must return a posterior; got None")
    return answer


@hookimpl
def tcdecomp_attach(
    model: Any, criterion: TCDecomposition, dataset_size: int | None
) -> Attachment | None:
    """Put the criterion in the place of the model's ``kl_loss``, in nats per item.

    The first batch goes through the model's own ``kl_loss`` as well. If its value is not the KL,
    such as a sum over the batch or a mean over dimensions, a warning gives the ratio: the balance
    with the rest of the loss would change unnoticed. A ``kl_loss`` that raises an error or returns
    no number is warned of, too, and replaced all the same. Nothing is compared for a criterion with
    a prior or with ``validate=False``, or under ``torch.compile``.

    Raises
    ------
    TypeError
        If ``kl_loss`` takes other arguments than ``z``, ``mu`` and ``logvar``, in this order.
    """
    method = getattr(model, "kl_loss", None)
    if not callable(method):
        return None
    function = method.forward if isinstance(method, nn.Module) else method
    names = list(inspect.signature(function).parameters)
    if names != ["z", "mu", "logvar"]:
        raise TypeError(
            f"{type(model).__name__}.kl_loss must take (z, mu, logvar), to be replaced by the "
            f"criterion: rename its parameters if they are these; got ({', '.join(names)})"
        )
    return _Replacing(model, "kl_loss", _kl_loss, criterion, dataset_size)


class _Replacing(Attachment):
    """An attachment that knows whether the replaced method has been compared with the KL."""

    compared = False


def _kl_loss(attachment: _Replacing, z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    loss = attachment.loss(z, mu, logvar)
    if not (torch.compiler.is_compiling() or attachment.compared):
        attachment.compared = _compare(attachment, Posterior(z, mu, logvar).detach())
    return loss


def _compare(attachment: _Replacing, posterior: Posterior) -> bool:
    """Warn if the model's own term is not the KL; return whether this batch could tell."""
    criterion = attachment.criterion
    if criterion.prior is not None or criterion.validate is False:
        return True
    kl = _plain(criterion, posterior, "closed")
    if not kl.sum() > 0.01:  # nats: 0 is a multiple of 0
        return False
    known = (kl, _plain(criterion, posterior, "sampled"))
    difference = _difference(attachment, posterior, known)
    if difference:
        # The caller is the model's loss, above _kl_loss and the attachment.
        warnings.warn(difference, stacklevel=4)
    return True


def _plain(
    criterion: TCDecomposition, posterior: Posterior, kl: Literal["closed", "sampled"]
) -> Tensor:
    """Return the criterion's value for weights of 1: nothing is estimated, and any N will do."""
    plain = TCDecomposition(kl=kl, reduction=criterion.reduction, validate=False)
    value: Tensor = plain(posterior.z, posterior.mu, posterior.logvar, len(posterior.z))
    return value


def _original(attachment: _Replacing, posterior: Posterior) -> Tensor:
    """Return the value of the replaced method, without a trace in random numbers and gradients."""
    working = posterior.in_working_precision()
    devices = [working.z.device] if working.z.is_cuda else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        own = attachment.original(working.z, working.mu, working.logvar)
    return torch.as_tensor(own, device=working.z.device)


def _difference(
    attachment: _Replacing, posterior: Posterior, known: tuple[Tensor, Tensor]
) -> str | None:
    """Return in what the replaced method's value differs from the KL, or None."""
    kl, name = known[0], f"{type(attachment.model).__name__}.kl_loss"
    reduction = attachment.criterion.reduction
    try:
        own = _original(attachment, posterior)
    except Exception as error:  # of the model's own code, which training does without
        return f"{name} could not be compared with the KL: {type(error).__name__}: {error}"
    if own.shape != kl.shape:
        return (
            f"{name} gave shape {tuple(own.shape)}; the criterion in its place gives "
            f"{tuple(kl.shape)} with reduction={reduction!r}"
        )
    if any((own - x).sum().abs() <= 0.01 * kl.sum() for x in known):
        return None
    per_item, ratio = " per item" if reduction == "mean" else "", (own.sum() / kl.sum()).item()
    advice = (
        " To keep its balance with the rest of the loss, multiply its weights by "
        f"{ratio:.3g}, or choose its reduction"
    )
    return (
        f"{name} gave {own.sum():.4g} for a batch whose KL is {kl.sum():.4g} nats"
        f"{per_item}; the criterion in its place gives that KL, weighted."
        + (advice if 0 < ratio < math.inf else "")
    )
