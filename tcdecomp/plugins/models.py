"""The two things that an adapter does for a model: encode a batch, attach a criterion."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, SupportsIndex

from torch import Generator, Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.nn.parallel import DataParallel, DistributedDataParallel

from tcdecomp._checks import checked_size, refuse_class
from tcdecomp.loss import TCDecomposition
from tcdecomp.plugins.attachment import Attachment
from tcdecomp.plugins.criteria import check_criterion
from tcdecomp.plugins.registry import ask
from tcdecomp.plugins.seam import Seam
from tcdecomp.plugins.seam.running import check_batch
from tcdecomp.posterior import Posterior

__all__ = ["Reader", "answer_of", "as_posterior", "attach", "called_with", "encode"]


def encode(
    model: Any, batch: Any, *, seam: Seam | None = None, generator: Generator | None = None
) -> Posterior:
    """Return the posteriors that ``model`` gives to the items of ``batch``.

    The model runs in the mode (train or eval) and the grad mode of the caller.

    Parameters
    ----------
    model : object
        A model that an adapter serves, also inside ``torch.compile`` or DistributedDataParallel. A
        ``torch.nn.Module`` with a method ``encode(batch)`` needs no adapter.
    batch : object
        What the model's own encoder takes.
    seam : Seam, optional
        The layers that hold the posterior: no adapter is needed then. By default that of the
        model's attachment.
    generator : torch.Generator, optional
        Source of a new z, on the device of the model's means. By default z is the model's own
        sample, if it has drawn one, or comes from torch's global generator.

    Returns
    -------
    Posterior
        z, mu and logvar of shape (M, D), a row for each item.

    Raises
    ------
    NoAdapterError
        If no adapter serves the model.
    TypeError, ValueError
        If the adapter's answer is not a posterior of shape (M, D).
    ImportError
        If the adapter cannot be loaded, or two distributions claim the model's package.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import encode
    >>> class Encoder(torch.nn.Linear):
    ...     def encode(self, x):
    ...         return self(x).chunk(2, dim=1)
    >>> encode(Encoder(5, 6), torch.zeros(8, 5)).z.shape
    torch.Size([8, 3])
    """
    name = type(_unwrapped(model)).__name__
    return as_posterior(answer_of(model, batch, seam), name, generator=generator)


def answer_of(model: Any, batch: Any, seam: Seam | None = None) -> Any:
    """Return what the model's adapter answers; :func:`~tcdecomp.plugins.as_posterior` reads it.

    Parameters and errors are those of :func:`tcdecomp.encode`.
    """
    model = _unwrapped(model)
    check_batch(batch)
    if seam is None:
        seam = getattr(Attachment.of(model), "seam", None)
    if seam is None:
        return ask("tcdecomp_encode", model, batch=batch)
    return _checked_seam(seam).encode(model, batch)


def _checked_seam(seam: object) -> Seam:
    if not isinstance(seam, Seam):
        raise TypeError(f"seam must be a Seam, as find_seam returns it; got {type(seam).__name__}")
    return seam


class Reader:
    """A model that is read at its seam: a function of what the model takes."""

    def __init__(self, model: Any, seam: Seam) -> None:
        _checked_seam(seam).check(_unwrapped(model))
        self.model, self.seam = model, seam
        self.__name__ = type(_unwrapped(model)).__name__

    def __call__(self, batch: Any) -> Posterior:
        """Return the posterior, as :func:`tcdecomp.encode` does."""
        return encode(self.model, batch, seam=self.seam)


def called_with(function: Callable[..., Any], inputs: Any) -> Any:
    """Call an encoder with its inputs.

    A tuple or list of inputs is passed entry by entry if the encoder has more than one parameter
    without a default, or ``*args`` alone.
    """
    if isinstance(inputs, tuple | list) and _takes_several(function):
        return function(*inputs)
    return function(inputs)


def _takes_several(function: Callable[..., Any]) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # of a function that is not written in Python
        return False
    kinds = [parameter.kind for parameter in parameters]
    if kinds and kinds[0] is inspect.Parameter.VAR_POSITIONAL:
        return True
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.kind in positional and p.default is p.empty]
    return len(needed) > 1


def attach(
    model: Any,
    criterion: TCDecomposition,
    dataset_size: SupportsIndex | None = None,
    *,
    seam: Seam | None = None,
) -> Attachment:
    """Make ``model`` train with ``criterion`` in place of its KL term.

    Attach before you make the optimizer if the criterion has a learned prior.

    Parameters
    ----------
    model : object
        A model that an adapter serves. A ``torch.nn.Module`` whose loss calls its own method
        ``kl_loss(z, mu, logvar)`` needs no adapter.
    criterion : TCDecomposition
        The KL term that it trains with from now on.
    dataset_size : int, optional
        N, the number of items of the training set. Leave it out only where the model's framework
        states it in each step, as its adapter says.
    seam : Seam, optional
        The layers that hold the posterior: no adapter is needed then. The excess is added to the
        loss with the weight that the loss gives to the KL; see :class:`tcdecomp.Seam`.

    Returns
    -------
    Attachment
        ``detach()``, or the end of a ``with`` block, undoes it. ``terms()`` are those of the last
        step, or None if no step has used the criterion.

    Raises
    ------
    NoAdapterError
        If no adapter serves the model.
    TypeError
        If the criterion or the dataset size is not of its type, or the model is a wrapper that
        passes on the method of another: attach to the model inside.
    ValueError
        If the dataset size is below 1, or left out where no framework states it; or the model
        carries an attachment, or a total-correlation term of its own, already.
    ImportError
        As in :func:`encode`.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import TCDecomposition, attach
    >>> class VAE(torch.nn.Module):
    ...     def kl_loss(self, z, mu, logvar):
    ...         return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1).mean()
    >>> vae = VAE()
    >>> with attach(vae, TCDecomposition(beta=6), 10_000):
    ...     loss = vae.kl_loss(torch.randn(8, 3), torch.zeros(8, 3), torch.zeros(8, 3))
    """
    check_criterion(criterion)
    size = None if dataset_size is None else checked_size(dataset_size)
    if isinstance(model, DistributedDataParallel) and list(criterion.parameters()):
        raise ValueError(
            "model must not be wrapped in DistributedDataParallel before a criterion with "
            "parameters is attached: it would not average their gradients. Attach to the model "
            "inside, and wrap it afterwards"
        )
    model = _unwrapped(model)
    _check_unserved(model)
    if seam is not None:
        return _checked_seam(seam).attach(model, criterion, size)
    handle = ask("tcdecomp_attach", model, criterion=criterion, dataset_size=size)
    if not isinstance(handle, Attachment):
        raise TypeError(
            f"tcdecomp_attach must return an Attachment for a {type(model).__name__}, or None; "
            f"got {type(handle).__name__}"
        )
    return handle


def as_posterior(answer: object, name: str, *, generator: Generator | None = None) -> Posterior:
    """Return the posterior that an encoder's answer stands for, in any of the forms allowed.

    Parameters
    ----------
    answer : Posterior, (mu, logvar), (z, mu, logvar), Normal or object
        Tensors of shape (M, D). A torch Normal, and an object with tensors ``mean`` and ``logvar``
        or ``loc`` and ``scale``, may have shape (M, ...): it is flattened.
    name : str
        Whose answer it is, for the error.
    generator : torch.Generator, optional
        As in :func:`tcdecomp.encode`.

    Raises
    ------
    TypeError, ValueError
        If it is none of these, or not of that shape.
    """
    try:
        return _posterior_of(answer, generator)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"{name} must give a Posterior, tensors (mu, logvar) or (z, mu, logvar), or a torch "
            f"Normal, of shape (M, D): {error}"
        ) from error


def _posterior_of(answer: Any, generator: Generator | None) -> Posterior:
    if (moments := _moments_of(answer)) is not None:
        return Posterior.from_moments(*moments, generator=generator)
    if isinstance(answer, Distribution):
        return Posterior.from_normal(answer, generator=generator)
    if isinstance(answer, tuple | list) and len(answer) == 2:
        return Posterior.from_moments(*answer, generator=generator)
    if isinstance(answer, tuple | list) and len(answer) == 3:
        answer = Posterior(*answer)
    if not isinstance(answer, Posterior):
        length = f" of {len(answer)}" if isinstance(answer, tuple | list) else ""
        raise TypeError(f"got {type(answer).__name__}{length}")
    return answer if generator is None else answer.sample(generator=generator)


def _moments_of(answer: Any) -> tuple[Tensor, Tensor] | None:
    """Return mu and logvar, (M, D), of an object that has them by one of their names."""
    while isinstance(answer, Independent):
        answer = answer.base_dist
    if isinstance(answer, Distribution) and not isinstance(answer, Normal):
        return None
    mean, logvar = getattr(answer, "mean", None), getattr(answer, "logvar", None)
    if logvar is None and isinstance(scale := getattr(answer, "scale", None), Tensor):
        mean, logvar = getattr(answer, "loc", None), 2 * scale.log()
    if not (isinstance(mean, Tensor) and isinstance(logvar, Tensor)):
        return None
    flat = mean.dim() > 2 and mean.shape == logvar.shape
    return (mean.flatten(1), logvar.flatten(1)) if flat else (mean, logvar)


def _check_unserved(model: Any) -> None:
    """Refuse a model that trains with a TCDecomposition by itself."""
    if Attachment.of(model) is None and isinstance(model, nn.Module):
        for name, module in model.named_modules():
            if isinstance(module, TCDecomposition):
                raise ValueError(
                    f"model must not have a TCDecomposition; got {type(model).__name__}.{name}. "
                    "Set its weights instead"
                )


def _unwrapped(model: Any) -> Any:
    refuse_class("model", model)
    # A compiled model exists only where this module is loaded; importing it takes a second.
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif dynamo is not None and isinstance(model, dynamo.OptimizedModule):
            model = model._orig_mod
        else:
            return model
