"""How adapters replace a method of one model, and undo it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import MethodType, TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from torch import Tensor, no_grad

from tcdecomp.posterior import Posterior

if TYPE_CHECKING:
    from tcdecomp.loss import TCDecomposition
    from tcdecomp.terms import Terms

__all__ = ["Attachment"]

_CRITERION = "tcdecomp_criterion"
_RECORD = "_tcdecomp_attachment"

Answer = TypeVar("Answer")


class Attachment:
    """A method of one model instance, replaced until :meth:`detach`.

    The attachment stands in the method's place, on the instance: its class and other instances
    keep theirs. The criterion becomes the model's attribute ``tcdecomp_criterion``, so that a
    learned prior is trained by optimizers made afterwards, moves with the model and is saved with
    it; a criterion without parameters adds nothing to the state dict. A copy of the model, deep
    or from a pickle, carries an attachment of its own: ``Attachment.of(copy)``.

    The replacement adds :meth:`excess` to a loss that has its KL inside, or returns :meth:`loss` in
    the KL's place. Either keeps the step's posterior, without its graph, so that whoever logs can
    have its :meth:`terms`. As a context manager it detaches at the end.

    Whether the model's loss calls the method at all is not known before it does: where it goes past
    it, the model trains with its own KL, and :meth:`terms` stays None. Look there after a first
    step.

    Parameters
    ----------
    model : object
        Any object with a ``__dict__``.
    method : str
        Name of the method.
    replacement : callable
        Called as ``replacement(attachment, *args, **kwargs)`` in place of the method. It takes
        :attr:`original`, ``model``, :attr:`criterion` and ``dataset_size`` from the
        attachment: a closure over the model would keep the original's in a copy. Only a function
        at a module's top level can be pickled.
    criterion : TCDecomposition
        What the model trains with.
    dataset_size : int or None
        N, the number of items of the training set. None where the framework states it in each
        step, and only there.
    stated : bool
        Whether it does, so that the replacement can pass it on to :meth:`loss` or :meth:`excess`.
    signature : inspect.Signature, optional
        What ``inspect.signature`` shows of the method, for a framework that reads there which
        arguments it takes; by default the original's.

    Raises
    ------
    ValueError
        If the model already carries an attachment, or N is neither given nor stated.
    TypeError
        If the model cannot hold attributes of its own, or has no such method of its own: a wrapper
        that passes the method on has not, and the wrapped model would not see the replacement.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import TCDecomposition
    >>> from tcdecomp.plugins.attachment import Attachment
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
        method: str,
        replacement: Callable[..., Any],
        criterion: TCDecomposition,
        dataset_size: int | None,
        *,
        stated: bool = False,
        signature: inspect.Signature | None = None,
    ) -> None:
        _check(model, method)
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
        self._previous: Callable[..., Any] | None = vars(model).get(method)
        if signature is not None:
            self.__signature__ = signature  # inspect looks here before it unwraps
        setattr(model, _CRITERION, criterion)
        # Past a module's own __setattr__, which refuses the name of one of its submodules.
        vars(model).update({method: self, _RECORD: self})

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
        original: Callable[..., Any] = _class_attribute(self.model, self.method)
        return original

    def loss(
        self, z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: int | None = None
    ) -> Tensor:
        """Return the criterion's value for a batch, and keep its posterior for :meth:`terms`.

        Parameters
        ----------
        z, mu, logvar : Tensor, shape (M, D)
            As in :meth:`TCDecomposition.forward <tcdecomp.TCDecomposition.forward>`.
        dataset_size : int, optional
            N of the data that this batch was drawn from, where the framework states it. By default
            the attachment's.
        """
        loss: Tensor = self._ask(self.criterion, z, mu, logvar, dataset_size)
        return loss

    def excess(
        self, z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: int | None = None
    ) -> Tensor:
        """Return what the criterion adds to the plain KL, and keep the posterior as :meth:`loss`.

        Times the framework's own weight on its KL, where it has one; 0 with weights of 1.
        """
        return self._ask(self.criterion.excess_of, z, mu, logvar, dataset_size)

    def decompose(
        self, z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: int | None = None
    ) -> Terms:
        """Return the terms of a batch, with their graph, and keep the posterior as :meth:`loss`.

        For a framework that logs them in each step: the criterion's ``excess(terms)`` is what its
        loss lacks.
        """
        return self._ask(self.criterion.decompose, z, mu, logvar, dataset_size)

    def terms(self) -> Terms | None:
        """Return the terms of the last batch, without a graph; None before the first.

        They are computed here, from the posterior that the step left: training does not wait for
        terms that nobody asks for. None after a step means that the step did not use the criterion.

        Raises
        ------
        ValueError
            If it was detached.
        """
        if vars(self.model).get(_RECORD) is not self:
            raise ValueError(f"{self!r} must be attached to have terms; it was detached")
        if self._last is None:
            return None
        posterior, size = self._last
        with no_grad():
            terms: Terms = self.criterion.decompose(
                posterior.z, posterior.mu, posterior.logvar, size
            )
        return terms

    def _ask(
        self,
        question: Callable[..., Answer],
        z: Tensor,
        mu: Tensor,
        logvar: Tensor,
        stated: int | None,
    ) -> Answer:
        size = self.dataset_size if stated is None else stated
        if size is None:
            raise ValueError(
                f"dataset_size must be given to attach, since {type(self.model).__name__} did not "
                "state it in this step"
            )
        answer = question(z, mu, logvar, size)
        # Detached: a graph kept on the model breaks deepcopy.
        self._last = Posterior(z, mu, logvar).detach(), size
        return answer

    def detach(self) -> None:
        """Give the model its own method back, and take the criterion off it.

        Raises
        ------
        ValueError
            If it was detached before, or something else has taken the method's place since, a
            wrapper around the attachment say. Nothing is changed then.
        """
        attributes = vars(self.model)
        if attributes.get(_RECORD) is not self:
            raise ValueError(f"{self!r} must be attached to be detached; it was detached before")
        if attributes.get(self.method) is not self:
            found = getattr(self.model, self.method, None)
            name = getattr(found, "__qualname__", type(found).__qualname__)  # a repr may be long
            raise ValueError(
                f"{self!r} must still stand in the method's place to be detached; got {name} "
                "there: take that off first"
            )
        del attributes[_RECORD], attributes[self.method]
        if self._previous is not None:
            attributes[self.method] = self._previous
        delattr(self.model, _CRITERION)

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()

    def __repr__(self) -> str:
        name = f"{type(self.model).__name__}.{self.method}"
        return f"<Attachment to {name}, dataset_size={self.dataset_size}>"


def _check(model: Any, method: str) -> None:
    name = type(model).__name__
    if not hasattr(model, "__dict__"):
        raise TypeError(f"model must have a __dict__ to carry an attachment; {name} has none")
    if (carried := Attachment.of(model)) is not None:
        raise ValueError(f"model must not carry an attachment; got {carried!r}. Detach it first")
    if not callable(getattr(model, method, None)):
        raise TypeError(f"model must have a method {method!r}; {name} has none")
    if not _owns(model, method):
        raise TypeError(
            f"model must have a method {method!r} of its own; {name} passes on that of another "
            "object: attach to the model that it wraps"
        )


def _owns(model: Any, name: str) -> bool:
    places = (vars(model), vars(model).get("_modules", ()), *map(vars, type(model).__mro__))
    return any(name in place for place in places)


def _class_attribute(model: Any, name: str) -> Any:
    """Return what ``model.name`` would be without an instance attribute of that name."""
    for owner in type(model).__mro__:
        if name in vars(owner):
            attribute = vars(owner)[name]
            bind = getattr(type(attribute), "__get__", None)
            return attribute if bind is None else bind(attribute, model, type(model))
    return type(model).__getattr__(model, name)  # where torch keeps submodules
