"""The adapter of ``torch``: modules with a method ``encode`` or ``kl_loss`` of their own.

``encode(batch)`` returns the posteriors of a batch, as (mu, logvar), a torch Normal or a Posterior.
``kl_loss(z, mu, logvar)`` is the KL term that the model's loss calls.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tcdecomp import Posterior, TCDecomposition, hookimpl
from tcdecomp.plugins import Attachment, called_with, warn_user

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
    answer = called_with(encode, batch)
    if answer is None:
        raise TypeError(f"{type(model).__name__}.encode must return a posterior; got None")
    return answer


@hookimpl
def tcdecomp_attach(
    model: Any, criterion: TCDecomposition, dataset_size: int | None
) -> Attachment | None:
    """Put the criterion in the place of the model's ``kl_loss``, in nats per item.

    The first batch goes through the model's own ``kl_loss`` as well. If that is on another scale,
    such as a sum over the batch or a mean over dimensions, a warning names the options that keep
    the scale: otherwise the KL would weigh more or less against the rest of the loss. A
    ``kl_loss`` that raises an error or returns no number is warned of, too, and replaced all the
    same. Nothing is compared with ``validate=False`` or under ``torch.compile``.

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
    """Warn if the model's own term is on another scale; return whether this batch could tell."""
    criterion = attachment.criterion
    if criterion.validate is False:
        return True
    known, rows = _kls(criterion, posterior), len(posterior.mu)
    # Of one row the sum is the mean, and 0 is a multiple of 0 (in nats).
    if rows == 1 or not known[0] > 0.01 * rows:
        return False
    difference: str | None
    try:
        own = _original(attachment, posterior)
        difference = _difference(own, criterion, known, posterior.mu)
    except Exception as error:  # of the model's own code, which training does without
        difference = f"could not be compared with the KL: {type(error).__name__}: {error}"
    if difference:
        warn_user(f"{type(attachment.model).__name__}.kl_loss {difference}")
    return True


def _kls(criterion: TCDecomposition, posterior: Posterior) -> list[float]:
    """Return the KL as a loss may have it, summed over the rows: to either prior, in any form."""
    forms: list[Any] = [("closed", None), ("sampled", None)]
    if criterion.prior is not None:
        forms += [(criterion.kl, criterion.prior), ("sampled", criterion.prior)]
    plain = [TCDecomposition(kl=kl, prior=p, reduction="sum", validate=False) for kl, p in forms]
    with torch.no_grad():  # with weights of 1 nothing is estimated, and any N will do
        return [float(kl(*posterior, len(posterior.mu))) for kl in plain]


def _original(attachment: _Replacing, posterior: Posterior) -> Tensor:
    """Return the value of the replaced method, without a trace in random numbers and gradients."""
    working = posterior.in_working_precision()
    devices = [working.z.device] if working.z.is_cuda else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        own = attachment.original(*working)
    return torch.as_tensor(own, device=working.z.device)


def _difference(
    own: Tensor, criterion: TCDecomposition, known: list[float], mu: Tensor
) -> str | None:
    """Return how the replaced method's value differs from the criterion's, or None."""
    value, rows, here = own.sum().item(), len(mu), criterion.reduction
    if own.shape not in ((), (rows,)):
        return f"gave shape {tuple(own.shape)}, and the criterion in its place gives () or (M,)"
    per = {"mean": rows, "sum": 1, "none": 1}
    for kind, factor in _scales(criterion, own, mu.shape[1]):
        if any(math.isclose(value, factor * kl / per[kind], rel_tol=0.01) for kl in known):
            break
    else:  # none of them: a factor on the last kind, which is the criterion's
        if criterion.prior is not None:
            return None  # the model's KL may be to a third prior
        factor = value * per[kind] / known[0]
    weights = {name: getattr(criterion, name) for name in ("alpha", "beta", "gamma")}
    if kind == here and factor in (1, *weights.values()):
        return None
    text = f"gave {value:.4g} where the criterion in its place gives {known[0] / per[here]:.4g}"
    if not 0 < factor < math.inf:  # no options mend it
        return f"{text}, weighted"
    options = {} if kind == here else {"reduction": f'"{kind}"'}
    if factor != 1:
        options |= {name: f"{weight * factor:.4g}" for name, weight in weights.items()}
    remedy = ", ".join(f"{name}={option}" for name, option in options.items())
    what = {"mean": "the mean", "sum": "the sum", "none": "the values"}[kind]
    times = "" if factor == 1 else f", times {factor:.4g}"
    return (
        f"{text}, weighted: it is {what} of the KL over the {rows} rows{times}. To keep its "
        f"balance with the rest of the loss, give the criterion {remedy}"
    )


def _scales(
    criterion: TCDecomposition, own: Tensor, dimensions: int
) -> Iterator[tuple[str, float]]:
    """Return the known scales of a KL, as a reduction and a factor; the criterion's own first."""
    kinds = ["none"] if own.dim() else ["mean", "sum"]
    here = criterion.reduction
    if here in kinds:
        for weight in (1.0, criterion.alpha, criterion.beta, criterion.gamma):
            yield here, weight
    kinds.sort(key=lambda kind: kind == here)
    for factor in (1.0, 1 / dimensions):
        for kind in kinds:
            yield kind, factor
