"""Plain ``torch.nn.Module`` objects: the two methods by which a model says what it is.

``encode(batch)`` returns the posteriors of a batch, as a Posterior, a (mu, logvar) pair or a torch
Normal. ``kl_loss(z, mu, logvar)`` is the KL term that the model's loss calls.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from tcdecomp import TCDecomposition, hookimpl
from tcdecomp.attachment import Attachment

__all__ = ["tcdecomp_attach", "tcdecomp_encode"]


@hookimpl
def tcdecomp_encode(model: Any, batch: Any) -> Any:
    """Return what the model's own ``encode`` makes of the batch.

    Raises
    ------
    TypeError
        If that is None: a hook's None would pass for a model without ``encode``.
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

    Raises
    ------
    TypeError
        If that takes other arguments than ``z``, ``mu`` and ``logvar``, in this order.
    """
    method = getattr(model, "kl_loss", None)
    if not callable(method):
        return None
    function = method.forward if isinstance(method, nn.Module) else method
    names = list(inspect.signature(function).parameters)
    if names != ["z", "mu", "logvar"]:
        raise TypeError(
            f"{type(model).__name__}.kl_loss must take (z, mu, logvar), to be replaced by the "
            f"criterion; got ({', '.join(names)})"
        )
    return Attachment(model, "kl_loss", _kl_loss, criterion, dataset_size)


def _kl_loss(attachment: Attachment, z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return attachment.loss(z, mu, logvar)
