"""What a loader says: how many items it draws from, and what each batch holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from tcdecomp._checks import warn_user
from tcdecomp.metrics.columns import list_names

__all__ = [
    "FactorsIn",
    "InputsIn",
    "absence_of",
    "check_reading",
    "described",
    "factors_of",
    "inputs_of",
    "places_of",
    "rows_of",
    "sampler_of",
    "shuffle_of",
    "size_of",
    "usable_factors",
]

# Where a batch has the model's inputs and the factors: a function of the batch, or a key.
InputsIn = Callable[[Any], Any] | str | None
FactorsIn = Callable[[Any], Any] | str | Literal[False] | None

MANY = 10  # values of a factor beyond which it may be an index
_SAMPLERS = (SequentialSampler, RandomSampler, DistributedSampler)


def size_of(loader: Any) -> int | None:
    """Return the number of items from which the loader draws batches without replacement.

    None if that is not certain. It is certain for a torch DataLoader over a map-style data set
    with one of torch's own samplers. A subclass of a sampler may do anything.
    """
    if (
        isinstance(loader, DataLoader)
        and type(loader.batch_sampler) is BatchSampler
        and type(loader.batch_sampler.sampler) in _SAMPLERS  # not always the loader's own sampler
        and not _repeats(loader.batch_sampler.sampler, len(loader.dataset))  # type: ignore[arg-type]
    ):
        return len(loader.dataset)  # type: ignore[arg-type]
    return None


def _repeats(sampler: Any, size: int) -> bool:
    """Tell whether one process may draw an item twice in one pass."""
    return getattr(sampler, "replacement", False) or getattr(sampler, "num_samples", 0) > size


def sampler_of(loader: Any) -> Any:
    """Return the sampler that chooses the items of a loader's batches, or None."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    sampler = getattr(loader, "sampler", None) if batch_sampler is None else batch_sampler
    # A batch sampler's own sampler need not be the loader's.
    return sampler.sampler if type(sampler) is BatchSampler else sampler


def places_of(loader: Any) -> range | None:
    """Return the places of this process's rows in the order of a DistributedSampler, or None.

    Item i of the order goes to process i modulo the number of processes. To give all processes
    equally many rows, the sampler repeats some items as the last row of some processes. Those rows
    have no place here. None for another sampler.
    """
    sampler = sampler_of(loader)
    if type(sampler) is not DistributedSampler:
        return None
    return range(sampler.rank, len(sampler.dataset), sampler.num_replicas)  # type: ignore[arg-type]


def shuffle_of(loader: Any) -> tuple[int, int] | None:
    """Return seed and epoch of a DistributedSampler that shuffles; None for other samplers."""
    sampler = sampler_of(loader)
    if type(sampler) is not DistributedSampler or not sampler.shuffle:
        return None
    return sampler.seed, sampler.epoch


def rows_of(loader: Any) -> int | None:
    """Return how many rows this process draws before items repeat; None if all of them count."""
    places = places_of(loader)
    return None if places is None else len(places)


def check_reading(inputs: InputsIn, factors: FactorsIn, condition: FactorsIn = None) -> None:
    """Raise a TypeError if a batch cannot be read like this."""
    for name, value in (("inputs", inputs), ("factors", factors), ("condition", condition)):
        allowed = value is None or callable(value) or isinstance(value, str)
        if not (allowed or (name != "inputs" and value is False)):
            other = ", or False for none" if name == "factors" else ""
            raise TypeError(
                f"{name} must be a function of a batch, or a key of batches that are mappings"
                f"{other}; got {value!r}"
            )


def inputs_of(batch: Any, inputs: InputsIn = None) -> Any:
    """Return what the model gets of a batch.

    Parameters
    ----------
    batch : object
        From a loader.
    inputs : callable or str, optional
        A function of the batch, or a key of a mapping. By default the first entry of a sequence,
        and any other batch whole; ``lambda batch: batch`` takes a sequence whole.

    Examples
    --------
    >>> from tcdecomp.scoring.loaders import inputs_of
    >>> inputs_of(("x", "y")), inputs_of({"image": "x", "label": "y"}, "image")
    ('x', 'x')
    """
    if inputs is None:
        return batch[0] if _is_sequence(batch) else batch
    return _entry(batch, "inputs", inputs) if isinstance(inputs, str) else inputs(batch)


