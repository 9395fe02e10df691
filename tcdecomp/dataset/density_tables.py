"""Tables of the densities of latents and the values of factors, which add across batches."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy, deepcopy
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from tcdecomp._checks import WarnOnce, check_finite, check_logvar, check_tensors
from tcdecomp._evidence import doubt_of_logvar
from tcdecomp._processes import Group, made_by_each, resolve_group
from tcdecomp.dataset.lattices import Lattices
from tcdecomp.metrics.classes import Classes, check_classes, distinct_classes
from tcdecomp.metrics.columns import Columns, FloatArray
from tcdecomp.metrics.inputs import check_row_counts, read_columns, read_weight, refuse_single
from tcdecomp.metrics.tables import Tables

__all__ = ["DensityTables", "join_tables"]

LARGEST = 2**26  # numbers in memory: 512 MiB


class DensityTables:
    """Tables of the densities q(z_j, v_k), from batches, loaders or processes, in one pass.

    ``update`` adds a batch. ``a + b`` joins the tables of different items. ``tables()`` returns the
    finished tables, from which scores are computed: :func:`tcdecomp.mutual_info_gap`,
    :func:`tcdecomp.metrics.mig_sup_score`, :func:`tcdecomp.metrics.dcimig_score` and
    :func:`tcdecomp.metrics.modularity_score`. The memory does not depend on the number of items.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import mutual_info_gap
    >>> from tcdecomp.dataset import DensityTables
    >>> factors = torch.arange(1000) % 4
    >>> mu, logvar = factors[:, None] * 1.0, torch.full((1000, 1), -6.0)
    >>> tables = DensityTables()
    >>> for batch in torch.arange(1000).split(128):
    ...     tables.update(mu[batch], logvar[batch], factors[batch])
    >>> round(mutual_info_gap(tables.tables()).score, 4)
    1.0
    """

    def __init__(self) -> None:
        self._lattices: Lattices | None = None
        self._names: tuple[str, ...] = ()
        self._classes: list[Classes] = []
        self._rows = 0
        self._warn = WarnOnce()

    @torch.no_grad()
    def update(
        self,
        mu: Tensor,
        logvar: Tensor,
        factors: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
    ) -> None:
        """Add the posteriors and factors of some items.

        Parameters
        ----------
        mu, logvar, factors, sample_weight
            As in :func:`~tcdecomp.density_mig_score`. The first call decides on the device.

        Raises
        ------
        TypeError, ValueError
            As in :func:`~tcdecomp.density_mig_score`. What depends on all items, such as a factor
            with a single value, is an error of :meth:`tables`.
        """
        check_tensors(mu=mu, logvar=logvar)
        targets = read_columns(factors, "factors", "v", vector=True)
        check_row_counts("mu", mu.shape, targets.shape)
        weight = None
        if sample_weight is not None:
            weight = read_weight(sample_weight, len(mu))
            used = weight > 0
            chosen = torch.from_numpy(used).to(mu.device)
            mu, logvar, targets, weight = (
                mu[chosen],
                logvar[chosen],
                targets.rows(used),
                weight[used],
            )
        check_finite("mu", mu)
        check_logvar(logvar)
        self._warn("logvar", doubt_of_logvar(logvar))
        targets.refuse_missing()
        classes, lattices = self._extended(targets, mu)
        pairs = zip(classes, targets.arrays, _starts(classes), strict=True)
        rows = np.stack([found.label(array) + start for found, array, start in pairs], 1)
        weights = None if weight is None else torch.from_numpy(weight)
        lattices.add(mu.detach(), logvar.detach(), torch.from_numpy(rows), weights)
        # Only now: a refused batch leaves nothing behind
        self._names, self._classes, self._lattices = targets.names, classes, lattices
        self._rows += len(rows)

    def __add__(self, other: object) -> DensityTables:
        if not isinstance(other, DensityTables):
            return NotImplemented
        if self._lattices is None or other._lattices is None:
            return deepcopy(self if other._lattices is None else other)
        _check_same(self, other)
        result = DensityTables()
        result._names, result._rows = self._names, self._rows + other._rows
        pairs = zip(self._classes, other._classes, strict=True)
        result._classes = [a.union(b) for a, b in pairs]
        result._lattices = _relabelled(self._lattices, self._classes, result._classes)
        rows = _places(other._classes, result._classes)
        result._lattices.put(other._lattices.to(self._lattices.table.device), rows)
        return result

    def tables(self, process_group: Group = None) -> Tables:
        """Return the tables of q(z_j, v_k) on a grid for each latent.

        Parameters
        ----------
        process_group : ProcessGroup or "world", optional
            Processes that hold the tables of different items. All of them must call.

        Returns
        -------
        Tables
            ``counts[j, b]`` is the density of latent j at grid point b times the distance of the
            points, for each value of each factor, summed over items.

        Raises
        ------
        ValueError
            If there are no items, or as in :func:`~tcdecomp.density_mig_score`.
        """
        group = resolve_group(process_group)
        if group is not None:
            return join_tables(made_by_each(self._on_cpu, group)).tables()
        if self._lattices is None:
            raise ValueError("DensityTables must have items; call update first")
        names = self._names
        as_numbers = "bin that column first, for example with numpy.digitize"
        check_classes("factors", names, self._classes, self._rows, as_numbers)
        columns = Columns("factors", names, tuple(found.values for found in self._classes))
        refuse_single(columns, [len(found) == 1 for found in self._classes])
        sizes = tuple(map(len, self._classes))
        return Tables(_on_grids(self._lattices, max(sizes)), sizes, (), names, (), ())

    def _extended(self, targets: Columns, mu: Tensor) -> tuple[list[Classes], Lattices]:
        """Return the classes of earlier and these factors, and lattices with room for them."""
        classes = distinct_classes(targets)
        if self._lattices is None:
            return classes, Lattices(mu.shape[1], sum(map(len, classes)), mu.device, LARGEST)
        if targets.names != self._names or mu.shape[1] != self._lattices.latents:
            raise ValueError(
                f"mu and factors must have {self._lattices.latents} columns and the columns "
                f"{self._names}, as in earlier batches; got {mu.shape[1]} and {targets.names}"
            )
        joined = [a.union(b) for a, b in zip(self._classes, classes, strict=True)]
        if list(map(len, joined)) == list(map(len, self._classes)):
            return self._classes, self._lattices
        return joined, _relabelled(self._lattices, self._classes, joined)

    def _on_cpu(self) -> DensityTables:
        result = copy(self)
        if self._lattices is not None:
            result._lattices = self._lattices.to(torch.device("cpu"))
        return result


def join_tables(parts: Sequence[DensityTables]) -> DensityTables:
    """Return the tables of all items in the parts."""
    return sum(parts[1:], start=parts[0])


def _check_same(a: DensityTables, b: DensityTables) -> None:
    found = [(t._lattices.latents, t._names) for t in (a, b) if t._lattices is not None]
    if found[0] != found[1]:
        raise ValueError(
            "tables must have equally many latents and the same factors to be added; got "
            f"{found[0]} and {found[1]}"
        )


def _starts(classes: Sequence[Classes]) -> list[int]:
    return [0, *accumulate(map(len, classes))][:-1]


def _places(old: Sequence[Classes], new: Sequence[Classes]) -> Tensor:
    """Return the rows of the new classes' table that the old classes are."""
    triples = zip(old, new, _starts(new), strict=True)
    return torch.from_numpy(np.concatenate([b.label(a.values) + start for a, b, start in triples]))


def _relabelled(lattices: Lattices, old: Sequence[Classes], new: Sequence[Classes]) -> Lattices:
    device = lattices.table.device
    result = Lattices(lattices.latents, sum(map(len, new)), device, LARGEST)
    result.put(lattices, _places(old, new).to(device))
    return result


def _on_grids(lattices: Lattices, rows: int) -> FloatArray:
    """Return the densities times the distances of the grid points, shape (D, B, C).

    B is at least ``rows``: with fewer labels than a factor has, a score would report a ceiling.
    """
    grids = [lattices.grid(j) for j in range(lattices.latents)]
    densities = lattices.densities([points for points, _ in grids])
    parts = [(q * step).T.cpu().numpy() for q, (_, step) in zip(densities, grids, strict=True)]
    longest = max(rows, *map(len, parts))
    counts = np.zeros((len(parts), longest, lattices.classes))
    for table, part in zip(counts, parts, strict=True):
        table[: len(part)] = part
    return counts
