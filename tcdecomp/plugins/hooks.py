"""The two hooks of tcdecomp: what an adapter translates for the models that it serves.

A hook returns None for a model that is not its own. An adapter implements one hook or both, in
a module or an object whose functions carry :data:`hookimpl`, and may leave out arguments that it
does not need. :mod:`tcdecomp.plugins` says how adapters are found, :mod:`tcdecomp.testing`
checks them.

Examples
--------
>>> from tcdecomp import hookimpl
>>> class Adapter:
...     @hookimpl
...     def tcdecomp_encode(self, model, batch):
...         return model.moments(batch) if hasattr(model, "moments") else None
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributions import Distribution

    from tcdecomp.loss import TCDecomposition
    from tcdecomp.plugins.attachment import Attachment
    from tcdecomp.posterior import Posterior

__all__ = ["hookimpl", "hookspec", "tcdecomp_attach", "tcdecomp_encode"]

hookspec = HookspecMarker("tcdecomp")

#: Marks a function as the implementation of the hook of its name.
hookimpl = HookimplMarker("tcdecomp")


@hookspec(firstresult=True)
def tcdecomp_encode(
    model: Any, batch: Any
) -> Posterior | tuple[Tensor, Tensor] | Distribution | None:
    """Encode ``batch`` with ``model`` and return its posterior, or None for another's model.

    Called in the mode (train or eval) and the grad mode that the caller has set; it leaves both,
    and the model's parameters and buffers, as they are.

    Parameters
    ----------
    model : object
        The model itself: wrappers such as DistributedDataParallel are taken off.
    batch : object
        What the model's encoder takes, or a batch as its data loader yields it.

    Returns
    -------
    Posterior, (mu, logvar), Normal or None
        Means and log-variances of shape (M, D), a row for each item: as a pair of tensors, as a
        torch ``Normal`` (or an ``Independent`` one), or as a :class:`~tcdecomp.Posterior` where
        the model has drawn z itself.
    """


@hookspec(firstresult=True)
def tcdecomp_attach(
    model: Any, criterion: TCDecomposition, dataset_size: int | None
) -> Attachment | None:
    """Make ``model`` train with ``criterion`` in place of its KL term, or return None.

    Parameters
    ----------
    model : object
        The model itself: wrappers such as ``torch.compile``'s are taken off.
    criterion : TCDecomposition
        Replaces the model's KL term. A framework that adds its own KL adds
        :meth:`Attachment.excess <tcdecomp.plugins.Attachment.excess>`, times its own weight on
        that KL.
    dataset_size : int or None
        N, the number of items of the training set; at least 1. None where the caller leaves it to
        the framework: an Attachment refuses it unless told that the framework states it.

    Returns
    -------
    Attachment or None
        The handle whose ``detach()`` undoes it.
    """
