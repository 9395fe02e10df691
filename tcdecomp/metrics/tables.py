"""Contingency tables: how often each label of a latent occurs with each label of a factor."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tcdecomp.metrics.bins import Binning, Bins
from tcdecomp.metrics.classes import Classes
from tcdecomp.metrics.coding import Coding, code_factors, code_latents
from tcdecomp.metrics.columns import Columns, FloatArray
from tcdecomp.metrics.inputs import as_array, read_pair

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["TableOptions", "Tables", "as_tables", "contingency_tables", "count_cells"]

_BLOCK = 1 << 13  # rows that are labelled and counted at a time: they stay in the cache


class TableOptions(TypedDict, total=False):
    """The options of :func:`contingency_tables`."""

    n_bins: Any
    strategy: str
    discrete_codes: bool | Sequence[bool] | None
    discrete_factors: bool | Sequence[bool]
    sample_weight: ArrayLike | None


@dataclass(frozen=True, eq=False)
class Tables:
    """The contingency tables of all latents with all factors, from which scores are computed.

    ``a + b`` joins the tables of different rows. The classes may differ. The bins must be equal:
    pass one fitted ``KBinsDiscretizer`` as ``n_bins`` for all parts.

    Attributes
    ----------
    counts : ndarray, shape (D, B, C)
        ``counts[j, b]`` is the weight of the rows in which latent j has label b, for each label of
        the first factor, then for each label of the second, and so on. B is the largest number of
        labels of a latent, C the sum of ``sizes``. Probabilities are allowed too.
    sizes : tuple of K ints
        The number of labels of each factor.
    latent_names, factor_names : tuple of str
        "z0", "z1", ... and "v0", "v1", ... unless given.
    latents, factors : tuple of Bins or Classes
        What the labels mean. Empty if unknown.
    """

    counts: FloatArray
    sizes: tuple[int, ...]
    latent_names: tuple[str, ...] = ()
    factor_names: tuple[str, ...] = ()
    latents: tuple[Coding, ...] = ()
    factors: tuple[Coding, ...] = ()

    def __post_init__(self) -> None:
        counts = np.asarray(as_array(self.counts, "counts"), np.float64)
        sizes = tuple(map(int, self.sizes))
        if counts.ndim != 3 or 0 in counts.shape or counts.shape[2] != sum(sizes):
            raise ValueError(
                f"counts must have shape (D, B, C), and C must be the sum of sizes, {sum(sizes)}; "
                f"got shape {counts.shape}"
            )
        if not (np.isfinite(counts).all() and (counts >= 0).all()):
            raise ValueError("counts must be finite and not negative")
        set_field = object.__setattr__
        set_field(self, "counts", counts)
        set_field(self, "sizes", sizes)
        for field, prefix, count in (
            ("latent_names", "z", len(counts)),
            ("factor_names", "v", len(sizes)),
        ):
            names = getattr(self, field) or tuple(f"{prefix}{i}" for i in range(count))
            if len(names) != count:
                raise ValueError(f"{field} must have {count} entries; got {len(names)}")
            set_field(self, field, tuple(names))
        totals = np.stack([part.sum((1, 2)) for part in self.split()])
        if not np.allclose(totals, totals[0, 0], rtol=1e-6, atol=0) or totals[0, 0] == 0:
            raise ValueError(
                "counts must have the same positive sum for every latent and factor; got sums "
                f"between {totals.min():g} and {totals.max():g}"
            )

    @property
    def total(self) -> float:
        """The number of rows, or their weight."""
        return float(self.counts[0, :, : self.sizes[0]].sum())

    @property
    def labels(self) -> NDArray[np.intp]:
        """How many labels each latent can have, shape (D,): bins asked for, or classes."""
        if not self.latents:
            return np.full(len(self.counts), self.counts.shape[1])
        return np.array([getattr(coding, "wanted", len(coding)) for coding in self.latents])

    def split(self) -> list[FloatArray]:
        """Return the tables of each factor, shape (D, B, size of the factor)."""
        return np.split(self.counts, np.cumsum(self.sizes)[:-1], axis=2)

    def of_latents(self, chosen: NDArray[np.bool_]) -> Tables:
        """Return the tables of some latents, by a mask of shape (D,)."""
        names = np.array(self.latent_names, object)[chosen]
        latents = tuple(coding for coding, flag in zip(self.latents, chosen, strict=False) if flag)
        return replace(self, counts=self.counts[chosen], latent_names=tuple(names), latents=latents)

    def __add__(self, other: object) -> Tables:
        if not isinstance(other, Tables):
            return NotImplemented
        for field in ("latent_names", "factor_names"):
            if getattr(self, field) != getattr(other, field):
                raise ValueError(
                    f"tables must have the same {field} to be added; got "
                    f"{getattr(self, field)} and {getattr(other, field)}"
                )
        latents = _joined(self.latents, other.latents)
        factors = _joined(self.factors, other.factors)
        a, b = (tables._coded(latents, factors) for tables in (self, other))
        if a.counts.shape != b.counts.shape or a.sizes != b.sizes:
            raise ValueError(
                "tables must have equal shapes to be added; got counts of shapes "
                f"{a.counts.shape} and {b.counts.shape}"
            )
        return replace(a, counts=a.counts + b.counts)

    def _coded(self, latents: tuple[Coding, ...], factors: tuple[Coding, ...]) -> Tables:
        """Return the same tables with room for more classes."""
        if not latents:
            return self
        sizes = tuple(map(len, factors))
        starts = np.cumsum((0, *sizes[:-1]))
        columns = np.concatenate(
            [s + _places(a, b) for s, a, b in zip(starts, self.factors, factors, strict=True)]
        )
        counts = np.zeros((len(latents), max(map(len, latents)), sum(sizes)))
        for j, (old, new) in enumerate(zip(self.latents, latents, strict=True)):
            counts[j][np.ix_(_places(old, new), columns)] = self.counts[j, : len(old)]
        return replace(self, counts=counts, sizes=sizes, latents=latents, factors=factors)


def contingency_tables(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    n_bins: Any = 20,
    strategy: str = "uniform",
    discrete_codes: bool | Sequence[bool] | None = None,
    discrete_factors: bool | Sequence[bool] = True,
    sample_weight: ArrayLike | None = None,
) -> Tables:
    """Return the contingency tables of all latents with all factors.

    Scores that are computed from such tables take them in place of codes and factors, so that
    several scores share one set of tables.

    Parameters
    ----------
    codes : array_like, shape (n, D)
        One row per item.
    factors : array_like, shape (n, K) or (n,)
        The true factors of the same items.
    n_bins, strategy, discrete_codes, discrete_factors, sample_weight : optional
        As in :func:`tcdecomp.mig_score`.

    Returns
    -------
    Tables
        Tables of different rows can be added.

    Examples
    --------
    The parts of a data set, such as batches, are counted one by one:

    >>> import numpy as np
    >>> from sklearn.preprocessing import KBinsDiscretizer
    >>> from tcdecomp.metrics import contingency_tables, mig_score
    >>> factors = np.random.default_rng(0).integers(0, 5, size=(1000, 2))
    >>> codes = factors + 0.1
    >>> bins = KBinsDiscretizer(20, strategy="uniform", subsample=None).fit(codes)
    >>> parts = [slice(0, 300), slice(300, 1000)]
    >>> first, second = (contingency_tables(codes[p], factors[p], n_bins=bins) for p in parts)
    >>> tables = first + second
    >>> tables.total
    1000.0
    >>> round(mig_score(tables), 2)
    1.0
    """
    binning = Binning(n_bins, strategy)
    latents, targets, weight = read_pair(codes, factors, sample_weight)
    z = code_latents(latents, discrete_codes, binning, weight)
    v = code_factors(targets, discrete_factors, binning, weight)
    return Tables(
        count_cells(latents, z, targets, v, weight),
        tuple(map(len, v)),
        latents.names,
        targets.names,
        tuple(z),
        tuple(v),
    )


def as_tables(codes: Any, factors: Any, **options: Unpack[TableOptions]) -> Tables:
    """Return finished tables unchanged, or make the tables of codes and factors."""
    if not isinstance(codes, Tables):
        return contingency_tables(codes, factors, **options)
    given = {"factors": factors, **options}
    parameters = inspect.signature(contingency_tables).parameters
    defaults = {name: repr(parameter.default) for name, parameter in parameters.items()}
    superfluous = [
        name for name, value in given.items() if value is not None and repr(value) != defaults[name]
    ]
    if superfluous:
        raise TypeError(
            f"{' and '.join(superfluous)} must be left out beside finished tables, which contain "
            "them: pass them to contingency_tables"
        )
    return codes


def count_cells(
    codes: Columns,
    latents: Sequence[Coding],
    factors: Columns,
    targets: Sequence[Coding],
    weight: FloatArray | None,
) -> FloatArray:
    """Return the counts of :class:`Tables`, from columns and how each becomes labels."""
    sizes = [len(coding) for coding in targets]
    starts = np.cumsum([0, *sizes[:-1]])
    shape = len(latents), max(map(len, latents)), sum(sizes)
    counts = np.zeros((shape[0], shape[1] * shape[2]))
    for start in range(0, len(factors.arrays[0]), _BLOCK):
        rows = slice(start, start + _BLOCK)
        columns = np.stack(
            [
                coding.label(array[rows]) + offset
                for coding, array, offset in zip(targets, factors.arrays, starts, strict=True)
            ]
        )
        repeated = None if weight is None else np.tile(weight[rows], len(sizes))
        for table, coding, array in zip(counts, latents, codes.arrays, strict=True):
            cells = coding.label(array[rows]) * shape[2] + columns
            table += np.bincount(cells.ravel(), repeated, table.size)
    return counts.reshape(shape)


def _joined(a: tuple[Coding, ...], b: tuple[Coding, ...]) -> tuple[Coding, ...]:
    """Return codings that have the labels of both."""
    if len(a) != len(b):
        raise ValueError("tables must both have codings, or both none, to be added")
    return tuple(map(_union, a, b))


def _union(a: Coding, b: Coding) -> Coding:
    if isinstance(a, Classes) and isinstance(b, Classes):
        return a.union(b)
    if isinstance(a, Bins) and isinstance(b, Bins) and np.array_equal(a.edges, b.edges):
        return a
    raise ValueError(
        "tables must have equal bins to be added; got different ones. Pass one fitted "
        "KBinsDiscretizer as n_bins for all parts"
    )


def _places(old: Coding, new: Coding) -> Any:
    """Return the new label of each old one."""
    if isinstance(old, Classes) and isinstance(new, Classes):
        return new.label(old.values)
    return np.arange(len(old))
