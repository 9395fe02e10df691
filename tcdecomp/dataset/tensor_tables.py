"""Contingency tables of codes that are on an accelerator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tcdecomp._checks import check_finite
from tcdecomp.metrics.bins import Binning, Bins
from tcdecomp.metrics.classes import find_classes
from tcdecomp.metrics.columns import Columns, FloatArray
from tcdecomp.metrics.inputs import check_row_counts, read_columns, read_weight, refuse_single
from tcdecomp.metrics.tables import Tables

__all__ = ["tensor_tables"]


def tensor_tables(
    codes: Tensor,
    factors: ArrayLike,
    *,
    n_bins: Any = 20,
    sample_weight: ArrayLike | None = None,
) -> Tables:
    """Return the contingency tables of codes, counted on their device.

    Only the tables leave the device. They are those of
    :func:`tcdecomp.metrics.contingency_tables` with bins of equal width, and every score that takes
    tables takes them. On a CPU, :func:`~tcdecomp.metrics.contingency_tables` is faster.

    Parameters
    ----------
    codes : Tensor, shape (n, D)
        One row per item, of any floating dtype.
    factors : array_like, shape (n, K) or (n,)
        The true factors of the same items. Each distinct value is a class.
    n_bins : int, sequence of D ints, or KBinsDiscretizer, optional
        As in :func:`tcdecomp.mig_score`. With a fitted discretizer, tables of parts can be added.
    sample_weight : array_like, shape (n,), optional
        Weights of the rows, at least 0.

    Returns
    -------
    Tables

    Raises
    ------
    TypeError, ValueError
        As :func:`tcdecomp.mig_score` does.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import mig_score
    >>> from tcdecomp.dataset import tensor_tables
    >>> factors = torch.arange(4000).remainder(5)
    >>> codes = torch.stack([factors.float(), torch.zeros(4000)], 1)  # on any device
    >>> mig_score(tensor_tables(codes, factors))
    1.0
    """
    targets = read_columns(factors, "factors", "v", vector=True)
    _check(codes, targets)
    codes = codes.detach()
    if codes.device.type == "mps":  # it has no float64
        codes = codes.cpu()
    weight = None
    if sample_weight is not None:
        weight = read_weight(sample_weight, len(codes))
        used = weight > 0
        chosen = torch.from_numpy(used).to(codes.device)
        codes, targets, weight = codes[chosen], targets.rows(used), weight[used]
    check_finite("codes", codes)
    ends = torch.stack([codes.amin(0), codes.amax(0)]).double().cpu().numpy()
    bins = Binning(n_bins).fit(ends, None)  # bins of equal width depend on the ends alone
    targets.refuse_missing()
    classes = find_classes(targets, "bin that column first, for example with numpy.digitize")
    refuse_single(targets, (len(found) == 1 for found in classes))
    sizes = tuple(map(len, classes))
    starts = np.cumsum((0, *sizes[:-1]))
    triples = zip(classes, targets.arrays, starts, strict=True)
    columns = np.stack([found.label(array) + start for found, array, start in triples], 1)
    counts = _counted(codes, bins, columns, sum(sizes), weight)
    return Tables(counts, sizes, (), targets.names, tuple(bins), tuple(classes))


def _check(codes: Tensor, factors: Columns) -> None:
    if not isinstance(codes, Tensor) or not codes.is_floating_point():
        kind = codes.dtype if isinstance(codes, Tensor) else type(codes).__name__
        raise TypeError(f"codes must be a torch.Tensor with a floating-point dtype; got {kind}")
    if codes.dim() != 2 or 0 in codes.shape:
        raise ValueError(f"codes must have shape (n, D); got {tuple(codes.shape)}")
    check_row_counts("codes", codes.shape, factors.shape)


def _counted(
    codes: Tensor,
    bins: Sequence[Bins],
    columns: NDArray[np.intp],
    n_columns: int,
    weight: FloatArray | None,
) -> FloatArray:
    """Return the counts of :class:`Tables`. ``columns`` has a row's column for each factor."""
    device, n_rows = codes.device, max(map(len, bins))
    places = torch.from_numpy(columns).to(device)
    repeated = None
    if weight is not None:
        repeated = torch.from_numpy(np.repeat(weight, columns.shape[1])).to(device)
    counts = []
    for column, found in zip(codes.T, bins, strict=True):
        edges = torch.from_numpy(found.edges).to(device)
        rows = torch.searchsorted(edges, column.double().contiguous(), right=True)
        cells = (rows[:, None] * n_columns + places).flatten()
        counts.append(torch.bincount(cells, repeated, n_rows * n_columns))
    table: FloatArray = torch.stack(counts).double().cpu().numpy()
    return table.reshape(len(bins), n_rows, n_columns)
