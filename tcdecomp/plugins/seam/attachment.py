"""The criterion's excess, added to the loss of a model whose layers are tapped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.utils._pytree import tree_leaves, tree_map

from tcdecomp.loss import TCDecomposition
from tcdecomp.plugins.attachment import Attachment
from tcdecomp.plugins.criteria import check_criterion
from tcdecomp.plugins.seam.evidence import check_reading
from tcdecomp.plugins.seam.fit import Fit, fit
from tcdecomp.plugins.seam.outputs import loss_in, with_loss
from tcdecomp.plugins.seam.reading import Reading
from tcdecomp.plugins.seam.taps import Move, Seen, Taps
from tcdecomp.plugins.seam.undisturbed import undisturbed
from tcdecomp.plugins.seam.weight import KLWeight

if TYPE_CHECKING:
    from tcdecomp.plugins.seam.seam import Seam

__all__ = ["SeamAttachment"]

_MOVES = (
    # Not moved: the model may count its runs, and weigh the KL by the count.
    Move(lambda mean: mean, lambda logvar: logvar),
    Move(lambda mean: 0.05 * mean, lambda logvar: 0.05 * logvar),  # a small KL
    # At least 10 nats in each dimension.
    Move(lambda mean: torch.where(mean < 0, mean - 4.5, mean + 4.5), lambda logvar: logvar),
)


class SeamAttachment(Attachment):
    """An attachment that adds w times the criterion's excess to a loss with w times the KL.

    w is measured; see :class:`~tcdecomp.plugins.seam.weight.KLWeight`. A loss without a gradient,
    of a validation step, stays as it is. ``print(handle)`` says what was measured.

    Attributes
    ----------
    seam : Seam
        Where the model keeps its posterior.
    """

    def __init__(
        self, model: nn.Module, seam: Seam, criterion: TCDecomposition, dataset_size: int | None
    ) -> None:
        check_criterion(criterion, "a seam")
        super().__init__(model, seam.method_of(model), _step, criterion, dataset_size)
        self.seam = seam
        self.taps = Taps(model, seam.layers, seam.into, seam.scale)
        self._weight = KLWeight(seam.kl_weight)
        self._columns: Tensor | None = None
        self._checked: tuple[torch.Size, torch.Size] | None = None

    @property
    def kl_weight(self) -> float | None:
        """What the last loss multiplied the KL by, in nats per item; None before the first."""
        return self._weight.value

    def loss(self, loss: Any) -> Any:  # type: ignore[override]
        """Return the loss of a step of your own loop with the excess added.

        Parameters
        ----------
        loss : Tensor, dict, tuple, object or callable
            The loss, or what holds it: a dict with "loss", a tuple that starts with it, an object
            with ``.loss``. The model has run once for it. Or a function without arguments that
            runs the model and returns this: then the weight of the KL is measured at other sizes
            of the KL, too, which finds free bits and capacities before they do harm.

        Raises
        ------
        ValueError
            If the model has not run, or its loss does not hold a multiple of the KL.
        TypeError
            If there is no loss in it.
        """
        if callable(loss) and not isinstance(loss, Tensor):
            return self.run(loss)
        return self._added(loss, None)

    def run(self, step: Callable[[], Any]) -> Any:
        """Run a step, and return what it returns with the excess added to its loss."""
        self.taps.seen = Seen()
        return self._added(step(), step)

    def replaced(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the method that was replaced, which runs the model or takes what it has returned."""
        before, self.taps.seen = self.taps.seen, Seen()
        output = self.original(*args, **kwargs)
        if self.taps.seen.runs:
            return self._added(output, lambda: self.original(*args, **kwargs))
        self.taps.seen = before
        return self._added(output, self._again(before, args, kwargs))

    def _again(
        self, seen: Seen, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], Any] | None:
        """Return a run of the model and the method on what it returns, as in this step."""
        if seen.call is None:
            return None
        model_args, model_kwargs, output = seen.call
        returned = set(map(id, tree_leaves(output)))
        if not any(id(leaf) in returned for leaf in tree_leaves((args, kwargs))):
            return None

        def again() -> Any:
            anew = tree_leaves(self.model(*model_args, **model_kwargs))
            swaps = dict(zip(map(id, tree_leaves(output)), anew, strict=True))
            new_args, new_kwargs = tree_map(lambda x: swaps.get(id(x), x), (args, kwargs))
            return self.original(*new_args, **new_kwargs)

        return again

    @_disable_dynamo
    def _added(self, output: Any, again: Callable[[], Any] | None) -> Any:
        if output is None or self.taps.silent or not torch.is_grad_enabled():
            return output
        loss = self._loss_in(output)
        if not loss.requires_grad:
            return output
        reading = self.taps.take()
        if not all(tensor.requires_grad for tensor in reading.tensors):
            return output  # nothing that gives the moments is trained
        shapes = reading.tensors[0].shape[1:], reading.taken.shape[1:]
        if self._checked != shapes:
            self._columns = check_reading(reading, self.seam.names)
            self._checked = shapes
        batch = reading.posterior(self._columns)
        weight = self._weight.measured(
            (batch.mu.shape[0], batch.mu.shape[1]),
            lambda: self._fit(loss, reading),
            None if again is None else lambda: [self._elsewhere(again, move) for move in _MOVES],
        )
        criterion = self.criterion
        # With a process group the others may wait for this excess, whatever the weight is here.
        if weight == 0 and criterion.process_group is None:
            self.keep(batch.z, batch.mu, batch.logvar)
            return output
        excess = self.excess(batch.z, batch.mu, batch.logvar)
        if weight == 0 or criterion.alpha == criterion.beta == criterion.gamma == 1:
            return output
        return with_loss(output, loss + weight * excess)

    def _loss_in(self, output: Any) -> Tensor:
        loss = loss_in(output)
        if loss is None:
            raise TypeError(
                f"{self.method or 'loss'} must be a scalar, a dict with one as 'loss', a tuple "
                f"that starts with one or an object with .loss; got {type(output).__name__}"
            )
        return loss

    def _fit(self, loss: Tensor, reading: Reading) -> Fit:
        return fit(loss, reading, self._columns, self.criterion)

    def _elsewhere(self, again: Callable[[], Any], move: Move) -> Fit:
        """Measure the loss of the same step with other moments."""
        with undisturbed(self.model), self.taps.aside(move=move):
            return self._fit(self._loss_in(again()), self.taps.take())

    def detach(self) -> None:
        """Take the hooks and the criterion off the model, and give a replaced method back."""
        super().detach()
        self.taps.remove()

    def __repr__(self) -> str:
        name = type(self.model).__name__
        return (
            f"<Attachment to {name} by {self.seam.names}, dataset_size={self.dataset_size}; its "
            f"loss holds {self._weight}>"
        )


@_disable_dynamo(recursive=False)
def _step(attachment: SeamAttachment, *args: Any, **kwargs: Any) -> Any:
    """Stand in the place of the method that returns the loss."""
    return attachment.replaced(args, kwargs)
