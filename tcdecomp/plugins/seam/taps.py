"""Hooks on the layers at a seam. They look, and change no value."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from tcdecomp.plugins.seam.outputs import moments_in, with_moments
from tcdecomp.plugins.seam.reading import Reading, split, split_axis
from tcdecomp.plugins.seam.scales import SCALES

__all__ = ["FIRING", "EnoughError", "Move", "Seen", "Taps", "first_tensor"]

FIRING = (
    "Hooks fire where a layer is called, as layer(x): not for layer.forward(x), in a scripted "
    "module, or in a model that ran compiled before (torch.compiler.reset() helps there)"
)


class EnoughError(BaseException):
    """Ends a run that has shown what was wanted. A model that catches errors does not catch it."""


class Move(NamedTuple):
    """Other moments for a model to run with: functions of means and of log-variances."""

    mean: Callable[[Tensor], Tensor]
    logvar: Callable[[Tensor], Tensor]


class Seen:
    """What was seen since the last loss."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()  # of each layer
        self.left: dict[str, tuple[Tensor, ...]] = {}  # by the layers of the moments
        self.took: dict[str, tuple[Tensor, Tensor]] = {}  # by layers behind z; and the gates
        self.call: tuple[Any, Any, Any] | None = None  # the model's arguments, and its output


class Taps:
    """Hooks on the layers of the moments and on the layers behind z, by their names.

    They do not see runs without gradients, nor those of a checkpoint inside a backward. With
    ``stop`` they see runs without gradients, too, and end a run by an :class:`EnoughError` when all
    layers have run.
    """

    def __init__(
        self,
        model: nn.Module,
        moments: tuple[str, ...],
        into: tuple[str, ...],
        scale: str,
        *,
        stop: bool = False,
    ) -> None:
        self.moments, self.into, self.scale, self.stop = moments, into, scale, stop
        self.seen, self.silent = Seen(), False
        self._axis, self._warned = 1, False
        self._move: Move | None = None
        self._handles = [model.register_forward_hook(self._called, with_kwargs=True)]
        for name in moments:
            layer, hook = model.get_submodule(name), partial(self._leaving, name)
            self._handles.append(layer.register_forward_hook(hook))
        for name in into:
            layer, hook = model.get_submodule(name), partial(self._entering, name)
            self._handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def has_moments(self) -> bool:
        """Tell whether all layers of the moments ran."""
        return len(self.seen.left) == len(self.moments)

    def idle(self) -> str:
        """Name the layers that did not run, for an error."""
        names = (name for name in (*self.moments, *self.into) if name not in self.seen.runs)
        return " and ".join(f"layer {name!r}" for name in names)

    def reading(self) -> Reading:
        """Return what was seen; the means stand for z if no layer behind z ran."""
        tensors = tuple(tensor for name in self.moments for tensor in self.seen.left[name])
        took = [self.seen.took[name] for name in self.into if name in self.seen.took]
        taken = took[0][0] if took else split(tensors, 1)[0]
        self._axis = split_axis(tensors[0].shape, taken.shape)
        return Reading(tensors, self._axis, self.scale, taken, tuple(gate for _, gate in took))

    def take(self) -> Reading:
        """Return what was seen before a loss, and forget it; all layers must have run once."""
        if idle := self.idle():
            raise ValueError(f"{idle} must run before the loss is there. {FIRING}")
        name, runs = self.seen.runs.most_common(1)[0]
        if runs > 1:
            raise ValueError(
                f"the layers of the seam must run once for a loss; {name!r} ran {runs} times. Run "
                "the model under torch.no_grad() where no loss follows"
            )
        reading, self.seen = self.reading(), Seen()
        return reading

    @contextmanager
    def aside(self, *, silent: bool = False, move: Move | None = None) -> Iterator[None]:
        """See nothing inside, or see the model run with other moments; forget it at the end."""
        before = self.seen, self.silent
        self.seen, self.silent, self._move = Seen(), silent, move
        try:
            yield
        finally:
            (self.seen, self.silent), self._move = before, None

    def _looks(self) -> bool:
        in_backward = torch._C._current_graph_task_id() != -1
        return not (self.silent or in_backward) and (self.stop or torch.is_grad_enabled())

    @_disable_dynamo  # what the hooks see is used outside of compiled graphs
    def _called(self, model: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._looks():
            self.seen.call = args, kwargs, output

    @_disable_dynamo
    def _leaving(self, name: str, layer: nn.Module, args: Any, output: Any) -> Any:
        if not self._looks():
            return None
        alone, tensors = len(self.moments) == 1, moments_in(output)
        if not tensors or not (alone or isinstance(output, Tensor)):
            forms = "a tensor, a pair of tensors of one shape or a torch Normal"
            raise TypeError(
                f"moments layer {name!r} must return {forms if alone else 'a tensor'}; got "
                f"{type(output).__name__}. Name a layer inside of it"
            )
        _check_rows("moments", name, tensors[0])
        if self._move is not None:
            tensors = self._moved(name, tensors, self._move)
            output = with_moments(output, tensors)
        self.seen.left[name] = tensors
        self._count(name)
        return None if self._move is None else output

    @_disable_dynamo
    def _entering(
        self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not self._looks():
            return None
        key, z = first_tensor(args, kwargs)
        if z is None:
            raise TypeError(
                f"z layer {name!r} must take a tensor; got none. Name a layer inside of it"
            )
        _check_rows("z", name, z)
        gate = z.view_as(z)
        self.seen.took[name] = z, gate
        self._count(name)
        if isinstance(key, str):
            return args, {**kwargs, key: gate}
        return (*args[:key], gate, *args[key + 1 :]), kwargs

    def _moved(self, name: str, tensors: tuple[Tensor, ...], move: Move) -> tuple[Tensor, ...]:
        scale = SCALES[self.scale]
        kinds: list[Callable[[Tensor], Tensor]] = [
            move.mean,
            lambda raw: scale.from_logvar(move.logvar(scale.to_logvar(raw))),
        ]
        if len(self.moments) == 2:
            return (kinds[self.moments.index(name)](tensors[0]),)
        moved = tuple(
            kind(part) for kind, part in zip(kinds, split(tensors, self._axis), strict=True)
        )
        return moved if len(tensors) == 2 else (torch.cat(moved, self._axis),)

    def _count(self, name: str) -> None:
        self.seen.runs[name] += 1
        if self.stop:
            if not self.idle():
                raise EnoughError
        elif self.seen.runs[name] == 3 and not self._warned:
            self._warned = True
            warnings.warn(
                f"{name} has run three times, and no loss has come by: the criterion adds nothing "
                "to the training. Hand the loss over, loss = handle.loss(loss), or name the "
                "method that returns it: Seam(loss=...)",
                stacklevel=2,
            )

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the model starts anew: a graph can be neither copied nor pickled.
        return {**vars(self), "seen": Seen(), "_move": None}


def _check_rows(field: str, name: str, tensor: Tensor) -> None:
    if tensor.dim() < 2:
        raise ValueError(
            f"{field} layer {name!r} must have a row for each item, shape (M, D, ...); got shape "
            f"{tuple(tensor.shape)}. Name a layer that runs on the whole batch"
        )


def first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Tensor | None]:
    """Return the place or the name of a layer's first floating-point tensor, and the tensor."""
    for key, value in (*enumerate(args), *kwargs.items()):
        if isinstance(value, Tensor) and value.is_floating_point():
            return key, value
    return None, None
