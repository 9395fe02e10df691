"""Conditional VAEs: q(z|c) is a mixture for each label c, of the rows that have the label.

With M_c of a batch's M rows labelled c, and N_c such items in the data set, each row is decomposed
with the rows of its label, as M_c of N_c items. The mean over rows is in expectation the mean over
labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import SupportsIndex

import torch
from torch import Tensor

from tcdecomp._checks import checked_labels, checked_size
from tcdecomp.minibatch.mixture import Mixture, mixture_of
from tcdecomp.minibatch.options import Options
from tcdecomp.posterior import Posterior

__all__ = ["DatasetSize", "mixtures_by_label"]

DatasetSize = SupportsIndex | Mapping[int, SupportsIndex]


def mixtures_by_label(
    posterior: Posterior,
    condition: Tensor,
    dataset_size: object,
    options: Options,
    doubt: Callable[[str, str | None], None],
) -> list[tuple[Tensor, Mixture]]:
    """Return the rows of each label, and their mixture.

    A label with fewer rows than the estimator needs says nothing about its q(z|c). Each of its
    rows is then taken for the whole of its label: it has a KL, and no MI and no TC.

    Parameters
    ----------
    posterior, condition, dataset_size, options
        As in :func:`tcdecomp.decompose`.
    doubt : callable
        Takes the kind of a warning, and its text.
    """
    condition = checked_labels("condition", condition, posterior.mu)
    if not isinstance(dataset_size, Mapping):
        raise TypeError(
            "dataset_size must map each label to its number of items where a condition is given; "
            f"got {dataset_size!r} ({type(dataset_size).__name__})"
        )
    parts, few = [], {}
    for label in torch.unique(condition).tolist():
        rows = (condition == label).nonzero().squeeze(1)
        size = _size_of(label, len(rows), dataset_size)
        if len(rows) < min(options.estimate.fewest, size):
            few[label] = len(rows)
            parts += [(row, _mixture(posterior, row, 1, options)) for row in rows[:, None]]
        else:
            mixture = _mixture(posterior, rows, size, options)
            options.estimate.check(mixture)
            parts.append((rows, mixture))
    if few:
        doubt(
            "condition",
            f"condition has too few rows of the labels {sorted(few)} in this batch for estimator "
            f"{options.estimator!r}, which needs {options.estimate.fewest}: these rows count with "
            "their KL only, without MI and TC. Larger batches, or batches that draw several rows "
            "of each label, have all terms",
        )
    return parts


def _mixture(posterior: Posterior, rows: Tensor, size: int, options: Options) -> Mixture:
    z, mu, logvar = (t.index_select(-2, rows) for t in posterior)
    return mixture_of(Posterior(z, mu, logvar), size, options.kernel)


def _size_of(label: int, rows: int, sizes: Mapping[int, SupportsIndex]) -> int:
    if label not in sizes:
        raise ValueError(
            f"dataset_size must have a number of items for each label; got none for {label}"
        )
    try:
        return checked_size(sizes[label], rows)
    except TypeError as error:
        raise TypeError(f"label {label}: {error}") from None
    except ValueError as error:
        raise ValueError(f"label {label}: {error}") from None
