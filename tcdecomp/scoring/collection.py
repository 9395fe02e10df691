"""One pass of a model over the batches of a data set. It keeps posteriors and factors only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from tcdecomp._checks import checked_device, warn_user
from tcdecomp._evidence import doubt_of_sample
from tcdecomp._progress import progress
from tcdecomp.plugins import NoAdapterError, answer_of, as_posterior, called_with
from tcdecomp.posterior import Posterior
from tcdecomp.scoring.loaders import (
    FactorsIn,
    InputsIn,
    absence_of,
    described,
    factors_of,
    inputs_of,
)

__all__ = ["Collected", "collect"]


class Collected(NamedTuple):
    """What a pass gives, in the order of the batches.

    Attributes
    ----------
    mu : Tensor, shape (N, D)
        Means, or codes, on the device of the model, without a graph.
    logvar : Tensor, shape (N, D), or None
        Log-variances. None if the model returns codes alone.
    factors : ndarray, shape (N, K) or (N,), or None
        None if the batches have no factors.
    condition : ndarray, shape (N,), or None
        The label of each item, for a conditional model.
    absence : str
        Why there are no factors.
    """

    mu: Tensor
    logvar: Tensor | None
    factors: NDArray[Any] | None
    condition: NDArray[Any] | None
    absence: str

    def first(self, rows: int) -> Collected:
        """Return the first rows."""
        columns = (None if column is None else column[:rows] for column in self[:4])
        return Collected(*[*columns, self.absence])  # type: ignore[arg-type]


def collect(
    model: Any,
    batches: Iterable[Any],
    inputs: InputsIn,
    factors: FactorsIn,
    condition: FactorsIn,
    device: torch.device | str | None,
) -> Collected:
    """Encode all batches in eval mode, as :func:`tcdecomp.score` says."""
    _check_batches(batches)
    encoder, parts, absence = _Encoder(model, inputs, device), [], ""
    with _evaluating(model):
        for batch in progress(batches, "score"):
            mu, logvar = encoder(batch)
            found = factors_of(batch, factors, rows=len(mu))
            label = factors_of(batch, condition, rows=len(mu))
            parts.append((mu, logvar, found, label))
            if found is None and not absence:
                absence = absence_of(batch, factors)
    if not parts:
        raise ValueError("batches must yield at least one batch; got none")
    columns = [list(column) for column in zip(*parts, strict=True)]
    names = "the model's means", "the model's log-variances", "factors", "condition"
    joined = (_joined(name, column) for name, column in zip(names, columns, strict=True))
    return Collected(*[*joined, absence])


def _joined(what: str, parts: list[Any]) -> Any:
    """Return the rows of all batches, or None if no batch has any."""
    missing = [index for index, part in enumerate(parts) if part is None]
    if len(missing) == len(parts):
        return None
    if missing:
        raise ValueError(
            f"{what} must be in all batches or in none; got none in batch {missing[0]}"
        )
    first = tuple(parts[0].shape)
    for index, part in enumerate(parts):
        if tuple(part.shape[1:]) != first[1:]:
            raise ValueError(
                f"{what} must have equally many columns in all batches; got shape {first} in "
                f"batch 0 and {tuple(part.shape)} in batch {index}"
            )
    return torch.cat(parts) if isinstance(parts[0], Tensor) else np.concatenate(parts)


class _Encoder:
    """From a batch to (mu, logvar) or codes, by the model's adapter or by calling the model."""

    def __init__(self, model: Any, inputs: InputsIn, device: torch.device | str | None) -> None:
        self.model, self.inputs, self.device = model, inputs, device
        if device is not None:
            checked_device(device)
        self.name = getattr(model, "__name__", type(model).__name__)
        self.called = self.looked = False

    def __call__(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        x = inputs_of(batch, self.inputs)
        if self.device is not None:
            x = _moved(x, self.device)
        answer = self._answer(x, batch)
        # Copies: views would keep the whole batch.
        if isinstance(answer, Tensor) and answer.dim() == 2 and answer.is_floating_point():
            return answer.detach().clone(), None
        posterior = as_posterior(answer, self.name)
        if isinstance(answer, tuple | list) and len(answer) == 3 and not self.looked:
            self._look(posterior)
        return posterior.mu.detach().clone(), posterior.logvar.detach().clone()

    def _look(self, posterior: Posterior) -> None:
        """Warn if z of the first batch does not fit its moments: their order may be another."""
        self.looked = True
        doubt = None if torch.equal(posterior.z, posterior.mu) else doubt_of_sample(posterior)
        if doubt is not None:
            warn_user(
                f"Three tensors of {self.name} are read in the order z, mu, logvar, but {doubt}"
            )

    def _answer(self, x: Any, batch: Any) -> Any:
        try:
            return self._encoded(x)
        except NoAdapterError:
            raise
        except RuntimeError as error:
            if apart := _devices_apart(self.model, x):
                there, here = apart
                raise ValueError(
                    f"batches must be on the model's device, {there}; got {here}. "
                    f'score(..., device="{there}") moves them'
                ) from error
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # A ValueError comes from what is in the input, unless the input is a part of the batch.
            told = x is batch and isinstance(error, ValueError)
            if told or self.inputs is not None or isinstance(batch, Tensor):
                raise
            taken = "a batch" if x is batch else "the first entry of a batch"
            raise ValueError(
                f"{self.name} cannot encode {taken} ({type(error).__name__}: {error}). A batch is "
                f"{described(batch)}; inputs= says what of it the model gets, such as "
                'inputs="image" or inputs=lambda batch: batch'
            ) from error

    def _encoded(self, x: Any) -> Any:
        if not self.called:
            try:
                return answer_of(self.model, x)
            except NoAdapterError as error:
                if isinstance(self.model, nn.Module) or not callable(self.model):
                    raise NoAdapterError(
                        f"{error} Or pass a function in place of the model: score takes one that "
                        "returns (mu, logvar) for the inputs of a batch"
                    ) from None
                error.__traceback__ = None  # its frames would keep the batch
                self.called = True  # from now on: the search for adapters takes long
        return called_with(self.model, x)


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
    return isinstance(value, Tensor) or hasattr(value, "__array__")  # such as a data frame
