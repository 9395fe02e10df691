"""What is scored: posteriors or codes of the items of a data set, and their factors."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils.data import DataLoader, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from tcdecomp._checks import check_finite, check_logvar, check_tensors
from tcdecomp.metrics.columns import Columns, FloatArray
from tcdecomp.metrics.inputs import check_rows, read_columns
from tcdecomp.plugins.models import as_posterior
from tcdecomp.posterior import Posterior
from tcdecomp.scoring.collection import collect
from tcdecomp.scoring.loaders import factors_of, places_of, sampler_of, shuffle_of

__all__ = ["Items", "of_posterior", "read_items"]


class Items(NamedTuple):
    """The items that a process has, or those of all processes.

    Attributes
    ----------
    codes : ndarray, shape (N, D)
        Posterior means, or codes of another kind.
    names : tuple of str
        Of the latents.
    posterior : Posterior or None
        None where there are codes alone.
    factors : Columns or None
        Of the same items.
    found : bool
        Whether the factors were in the batches, and nobody asked for them.
    places : range or None
        Where the items stand among those of all processes, if a sampler says.
    shuffle : tuple of int, or None
        Seed and epoch of the order that the places are in, if it is not that of the data set.
    """

    codes: FloatArray
    names: tuple[str, ...]
    posterior: Posterior | None
    factors: Any
    found: bool = False
    places: range | None = None
    shuffle: tuple[int, int] | None = None


_MODEL_AND_BATCHES = (
    "score takes a model and batches, or without batches a Posterior, a (mu, logvar) pair, a torch "
    "Normal or codes (N, D) of the whole data set; got a {} and batches of type {}"
)


def read_items(
    model: Any,
    batches: Any,
    factors: Any,
    *,
    inputs: Callable[[Any], Any] | None,
    device: torch.device | str | None,
    shared: bool,
) -> Items:
    """Return the items of this process; parameters and errors are those of :func:`tcdecomp.score`.

    Parameters
    ----------
    model, batches, factors, inputs, device
        As there.
    shared : bool
        Whether other processes have other items.
    """
    given = _holds_values(model)
    if given != (batches is None):
        kinds = type(model).__name__, type(batches).__name__
        raise TypeError(_MODEL_AND_BATCHES.format(*kinds))
    if given:
        return _given(model, factors, inputs, device)
    return _collected(model, batches, factors, inputs, device, shared)


def of_posterior(posterior: Posterior, factors: Any) -> Items:
    """Return items whose codes are the means of a posterior."""
    posterior = posterior.detach()
    check_finite("mu", posterior.mu)
    check_logvar(posterior.in_working_precision().logvar)
    codes: FloatArray = posterior.mu.cpu().double().numpy()
    return _items(read_columns(codes, "codes", "z"), codes, posterior, factors)


def _items(columns: Columns, codes: FloatArray, posterior: Posterior | None, factors: Any) -> Items:
    if factors is not None:
        factors = read_columns(factors, "factors", "v", vector=True)
        check_rows(columns, factors)
    return Items(codes, columns.names, posterior, factors)


def _holds_values(model: Any) -> bool:
    """Tell whether ``model`` is no model, but posteriors or codes."""
    if isinstance(model, tuple | list):
        return len(model) > 0 and all(isinstance(part, Tensor | np.ndarray) for part in model)
    is_frame = hasattr(model, "columns") and not callable(model)
    return is_frame or isinstance(model, Tensor | np.ndarray | Posterior | Distribution)


def _given(values: Any, factors: Any, inputs: Any, device: Any) -> Items:
    for name, value in (("inputs", inputs), ("device", device)):
        if value is not None:
            raise TypeError(f"{name} must be None without batches; got {value!r}")
    if callable(factors):
        raise TypeError("factors must be an array without batches; got a callable")
    if isinstance(values, tuple | list):
        if len(values) != 2:
            raise TypeError(f"model must be a (mu, logvar) pair; got {len(values)} arrays")
        values = list(map(_as_tensor, ("mu", "logvar"), values))
        check_tensors(mu=values[0], logvar=values[1])
    if isinstance(values, list | Posterior | Distribution):
        return of_posterior(as_posterior(values, "model"), factors)
    columns = read_columns(values, "codes", "z")
    return _items(columns, columns.as_floats(), None, factors)


def _as_tensor(name: str, values: Any) -> Tensor:
    """Return an array as a tensor: float32 of any lesser float, else float64."""
    if isinstance(values, Tensor):
        return values
    if values.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers; got dtype {values.dtype}")
    single = values.dtype.kind == "f" and values.dtype.itemsize <= 4
    # A copy of native byte order and positive strides: torch takes no other.
    return torch.from_numpy(np.array(values, np.float32 if single else np.float64, order="C"))


def _collected(
    model: Any,
    batches: Any,
    factors: Any,
    inputs: Callable[[Any], Any] | None,
    device: torch.device | str | None,
    shared: bool,
) -> Items:
    by_themselves = factors is None
    is_array = not by_themselves and not callable(factors)
    if is_array:
        _check_order(batches, shared)
    find = factors_of if by_themselves else None if is_array else _insistent(factors)
    seen = collect(model, batches, find, inputs=inputs, device=device)
    places = places_of(batches) if shared else None
    if places is not None:  # beyond which items repeat
        places = places[: len(seen.mu)]
        seen = seen.first(len(places))
    posterior = Posterior(seen.mu, seen.mu, seen.logvar)
    items = of_posterior(posterior, factors if is_array else seen.factors)
    shuffle = shuffle_of(batches) if shared else None
    return items._replace(found=by_themselves, places=places, shuffle=shuffle)


def _insistent(find: Callable[[Any], Any]) -> Callable[[Any], Any]:
    numbers = itertools.count()

    def found(batch: Any) -> Any:
        number, factors = next(numbers), find(batch)
        if factors is None:
            raise ValueError(
                f"factors must return the factors of every batch; got None for batch {number}"
            )
        return factors

    return found


def _check_order(batches: Any, shared: bool) -> None:
    """Refuse a DataLoader whose order is not known to be that of its data set, or of its share."""
    if not isinstance(batches, DataLoader):
        return
    sampler = sampler_of(batches)
    dealt = shared and type(sampler) is DistributedSampler and not sampler.shuffle
    if type(sampler) is not SequentialSampler and not dealt:
        raise ValueError(
            "batches must go through their data set in order where factors are an array; got a "
            f"DataLoader with a {type(sampler).__name__}. Give factors as a callable that returns "
            "those of a batch, or a loader that does not shuffle"
        )
