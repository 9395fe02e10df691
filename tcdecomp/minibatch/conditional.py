"""Conditional VAEs: q(z|c) is decomposed for each label c, from the rows that have it.

With M_c of a batch's M rows labelled c, and N_c such items in the data set, the result is
sum_c (M_c / M) * decompose(the rows of c, N_c), which in expectation is the mean over labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, SupportsIndex, TypeVar

import torch
from torch import Tensor

from tcdecomp._checks import checked_labels
from tcdecomp.minibatch.batch import Batch, checked_size
from tcdecomp.posterior import Posterior
from tcdecomp.terms import Terms

__all__ = ["DatasetSize", "evaluate"]

DatasetSize = SupportsIndex | Mapping[int, SupportsIndex]

Result = TypeVar("Result", Tensor, Terms)


def evaluate(
    ask: Callable[[Batch], Result],
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    dataset_size: DatasetSize,
    *,
    condition: Tensor | None,
    **options: Any,
) -> Result:
    """Return what ``ask`` says of the batch, or of the batch of each label, put together.

    Parameters and errors are those of :func:`tcdecomp.decompose`.
    """
    if condition is None:
        return ask(Batch(z, mu, logvar, dataset_size, **options))  # type: ignore[arg-type]
    for name in ("bank", "process_group", "items"):
        if options.get(name) is not None:
            raise ValueError(
                f"{name} must be None where a condition is given; got "
                f"{type(options[name]).__name__}"
            )
    posterior = Posterior(z, mu, logvar)
    condition = checked_labels("condition", condition, posterior.mu)
    if not isinstance(dataset_size, Mapping):
        raise TypeError(
            "dataset_size must map each label to its number of items where a condition is given; "
            f"got {dataset_size!r} ({type(dataset_size).__name__})"
        )
    if options["validate"] and not torch.compiler.is_compiling():
        posterior.check_values()  # of the whole batch, whose rows an error numbers
    batches = dict(_batches(posterior, condition, dataset_size, {**options, "validate": False}))
    answers = [ask(batch) for batch in batches.values()]
    combine = _COMBINE[options["reduction"]]
    rows_of_parts = [_rows_of(label, condition) for label in batches]
    if isinstance(answers[0], Tensor):
        return combine(rows_of_parts, answers)
    mi, tc, dimension_wise_kl, kl = (list(term) for term in zip(*answers, strict=True))
    return Terms(
        index_code_mi=combine(rows_of_parts, mi),
        total_correlation=combine(rows_of_parts, tc),
        dimension_wise_kl=combine(rows_of_parts, dimension_wise_kl),
        kl=None if kl[0] is None else combine(rows_of_parts, kl),
    )


def _batches(
    posterior: Posterior,
    condition: Tensor,
    dataset_size: Mapping[int, SupportsIndex],
    options: Mapping[str, Any],
) -> Iterator[tuple[int, Batch]]:
    """Yield each label and the batch of its rows."""
    for label in torch.unique(condition).tolist():
        if label not in dataset_size:
            raise ValueError(
                f"dataset_size must have a number of items for each label; got none for {label}"
            )
        rows = _rows_of(label, condition)
        try:
            size = checked_size(dataset_size[label], len(rows))
            if len(rows) == 1 and size > 1:
                raise ValueError(
                    "condition must have at least two rows of each label that has more than one "
                    f"item; got 1 row for {size} items. Draw larger batches, or each label's rows "
                    "together"
                )
            z, mu, logvar = (t[rows] for t in (posterior.z, posterior.mu, posterior.logvar))
            yield label, Batch(z, mu, logvar, size, **options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"label {label}: {error}") from None


def _rows_of(label: int, condition: Tensor) -> Tensor:
    return (condition == label).nonzero().squeeze(1)


def _mean(rows: list[Tensor], values: list[Tensor]) -> Tensor:
    counts = [len(part) for part in rows]
    shares = (value * (count / sum(counts)) for count, value in zip(counts, values, strict=True))
    return torch.stack(list(shares)).sum()


def _sum(rows: list[Tensor], values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum()


def _in_place(rows: list[Tensor], values: list[Tensor]) -> Tensor:
    return torch.cat(values)[torch.cat(rows).argsort()]


_COMBINE: dict[str, Callable[[list[Tensor], list[Tensor]], Tensor]] = {
    "mean": _mean,
    "sum": _sum,
    "none": _in_place,
}