def factors_of(batch: Any, factors: FactorsIn = None, *, rows: int) -> NDArray[Any] | None:
    """Return the factors of a batch's items, shape (rows,) or (rows, K), or None without factors.

    Parameters
    ----------
    batch : object
        From a loader.
    factors : callable, str or False, optional
        A function of the batch, or a key of a mapping; False for no factors. By default the
        factors are the "factors" of a mapping, or the second entry of a pair if that is a tensor
        of integers with a row for each item. Any other second entry may be a target.
    rows : int
        How many items the batch has.

    Raises
    ------
    ValueError
        If factors are named that the batch does not have, or that lack a row for each item.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp.scoring.loaders import factors_of
    >>> factors_of((torch.zeros(2, 3), torch.tensor([0, 1])), rows=2)
    array([0, 1])
    """
    if factors is False:
        return None
    if factors is None:
        found = _found(batch, rows)
    else:
        found = _entry(batch, "factors", factors) if isinstance(factors, str) else factors(batch)
    return None if found is None else _as_rows(found, rows)


def absence_of(batch: Any, factors: FactorsIn = None) -> str:
    """Return why :func:`factors_of` gives None for a batch, and how to name the factors."""
    if factors is not None:
        return "factors=False" if factors is False else "factors= returned None for a batch"
    if isinstance(batch, Mapping):
        remedy = 'name the key, as in factors="labels"'
    elif _is_sequence(batch) and len(batch) > 1:
        remedy = (
            "an integer tensor with a row for each item is taken only as the second entry of a "
            "pair; name others, as in factors=lambda batch: batch[1]"
        )
    else:
        remedy = "pass an array with a row for each item as factors="
    return f"no factors found in the batches, each {described(batch)}: {remedy}"


def usable_factors(factors: NDArray[Any], who: str) -> NDArray[np.bool_]:
    """Return which columns of found factors a MIG can use, shape (K,).

    Factors that the user did not name may be unusable: a column with a single value, or an index,
    which has another value for nearly every item. A warning says that ``who`` leaves them out.

    Parameters
    ----------
    factors : ndarray, shape (N, K) or (N,)
        The factors of all items, from :func:`factors_of`.
    who : str
        Who leaves them out.
    """
    columns = list(factors.reshape(len(factors), -1).T)
    counts = np.array([len(set(column.tolist())) for column in columns])
    labels = np.array([column.dtype.kind in "iuSU" for column in columns])
    single = counts == 1
    index = labels & (counts > max(MANY, len(factors) / 2))
    if single.any():
        _leave_out(single, who, "they have a single value in these batches")
    if index.any():
        reason = (
            f"they have up to {counts[index].max()} values for {len(factors)} items, like the "
            "index of an item. If they are quantities, name them, as in factors=lambda batch: "
            "batch[1], with mig={'discrete_factors': False}; factors=False says that there are no "
            "factors"
        )
        _leave_out(index, who, reason)
    usable: NDArray[np.bool_] = ~(single | index)
    return usable


def _leave_out(columns: NDArray[np.bool_], who: str, reason: str) -> None:
    numbers = np.flatnonzero(columns).tolist()
    warn_user(f"{who} leaves the factors {numbers} out of the MIG: {reason}")


def described(batch: Any) -> str:
    """Return in words what a batch is."""
    kind = type(batch).__name__
    if isinstance(batch, Mapping):
        return f"a {kind} with the keys {list_names(map(str, batch))}"
    if _is_sequence(batch):
        return f"a {kind} of {len(batch)}: {', '.join(map(_kind, batch[:8]))}"
    return f"a {_kind(batch)}"


def _kind(entry: Any) -> str:
    shape, dtype = getattr(entry, "shape", None), getattr(entry, "dtype", None)
    if shape is None or dtype is None:
        return type(entry).__name__
    return f"{type(entry).__name__} {tuple(shape)} of {str(dtype).removeprefix('torch.')}"


def _is_sequence(batch: Any) -> bool:
    return isinstance(batch, Sequence) and not isinstance(batch, str)


def _entry(batch: Any, name: str, key: str) -> Any:
    try:
        return batch[key]
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError(
            f"{name}={key!r} must be a key of the batches; got {described(batch)}"
        ) from error


def _found(batch: Any, rows: int) -> Any:
    if isinstance(batch, Mapping):
        return batch.get("factors")
    if not (_is_sequence(batch) and len(batch) == 2 and isinstance(batch[1], Tensor)):
        return None
    second = batch[1]
    inexact = second.is_floating_point() or second.is_complex()
    fits = second.dim() in (1, 2) and len(second) == rows
    return second if fits and not inexact else None


def _as_rows(factors: Any, rows: int) -> NDArray[Any]:
    """Return a copy: a view would keep the whole batch."""
    if isinstance(factors, Tensor):
        factors = factors.numpy(force=True)
    # As objects, the numbers and missing values of a list stay what they are beside a string.
    dtype = object if isinstance(factors, list | tuple) else None
    array = np.array(factors, dtype=dtype)
    if array.ndim not in (1, 2) or len(array) != rows:
        raise ValueError(
            f"factors must have shape ({rows},) or ({rows}, K) in a batch of {rows} items; "
            f"got shape {array.shape}"
        )
    return array
