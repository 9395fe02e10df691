"""Running somebody's model on a batch, by the methods that take one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader

from tcdecomp.plugins.seam.reading import split
from tcdecomp.plugins.seam.taps import FIRING, EnoughError, Seen, Taps
from tcdecomp.posterior import Posterior

__all__ = ["Attempt", "attempts", "check_batch", "encoded"]


class Attempt(NamedTuple):
    """One way to run the model: the method's name, or None for the user's own function."""

    method: str | None
    run: Callable[[], Any]


def check_batch(batch: object) -> None:
    """Raise a TypeError for a loader in place of one of its batches."""
    if isinstance(batch, DataLoader):
        raise TypeError(
            f"batch must be one batch; got a {type(batch).__name__}. Pass next(iter(loader)); "
            "score(model, loader) reads them all"
        )


def attempts(model: nn.Module, batch: Any, methods: Sequence[str]) -> Iterator[Attempt]:
    """Yield the calls of these methods that the batch fits.

    ``training_step`` takes the batch and an index. Other methods take the entries of a mapping by
    their names, or as many entries of a sequence as they have arguments without a default, or
    else the batch as it is.
    """
    for name in dict.fromkeys(methods):
        method = model if name == "forward" else getattr(model, name, None)
        if callable(method):
            shown = method.forward if isinstance(method, nn.Module) else method
            signature = inspect.signature(shown)
            for args, kwargs in _arguments(name, signature, batch):
                try:
                    signature.bind(*args, **kwargs)
                except TypeError:
                    continue
                yield Attempt(name, partial(method, *args, **kwargs))


def _arguments(
    name: str, signature: inspect.Signature, batch: Any
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    if name == "training_step":
        yield (batch, 0), {}
    elif isinstance(batch, Mapping):
        yield (), dict(batch)
    elif isinstance(batch, tuple | list):
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = signature.parameters.values()
        wanted = [p for p in parameters if p.default is p.empty and p.kind in kinds]
        yield tuple(batch[: max(1, len(wanted))]), {}
    yield (batch,), {}


def encoded(taps: Taps, model: nn.Module, batch: Any, method: str | None) -> Posterior:
    """Return the posterior that stopping taps see when the model runs on the batch.

    z is what the model has drawn. It is drawn anew if the model takes the means for it, as in eval
    mode, or if it has another shape than they: it is joined with labels, or reshaped.

    Raises
    ------
    ValueError
        If the batch fits no method, or no run reaches the layers of the moments.
    """
    errors: list[Exception] = []
    ran = False
    methods = ("forward", "encode", *filter(None, [method]))
    for attempt in attempts(model, batch, methods):
        taps.seen = Seen()
        try:
            attempt.run()
            ran = True
        except EnoughError:
            ran = True
        except Exception as error:  # of the model's own code, on a batch for another method
            errors.append(error)
        if taps.has_moments():
            break
    else:
        if errors and not ran:
            raise errors[0]
        if not ran:
            raise ValueError(
                f"batch must be what {type(model).__name__} takes; got a {type(batch).__name__}, "
                f"which fits none of its methods {', '.join(methods)}"
            )
        raise ValueError(f"{taps.idle()} must run when the model does. {FIRING}")
    reading = taps.reading()
    mean, _ = split(reading.tensors, reading.axis)
    if reading.taken.shape == mean.shape and not torch.equal(reading.taken, mean):
        return reading.posterior(None)
    return reading._replace(taken=mean).posterior(None).sample()
