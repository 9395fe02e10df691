"""What is scored: posteriors or codes of the items of a data set, and their factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution
from torch.utils.data import DataLoader, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from tcdecomp._checks import check_finite, check_logvar, check_tensors
from tcdecomp._processes import check_agreement
from tcdecomp.metrics.columns import Columns, FloatArray
from tcdecomp.metrics.inputs import check_rows, read_columns
from tcdecomp.plugins.models import as_posterior
from tcdecomp.posterior import Posterior
from tcdecomp.scoring.collection import collect
from tcdecomp.scoring.loaders import (
    FactorsIn,
    InputsIn,
    check_reading,
    places_of,
    sampler_of,
    shuffle_of,
    usable_factors,
)

__all__ = ["Items", "check_order", "joined", "read_items"]

_MODEL_AND_BATCHES = (
    "score takes a model and batches; or without batches a Posterior, a (mu, logvar) pair, a torch "
    "Normal or codes (N, D) of the whole data set; got a {} and batches of type {}"
)


@dataclass(frozen=True, eq=False)
class Items:
    """The items of one process, or those of all processes, on the CPU.

    Attributes
    ----------
    names : tuple of str
        The latents.
    codes : ndarray, shape (N, D)
        Posterior means, or codes of another kind.
    moments : pair of Tensor, shape (N, D), or None
        Means and log-variances in working precision, on the CPU. None for codes alone.
    factors : Columns or None
        The factors of the same items.
    absence : str
        Why there are no factors.
    found : bool
        Whether the factors were looked for in the batches, because the user did not name them.
    device : torch.device
        Where the model has put the means.
    places : range or None
        The places of the items among those of all processes, if a sampler knows them.
    shuffle : tuple of int, or None
        Seed and epoch of the order that the places are in, if it is not that of the data set.
    """

    names: tuple[str, ...]
    codes: FloatArray
    moments: tuple[Tensor, Tensor] | None
    factors: Any
    absence: str = "no factors were given"
    found: bool = False
    device: torch.device | str = "cpu"
    places: range | None = None
    shuffle: tuple[int, int] | None = None

    def with_usable_factors(self) -> Items:
        """Leave out the factors that a MIG cannot use, if the user did not name them."""
        if self.factors is None or not self.found:
            return self
        usable = usable_factors(np.column_stack(self.factors.arrays), "score")
        columns = zip(self.factors.names, self.factors.arrays, usable, strict=True)
        chosen = [(name, array) for name, array, flag in columns if flag]
        if not chosen:
            return replace(self, factors=None, absence="no factors found that a MIG can use")
        names, arrays = zip(*chosen, strict=True)
        return replace(self, factors=Columns("factors", names, arrays))


def read_items(
    model: Any,
    batches: Any,
    factors: Any,
    inputs: InputsIn,
    device: torch.device | str | None,
    *,
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


def _holds_values(model: Any) -> bool:
    """Tell whether ``model`` is not a model, but posteriors or codes."""
    if isinstance(model, tuple | list):
        return len(model) > 0 and all(map(_is_array, model))
    return isinstance(model, Posterior | Distribution) or _is_array(model)


def _is_array(value: Any) -> bool:
    """Tell whether a value is an array or a data frame, of any library."""
    return (hasattr(value, "__array__") or hasattr(value, "columns")) and not callable(value)


def _given(values: Any, factors: Any, inputs: Any, device: Any) -> Items:
    for name, value in (("inputs", inputs), ("device", device)):
        if value is not None:
            raise TypeError(f"{name} must be None without batches; got {value!r}")
    if callable(factors) or isinstance(factors, str):
        kind = "a callable" if callable(factors) else repr(factors)
        raise TypeError(f"factors must be an array without batches; got {kind}")
    factors = None if factors is False else factors
    if isinstance(values, Posterior | Distribution):
        posterior = as_posterior(values, "model")
        return _of_moments(posterior.mu, posterior.logvar, factors)
    if isinstance(values, tuple | list):
        if len(values) != 2:
            raise TypeError(f"model must be a (mu, logvar) pair; got {len(values)} arrays")
        mu, logvar = map(_as_tensor, ("mu", "logvar"), values)
        check_tensors(mu=mu, logvar=logvar)
        return _of_moments(mu, logvar, factors)
    return _of_codes(values, factors)


def _of_moments(mu: Tensor, logvar: Tensor, factors: Any) -> Items:
    posterior = Posterior(mu, mu, logvar).detach().in_working_precision()
    check_finite("mu", posterior.mu)
    check_logvar(posterior.logvar)
    moments = posterior.mu.cpu(), posterior.logvar.cpu()
    return replace(_of_codes(moments[0], factors), moments=moments, device=mu.device)


def _of_codes(codes: Any, factors: Any) -> Items:
    columns = read_columns(codes, "codes", "z")
    if factors is not None:
        factors = read_columns(factors, "factors", "v", vector=True)
        check_rows(columns, factors)
    return Items(columns.names, columns.as_floats(), None, factors)


def _as_tensor(name: str, values: Any) -> Tensor:
    """Return an array as a tensor: float32 of any lesser float, else float64."""
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    if array.dtype.name == "bfloat16":  # of JAX: a dtype of ml_dtypes
        array = array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers; got dtype {array.dtype}")
    single = array.dtype.kind == "f" and array.dtype.itemsize <= 4
    # A copy of native byte order and positive strides: torch takes no other.
    return torch.from_numpy(np.array(array, np.float32 if single else np.float64, order="C"))


def _collected(
    model: Any,
    batches: Any,
    factors: Any,
    inputs: InputsIn,
    device: torch.device | str | None,
    shared: bool,
) -> Items:
    by_item = _is_array(factors) or isinstance(factors, list | tuple)
    if by_item:
        check_order("factors", batches, shared=shared)
    reading: FactorsIn = False if by_item else factors
    check_reading(inputs, reading)
    seen = collect(model, batches, inputs, reading, device)
    places = places_of(batches) if shared else None
    if places is not None:  # the rows after these are repeated items
        places = places[: len(seen.mu)]
        seen = seen.first(len(places))
    known = factors if by_item else seen.factors
    items = (
        _of_codes(seen.mu, known)
        if seen.logvar is None
        else _of_moments(seen.mu, seen.logvar, known)
    )
    return replace(
        items,
        absence=seen.absence,
        found=reading is None,
        places=places,
        shuffle=shuffle_of(batches) if shared else None,
    )


def check_order(name: str, batches: Any, *, shared: bool) -> None:
    """Refuse a DataLoader whose order is not known to be that of its data set, or of its share."""
    if not isinstance(batches, DataLoader):
        return
    sampler = sampler_of(batches)
    dealt = shared and type(sampler) is DistributedSampler and not sampler.shuffle
    if type(sampler) is not SequentialSampler and not dealt:
        raise ValueError(
            f"batches must go through their data set in order where {name} is an array; got a "
            f"DataLoader with a {type(sampler).__name__}. Give a loader that does not shuffle; "
            "factors may also be a callable that returns those of a batch"
        )


def joined(parts: Sequence[Items], own: int = 0) -> Items:
    """Return the items of all processes: in the order of their places, or else of the ranks.

    Parameters
    ----------
    parts : sequence of Items
        Those of each process.
    own : int
        Which of them are those of this process.

    Raises
    ------
    ValueError
        If the processes do not agree, or have items in common.
    """
    if len(parts) == 1:
        return parts[0]
    for what, told in _to_agree(parts).items():
        check_agreement(what, told)
    order = _order([part.places for part in parts], sum(len(part.codes) for part in parts))
    moments = factors = None
    if all(part.moments is not None for part in parts):
        columns = zip(*(part.moments for part in parts if part.moments), strict=True)
        mu, logvar = (torch.cat(column)[torch.from_numpy(order)] for column in columns)
        moments = mu, logvar
    if parts[0].factors is not None:
        told = [part.factors.arrays for part in parts if part.factors is not None]
        arrays = tuple(np.concatenate(column)[order] for column in zip(*told, strict=True))
        factors = Columns("factors", parts[0].factors.names, arrays)
    codes = np.concatenate([part.codes for part in parts])[order]
    return replace(parts[own], codes=codes, moments=moments, factors=factors)


def _to_agree(parts: Sequence[Items]) -> Mapping[str, list[Any]]:
    return {
        "D, the number of latents,": [len(part.names) for part in parts],
        "whether there are posteriors": [part.moments is not None for part in parts],
        "whether factors are looked for in the batches": [part.found for part in parts],
        "seed and epoch of a DistributedSampler": [part.shuffle for part in parts],
        "the columns of codes": [part.names for part in parts],
        "the columns of factors": [part.factors and part.factors.names for part in parts],
    }


def _order(places: Sequence[range | None], size: int) -> NDArray[np.intp]:
    """Return the number, in the order of the ranks, of each item of the whole."""
    known = [place for place in places if place is not None]
    if len(known) < len(places):
        return np.arange(size)
    dealt = np.concatenate(known)
    order = np.argsort(dealt)
    if (dealt[order] != np.arange(size)).any():
        raise ValueError(
            "batches must deal out each item to one process of process_group; got "
            f"DistributedSamplers that deal out the items {list(places)} by rank"
        )
    return order
