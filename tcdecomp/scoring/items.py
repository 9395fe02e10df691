"""What is scored: posteriors or codes of the items of a data set, and their factors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution
from torch.utils.data import DataLoader, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from tcdecomp._checks import check_finite, check_logvar, check_tensors, refuse_class
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

__all__ = ["Items", "read_items"]

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
    condition : ndarray of int, shape (N,), or None
        The label of each item, for a conditional model.
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
    condition: NDArray[Any] | None = None
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
    condition: Any,
    inputs: InputsIn,
    device: torch.device | str | None,
    *,
    shared: bool,
) -> Items:
    """Return the items of this process; parameters and errors are those of :func:`tcdecomp.score`.

    Parameters
    ----------
    model, batches, factors, condition, inputs, device
        As there.
    shared : bool
        Whether other processes have other items.
    """
    refuse_class("model", model)
    given = _holds_values(model)
    if given != (batches is None):
        kinds = type(model).__name__, type(batches).__name__
        raise TypeError(_MODEL_AND_BATCHES.format(*kinds))
    if given:
        items = _given(model, factors, condition, inputs, device)
    else:
        items = _collected(model, batches, factors, condition, inputs, device, shared)
    if items.condition is not None:
        _check_condition(items)
    return items


def _check_condition(items: Items) -> None:
    labels, size = np.asarray(items.condition), len(items.codes)
    if labels.shape != (size,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"condition must hold an integer for each of the {size} items; got shape "
            f"{labels.shape} of {labels.dtype}"
        )


def _holds_values(model: Any) -> bool:
    """Tell whether ``model`` is not a model, but posteriors or codes."""
    if isinstance(model, tuple | list):
        return len(model) > 0 and all(map(_is_array, model))
    return isinstance(model, Posterior | Distribution) or _is_array(model)


def _is_array(value: Any) -> bool:
    """Tell whether a value is an array or a data frame, of any library."""
    return (hasattr(value, "__array__") or hasattr(value, "columns")) and not callable(value)


def _given(values: Any, factors: Any, condition: Any, inputs: Any, device: Any) -> Items:
    for name, value in (("inputs", inputs), ("device", device)):
        if value is not None:
            raise TypeError(f"{name} must be None without batches; got {value!r}")
    for name, value in (("factors", factors), ("condition", condition)):
        if callable(value) or isinstance(value, str):
            kind = "a callable" if callable(value) else repr(value)
            raise TypeError(f"{name} must be an array without batches; got {kind}")
    items = _of_values(values, None if factors is False else factors)
    return items if condition is None else replace(items, condition=_as_labels(condition))


def _as_labels(condition: Any) -> NDArray[Any]:
    if isinstance(condition, Tensor):
        condition = condition.numpy(force=True)
    return np.asarray(condition)


def _of_values(values: Any, factors: Any) -> Items:
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
    condition: Any,
    inputs: InputsIn,
    device: torch.device | str | None,
    shared: bool,
) -> Items:
    by_item, labels_by_item = (
        _is_array(given) or isinstance(given, list | tuple) for given in (factors, condition)
    )
    for name, is_array in (("factors", by_item), ("condition", labels_by_item)):
        if is_array:
            _check_order(name, batches, shared)
    reading: FactorsIn = False if by_item else factors
    label: FactorsIn = False if condition is None or labels_by_item else condition
    check_reading(inputs, reading, label)
    seen = collect(model, batches, inputs, reading, label, device)
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
        condition=_as_labels(condition) if labels_by_item else seen.condition,
        absence=seen.absence,
        found=reading is None,
        places=places,
        shuffle=shuffle_of(batches) if shared else None,
    )


def _check_order(name: str, batches: Any, shared: bool) -> None:
    """Refuse a DataLoader whose order is not known to be that of its data set, or of its share."""
    if not isinstance(batches, DataLoader):
        return
    sampler = sampler_of(batches)
    dealt = shared and type(sampler) is DistributedSampler and not sampler.shuffle
    if type(sampler) is not SequentialSampler and not dealt:
        raise ValueError(
            f"batches must go through their data set in order where {name} is an array; got a "
            f"DataLoader with a {type(sampler).__name__}. Pass a function of a batch as {name}, or "
            "a loader that does not shuffle"
        )
