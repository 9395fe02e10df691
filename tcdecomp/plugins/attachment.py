"""How an adapter replaces a method of one model, and undoes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar

from torch import Tensor, no_grad

from tcdecomp.loss import TCDecomposition
from tcdecomp.plugins.criteria import for_own_rows
from tcdecomp.plugins.methods import attribute_of_class, check_own
from tcdecomp.posterior import Posterior
from tcdecomp.terms import Terms

__all__ = ["DETACH", "Attachment"]

_CRITERION = "tcdecomp_criterion"
_RECORD = "_tcdecomp_attachment"
DETACH = "Detach it first: tcdecomp.plugins.Attachment.of(model).detach()"

Answer = TypeVar("Answer")


class Attachment:
    """A method of one model instance, replaced until :meth:`~tcdecomp.plugins.Attachment.detach`.

    Other instances keep their method. The criterion becomes the model's attribute
    ``tcdecomp_criterion``: a learned prior is saved and moved with the model, and trained by
    optimizers that are made afterwards. A copy of the model, deep or from a pickle, carries an
    attachment of its own, ``Attachment.of(copy)``. A ``with`` block detaches at its end.

    The replacement adds :meth:`excess` to a loss that contains the KL, or returns :meth:`loss` in
    place of the KL. Both keep the posterior of the step, without its graph, for :meth:`terms`.

    Parameters
    ----------
    model : object
        Any object with a ``__dict__``.
    method : str or None
        Name of the method. None replaces nothing: the loss is in the user's own loop.
    replacement : callable
        Called as ``replacement(attachment, *args, **kwargs)`` in place of the method: a function
        at a module's top level, which can be pickled, and which takes model and criterion from the
        attachment, since a closure would keep the original's in a copy.
    criterion : TCDecomposition
        What the model trains with.
    dataset_size : int or None
        N, the number of items of the training set. None if the framework states it in each step.
    stated : bool
        Whether it does. The replacement then passes N on to :meth:`loss` or :meth:`excess`.
    signature : inspect.Signature, optional
        What the method shows to a framework that looks which arguments it takes; by default the
        original's.

    Raises
    ------
    ValueError
        If the model already carries an attachment, or N is neither given nor stated.
    TypeError
        If the model cannot hold attributes, or has no such method of its own (a wrapper passes on
        that of another model), or the method is a special one such as ``__call__``, which Python
        looks up on the class.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import TCDecomposition
    >>> from tcdecomp.plugins import Attachment
    >>> def add_size(attachment, x):
    ...     return attachment.original(x) + attachment.dataset_size
    >>> model = torch.nn.Identity()
    >>> with Attachment(model, "forward", add_size, TCDecomposition(), 100):
    ...     model(1)
    101
    >>> model(1)
    1
    """

    def __init__(
        self,
        model: Any,
        method: str | None,
        replacement: Callable[..., Any],
        criterion: TCDecomposition,
        dataset_size: int | None,
        *,
        stated: bool = False,
        signature: inspect.Signature | None = None,
    ) -> None:
        if (carried := Attachment.of(model)) is not None:
            raise ValueError(f"model must not carry an attachment; got {carried!r}. {DETACH}")
        check_own(model, method)
        if dataset_size is None and not stated:
            raise ValueError(
                "dataset_size must be given, the number of items of the training set: a "
                f"{type(model).__name__} does not state it"
            )
        self.model = model
        self.method = method
        self.dataset_size = dataset_size
        self._last: tuple[Posterior, int] | None = None
        self._replacement = replacement
        self._previous: Callable[..., Any] | None = vars(model).get(method or "")
        if signature is not None:
            self.__signature__ = signature  # inspect looks here before it unwraps
        setattr(model, _CRITERION, criterion)
        # Past a module's own __setattr__, which refuses the name of one of its submodules.
        vars(model).update({name: self for name in (method, _RECORD) if name is not None})

    @staticmethod
    def of(model: object) -> Attachment | None:
        """Return the attachment that the model carries, or None."""
        return getattr(model, "__dict__", {}).get(_RECORD)

    @property
    def criterion(self) -> TCDecomposition:
        """The criterion, as the model holds it."""
        criterion: TCDecomposition = getattr(self.model, _CRITERION)
        return criterion

    @property
    def original(self) -> Callable[..., Any]:
        """The method that was replaced, bound to the model."""
        if self._previous is not None:
            return self._previous
        original: Callable[..., Any] = attribute_of_class(self.model, self.method or "")
        return original

    @property
    def posterior(self) -> Posterior | None:
        """The posterior of the last step, without its graph; None before the first."""
        return None if self._last is None else self._last[0]

    def loss(
        self, z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: int | None = None
    ) -> Tensor:
        """Return the criterion's value for a batch, and keep the posterior for :meth:`terms`.

        Parameters
        ----------
        z, mu, logvar : Tensor, shape (M, D)
            As in :meth:`TCDecomposition.forward <tcdecomp.TCDecomposition.forward>`.
        dataset_size : int, optional
            N of the data that this batch was drawn from, where the framework states it. By default
            the attachment's. In train mode the two must agree.
        """
        loss: Tensor = self._ask(self.criterion, z, mu, logvar, dataset_size)
        return loss

    def excess(
        self, z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: int | None = None
    ) -> Tensor:
        """Return the criterion minus the plain KL, and keep the posterior as :meth:`loss` does.

        Multiply it by the framework's own weight on its KL. It is 0 with weights of 1.
        """
        return self._ask(self.criterion.excess_of, z, mu, logvar, dataset_size)

    def decompose(
        self, z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: int | None = None
    ) -> Terms:
        """Return the terms with their graph, and keep the posterior as :meth:`loss` does.

        For a framework that logs the terms in each step: ``criterion.excess(terms)`` is what to
        add to its loss.
        """
        return self._ask(self.criterion.decompose, z, mu, logvar, dataset_size)

    def terms(self, *, all_processes: bool = False) -> Terms | None:
        """Return the terms of the last batch, without a graph.

        They are computed in this call, from the posterior of the last step. None means that no
        step has used the criterion: look here after a first step, since a loss that goes past the
        replaced method trains with its own KL.

        Parameters
        ----------
        all_processes : bool
            By default the terms are estimated from the rows of this process, so that one process
            can log alone. True takes the rows of all processes in the criterion's
            ``process_group``. Then all of them must call, or the call waits until the group's
            timeout.

        Raises
        ------
        ValueError
            If it was detached.
        """
        if vars(self.model).get(_RECORD) is not self:
            raise ValueError(
                f"{self!r} must be attached to have terms; it was detached. Ask before detach()"
            )
        if self._last is None:
            return None
        criterion = self.criterion if all_processes else for_own_rows(self.criterion)
        posterior, size = self._last
        with no_grad():
            return criterion.decompose(posterior.z, posterior.mu, posterior.logvar, size)

    def detach(self) -> None:
        """Give the model its own method back, and take the criterion off it.

        Raises
        ------
        ValueError
            If it was detached before, or something else, a wrapper say, has taken the method's
            place since. Then nothing is changed.
        """
        attributes = vars(self.model)
        if attributes.get(_RECORD) is not self:
            raise ValueError(f"{self!r} must be attached to be detached; it was detached before")
        if self.method is not None and attributes.get(self.method) is not self:
            found = getattr(self.model, self.method, None)
            name = getattr(found, "__qualname__", type(found).__qualname__)  # a repr may be long
            raise ValueError(
                f"{self!r} must still stand in the method's place to be detached; got {name} "
                "there: take that off first"
            )
        for name in (self.method, _RECORD):
            attributes.pop(name, None)
        if self.method is not None and self._previous is not None:
            attributes[self.method] = self._previous
        delattr(self.model, _CRITERION)

    def _ask(
        self,
        question: Callable[..., Answer],
        z: Tensor,
        mu: Tensor,
        logvar: Tensor,
        stated: int | None,
    ) -> Answer:
        answer = question(z, mu, logvar, self._size(stated))
        self.keep(z, mu, logvar, stated)
        return answer

    def keep(self, z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: int | None = None) -> None:
        """Keep the posterior of a step for :meth:`terms`, where nothing else is asked of it."""
        # Detached: a graph kept on the model breaks deepcopy.
        self._last = Posterior(z, mu, logvar).detach(), self._size(dataset_size)

    def _size(self, stated: int | None) -> int:
        """Return N of a step: the stated one, or else that of the attachment."""
        given = self.dataset_size
        size = given if stated is None else stated
        if size is None:
            raise ValueError(
                f"dataset_size must be given to attach, since {type(self.model).__name__} did not "
                "state it in this step"
            )
        if given not in (None, size) and getattr(self.model, "training", True):
            raise ValueError(
                f"dataset_size must be left out of attach, or be the N that the "
                f"{type(self.model).__name__} states for its training set, {size}; got {given}"
            )
        return size

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the replacement."""
        return self._replacement(self, *args, **kwargs)

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        function = getattr(self.original, "__func__", None)
        if function is None:
            return self.original
        # Frameworks unwrap once: they are to see through a decorator of the original as before.
        return MethodType(inspect.unwrap(function), self.model)

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()

    def __repr__(self) -> str:
        name = f"{type(self.model).__name__}.{self.method}"
        return f"<Attachment to {name}, dataset_size={self.dataset_size}>"
