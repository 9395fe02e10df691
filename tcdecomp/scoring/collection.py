"""One pass of a model over a data set, of which nothing but posteriors and factors is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset
from tqdm.auto import tqdm

from tcdecomp.plugins import NoAdapterError, as_posterior, encode
from tcdecomp.posterior import Posterior
from tcdecomp.scoring.loaders import factors_of

__all__ = ["Collected", "collect"]


class Collected(NamedTuple):
    """What a pass yields, in the order of the batches.

    Attributes
    ----------
    mu, logvar : Tensor, shape (N, D)
        On the device on which the model has put them, without a graph.
    factors : ndarray, shape (N, K) or (N,), or None
        None where the batches have none, or none were asked for.
    """

    mu: Tensor
    logvar: Tensor
    factors: NDArray[Any] | None

    def first(self, rows: int) -> Collected:
        """Return so many rows of it."""
        factors = None if self.factors is None else self.factors[:rows]
        return Collected(self.mu[:rows], self.logvar[:rows], factors)


def collect(
    model: Any,
    batches: Iterable[Any],
    find_factors: Callable[[Any], Any] | None = factors_of,
    *,
    inputs: Callable[[Any], Any] | None = None,
    device: torch.device | str | None = None,
) -> Collected:
    """Encode all batches in eval mode; parameters and errors are those of :func:`tcdecomp.score`.

    Parameters
    ----------
    model, batches, inputs, device
        As there.
    find_factors : callable, optional
        Returns a batch's factors, or None; without it there are none.
    """
    _check_batches(batches)
    encoder = _Encoder(model, inputs or _first_entry, device)
    with _evaluating(model):
        parts = [
            _part(encoder(batch), None if find_factors is None else find_factors(batch))
            for batch in _progress(batches)
        ]
    if not parts:
        raise ValueError("batches must yield at least one batch; got none")
    _check_columns("The model's mu and logvar", [part.mu for part in parts])
    mu, logvar = (torch.cat(moments) for moments in list(zip(*parts, strict=True))[:2])
    return Collected(mu, logvar, _joined([part.factors for part in parts]))


def _progress(batches: Iterable[Any]) -> Iterator[Any]:
    # As in decompose_dataset: on a terminal, and only where there is something to wait for.
    return iter(tqdm(batches, "score", delay=2, disable=None, leave=False))


def _part(posterior: Posterior, factors: Any) -> Collected:
    """Copy what is to be kept: views would keep the whole batch."""
    mu, logvar = posterior.mu.detach().clone(), posterior.logvar.detach().clone()
    if factors is None:
        return Collected(mu, logvar, None)
    if isinstance(factors, Tensor):
        factors = factors.numpy(force=True)
    # As objects, a list's numbers and missing values do not become strings beside a string.
    dtype = object if isinstance(factors, list | tuple) else None
    rows = np.array(factors, dtype=dtype)
    if rows.ndim not in (1, 2) or len(rows) != len(mu):
        raise ValueError(
            f"factors must have shape (M,) or (M, K) in a batch of M = {len(mu)} items; "
            f"got shape {rows.shape}"
        )
    return Collected(mu, logvar, rows)


def _joined(parts: list[NDArray[Any] | None]) -> NDArray[Any] | None:
    found = [part for part in parts if part is not None]
    if not found:
        return None
    if len(found) < len(parts):
        index = next(index for index, part in enumerate(parts) if part is None)
        raise ValueError(f"factors must be in all batches or in none; got none in batch {index}")
    _check_columns("factors", found)
    return np.concatenate(found)


def _check_columns(what: str, parts: Sequence[Tensor | NDArray[Any]]) -> None:
    first = tuple(parts[0].shape[1:])
    for index, part in enumerate(parts):
        if tuple(part.shape[1:]) != first:
            raise ValueError(
                f"{what} must have equally many columns in all batches; got shape "
                f"{tuple(parts[0].shape)} in batch 0 and {tuple(part.shape)} in batch {index}"
            )


def _first_entry(batch: Any) -> Any:
    return batch[0] if isinstance(batch, Sequence) and not isinstance(batch, str) else batch


class _Encoder:
    """Batch to posterior, by the adapter that serves the model or else by calling it."""

    def __init__(
        self, model: Any, inputs: Callable[[Any], Any], device: torch.device | str | None
    ) -> None:
        self.model, self.inputs, self.device = model, inputs, device
        self.called = False

    def __call__(self, batch: Any) -> Posterior:
        x = self.inputs(batch)
        if self.device is not None:
            x = _moved(x, self.device)
        try:
            return self._posterior(x)
        except RuntimeError as error:
            if apart := _devices_apart(self.model, x):
                there, here = apart
                raise ValueError(
                    f"batches must be on the model's device, {there}; got {here}. "
                    f'score(..., device="{there}") moves them'
                ) from error
            raise

    def _posterior(self, x: Any) -> Posterior:
        if not self.called:
            try:
                return encode(self.model, x)
            except NoAdapterError as error:
                if isinstance(self.model, nn.Module) or not callable(self.model):
                    raise
                error.__traceback__ = None  # whose frames would keep the batch
                self.called = True  # once and for all: to look for adapters takes long
        name = getattr(self.model, "__name__", type(self.model).__name__)
        return as_posterior(self.model(x), name)


def _moved(x: Any, device: torch.device | str) -> Any:
    if hasattr(x, "to"):  # a tensor, or a batch of a kind that can move itself
        return x.to(device)
    if isinstance(x, Mapping):
        return {key: _moved(value, device) for key, value in x.items()}
    if isinstance(x, list | tuple):
        entries = [_moved(entry, device) for entry in x]
        return type(x)(*entries) if hasattr(x, "_fields") else type(x)(entries)
    return x


def _devices_apart(model: Any, x: Any) -> tuple[torch.device, torch.device] | None:
    """Return a device of the model and one of its input, if they have none in common."""
    tensors = (t for m in _modules(model) for t in (*m.parameters(), *m.buffers()))
    there = [tensor.device for tensor in tensors]
    here = [tensor.device for tensor in _tensors(x)]
    return (there[0], here[0]) if there and here and not {*there} & {*here} else None


def _tensors(x: Any) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, Mapping | list | tuple):
        for entry in x.values() if isinstance(x, Mapping) else x:
            yield from _tensors(entry)


def _modules(model: Any) -> list[nn.Module]:
    """Return the module that the model is or is a method of, or those in its attributes."""
    owner = getattr(model, "__self__", model)
    held = (owner,) if isinstance(owner, nn.Module) else getattr(owner, "__dict__", {}).values()
    return [module for module in held if isinstance(module, nn.Module)]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Put the model's modules into eval mode, and each submodule back into its own."""
    roots = _modules(model)
    modes = [(module, module.training) for root in roots for module in root.modules()]
    try:
        for root in roots:
            root.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _check_batches(batches: object) -> None:
    got = type(batches).__name__
    if isinstance(batches, Dataset) and not isinstance(batches, IterableDataset):
        raise TypeError(f"batches must be batches, not items; got a {got}. Pass a DataLoader of it")
    expected = "batches must be a DataLoader or another iterable of batches"
    if isinstance(batches, tuple) and len(batches) == 2 and all(map(_is_array, batches)):
        raise TypeError(
            f"{expected}; got a pair of arrays. Of a data set (x, y) pass "
            "DataLoader(TensorDataset(x, y), batch_size=64); two batches x and y are [x, y]"
        )
    if (
        _is_array(batches)
        or isinstance(batches, Mapping | str)
        or not isinstance(batches, Iterable)
    ):
        raise TypeError(
            f"{expected}; got {got}. A single batch x is [x]; of a data set x pass "
            "DataLoader(x, batch_size=64)"
        )


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray)
