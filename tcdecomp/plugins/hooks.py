"""The two hooks: what an adapter does for the models that it serves.

An adapter is a module, or an object, with one hook or both, each marked :data:`hookimpl`. A hook
may leave out arguments that it does not need. It returns None for a model that is not its own.
:mod:`tcdecomp.testing` checks an adapter.

Examples
--------
>>> from tcdecomp import hookimpl
>>> class Adapter:
...     @hookimpl
...     def tcdecomp_encode(self, model, batch):
...         return model.moments(batch) if hasattr(model, "moments") else None
"""

from __future__ import annotations

from typing import Any

from pluggy import HookimplMarker, HookspecMarker
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
def tcdecomp_encode(model: Any, batch: Any) -> Posterior | tuple[Tensor, ...] | Distribution | None:
    """Encode ``batch`` with ``model`` and return its posterior, or None for another's model.

    The caller sets the mode (train or eval) and the grad mode. Leave both, and the model's
    parameters and buffers, as they are.

    Parameters
    ----------
    model : object
        The model itself, without wrappers such as DistributedDataParallel.
    batch : object
        What the model's encoder takes, or a batch as its data loader yields it.

    Returns
    -------
    Posterior, (mu, logvar), (z, mu, logvar), Normal or None
        Of shape (M, D), a row for each item: means and log-variances, with the model's own sample z
        where it has drawn one; or a torch ``Normal``, also inside an ``Independent``.
    """


@hookspec(firstresult=True)
def tcdecomp_attach(
    model: Any, criterion: TCDecomposition, dataset_size: int | None
) -> Attachment | None:
    """Make ``model`` train with ``criterion`` in place of its KL term, or return None.

    Parameters
    ----------
    model : object
        The model itself, without wrappers such as ``torch.compile``'s.
    criterion : TCDecomposition
        Replaces the model's KL term. If the framework adds its own KL, add
        :meth:`Attachment.excess <tcdecomp.plugins.Attachment.excess>`, times the framework's own
        weight on that KL.
    dataset_size : int or None
        N >= 1, the number of items of the training set. None if the caller leaves it to the
        framework; an Attachment refuses None unless the adapter says that the framework states N.

    Returns
    -------
    Attachment or None
        The handle whose ``detach()`` undoes it.
    """
