"""Several scores of one set of codes as one report."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, make_dataclass, replace
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from tcdecomp._extras import needed
from tcdecomp._progress import progress
from tcdecomp._text import html_table, table
from tcdecomp.disentanglement.scores import (
    FAST,
    VALUES,
    check_options,
    checked_names,
    computed,
    each_warning_once,
    tables_of,
)
from tcdecomp.metrics import DCI, Interval, MutualInfoGap, mutual_info_gap, score_interval
from tcdecomp.metrics.columns import Columns, FloatArray
from tcdecomp.metrics.inputs import check_rows, read_columns

__all__ = ["DisentanglementReport", "disentanglement_report"]


@dataclass(frozen=True, eq=False)
class DisentanglementReport:
    """Several scores of one set of codes; it shows as a table, in print and in notebooks.

    Attributes
    ----------
    scores : dict of str to Interval
        Each number, with its confidence interval and standard error, or NaN in place of them.
    confidence : float or None
        The confidence of the intervals.
    items : int
        The number of items.
    gap : MutualInfoGap
        The mutual information of every latent with every factor.
    dci : DCI or None
        The importance of every latent for every factor, if DCI was asked for.
    left_out : dict of str to str
        The scores that do not exist for these codes and factors, each with the reason.
    """

    scores: dict[str, Interval]
    confidence: float | None
    items: int
    gap: MutualInfoGap
    dci: DCI | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)

    def numbers(self) -> dict[str, Interval]:
        """Return the scores by name, as :func:`tcdecomp.compare` reads them."""
        return dict(self.scores)

    def __str__(self) -> str:
        rows = table(self.rows(), left=(0, 3, 4) if self.confidence else (0, 2, 3))
        return "\n\n".join([self._heading(), rows, *self._footnotes()])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{escape(note)}</p>" for note in self._footnotes())
        return f"<p>{escape(self._heading())}</p>{html_table(self.rows())}{notes}"

    def _heading(self) -> str:
        d, k = self.gap.mutual_info.shape
        return f"{self.items:,} items, {d} latents, {k} factors"

    def rows(self) -> list[tuple[str, ...]]:
        """Return the cells of the table, with the header first."""
        rows: list[tuple[str, ...]] = [
            ("score", "value", f"{self.confidence or 0:.0%} interval", "better", "here")
        ]
        for name, (value, low, high, _) in self.scores.items():
            kind = VALUES[name]
            ends = "" if math.isnan(low) else f"{low:.3f} to {high:.3f}"
            better = "higher" if kind.higher else "lower"
            rows.append((kind.label, f"{value:.4f}", ends, better, kind.says.format(value)))
        return rows if self.confidence else [(*row[:2], *row[3:]) for row in rows]

    def _footnotes(self) -> list[str]:
        return [f"no {name}: {reason}" for name, reason in self.left_out.items()]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, strings, lists and dicts, fit for JSON."""
        return {
            "items": self.items,
            "confidence": self.confidence,
            "scores": {
                name: {
                    **{key: _plain(number) for key, number in interval._asdict().items()},
                    "higher_is_better": VALUES[name].higher,
                }
                for name, interval in self.scores.items()
            },
            "left_out": dict(self.left_out),
        }

    def to_json(self, path: str | PathLike[str] | None = None) -> str:
        """Return :meth:`to_dict` as JSON, and write it to a file if a path is given."""
        text = json.dumps(self.to_dict(), allow_nan=False)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def to_frame(self) -> Any:
        """Return a pandas data frame of one row: ``mig``, ``mig_low``, ``mig_high``, ...

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        row: dict[str, float] = {"items": self.items}
        for name, interval in self.scores.items():
            row[name] = interval.value
            if not math.isnan(interval.low):
                row |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
        return needed("pandas", "DisentanglementReport.to_frame").DataFrame([row])

    def to_latex(self, name: str) -> str:
        r"""Return the values as a row of a LaTeX table, ``name & 0.65 & ... \\``.

        With intervals, half of the interval's width follows the value: ``$0.65 \pm 0.01$``.
        """
        cells = (latex_cell(interval) for interval in self.scores.values())
        return f"{name} & {' & '.join(cells)} \\\\"


def latex_cell(interval: Interval) -> str:
    """Return a value, and half of its interval's width if it has an interval."""
    value, low, high, _ = interval
    if math.isnan(low):
        return f"${value:.2f}$"
    return rf"${value:.2f} \pm {(high - low) / 2:.2f}$"


def _plain(number: float) -> float | None:
    return None if math.isnan(number) else number


def disentanglement_report(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    logvar: ArrayLike | None = None,
    scores: str | Iterable[str] | None = None,
    confidence: float | None = 0.95,
    n_resamples: int = 100,
    random_state: Any = 0,
    n_jobs: int | None = None,
    **options: Any,
) -> DisentanglementReport:
    """Compute several scores of one set of codes, with confidence intervals.

    Parameters
    ----------
    codes : array_like, shape (n, D)
        One row per item, as in :func:`tcdecomp.mig_score`.
    factors : array_like, shape (n, K) or (n,)
        The true factors of the same items.
    logvar : array_like, shape (n, D), optional
        The log-variances of the posteriors, if the codes are their means, for "density_mig", the
        MIG of the paper (:func:`tcdecomp.density_mig_score`).
    scores : iterable of str or "all", optional
        Any of "mig", "mig_sup", "dcimig", "jemmig", "modularity", "mcc", "linear_r2",
        "pairwise_information", "density_mig", "explicitness", "sap", "infomec", "factor_vae",
        "beta_vae" and "dci". By default the first eight, which take about as long as reading the
        codes, and "density_mig" if there are log-variances. Of scores that are not named one by
        one, those that do not exist for these codes and factors are left out with the reason, such
        as MCC for factors that are not numbers.
    confidence : float or None, optional
        Of the intervals over rows, which the first eight scores have; None computes no intervals.
        See :func:`tcdecomp.metrics.score_interval`.
    n_resamples : int, optional
        How often the scores are computed for their intervals.
    random_state : int, RandomState or None, optional
        For the intervals, and for scores that draw rows or fit models at random.
    n_jobs : int, optional
        Processes in which DCI fits its models.
    **options
        ``n_bins``, ``strategy``, ``discrete_codes``, ``discrete_factors``, ``sample_weight`` and
        ``correction`` of :func:`tcdecomp.mig_score`. Each score gets those that it has.

    Returns
    -------
    DisentanglementReport

    Raises
    ------
    TypeError, ValueError
        As :func:`tcdecomp.mig_score` does; if an option or a score is unknown; and if a score that
        is named does not exist for these codes and factors.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp import disentanglement_report
    >>> factors = np.random.default_rng(0).integers(0, 5, (4000, 2))
    >>> codes = factors @ [[1.0, 0.5], [0.0, 1.0]]
    >>> report = disentanglement_report(codes, factors, scores=["mcc"])
    >>> print(report)
    4,000 items, 2 latents, 2 factors
    <BLANKLINE>
    score   value    95% interval  better  here
    MCC    0.9464  0.944 to 0.948  higher  matched latents and factors correlate by 0.95
    """
    check_options(options)
    names = checked_names(scores, densities=logvar is not None)
    latents = read_columns(codes, "codes", "z")
    targets = read_columns(factors, "factors", "v", vector=True)
    check_rows(latents, targets)
    shared = {**options, "random_state": random_state, "n_jobs": n_jobs}
    if logvar is not None:
        shared["logvar"] = _spreads(logvar, latents.shape)
    with each_warning_once():
        report = report_of(names, latents, targets, shared, named=scores not in (None, "all"))
        fast = [name for name in names if name in FAST and name in report.scores]
        if confidence is None or not fast:
            return report
        resampling = {"confidence": confidence, "n_resamples": n_resamples}
        found = _intervals(fast, latents, targets, shared, **resampling)
    return replace(report, scores={**report.scores, **found}, confidence=confidence)


def _spreads(logvar: ArrayLike, shape: tuple[int, int]) -> FloatArray:
    """Return log-variances of the shape of the codes."""
    columns = read_columns(logvar, "logvar", "z")
    if columns.shape != shape:
        raise ValueError(f"logvar must have the shape of codes, {shape}; got {columns.shape}")
    return columns.as_floats()


def report_of(
    names: Iterable[str],
    latents: Columns,
    targets: Columns,
    options: Mapping[str, Any],
    *,
    named: bool,
) -> DisentanglementReport:
    """Return the report without intervals.

    Parameters
    ----------
    names : iterable of str
        Keys of :data:`tcdecomp.disentanglement.scores.SCORES`.
    latents, targets : Columns
        The codes and the factors of the same items.
    options : mapping
        Options of any score.
    named : bool
        Whether the user named the scores: then a score that does not exist is an error.
    """
    tables = tables_of(latents, targets, options)
    values: dict[str, float] = {}
    left_out: dict[str, str] = {}
    dci = None
    for name in progress(list(names), "scores"):
        try:
            numbers, result = computed(name, latents, targets, tables, options)
        except (TypeError, ValueError) as error:
            if named:
                raise
            left_out[name] = str(error)
            continue
        values |= {key: value for key, value in numbers.items() if not math.isnan(value)}
        dci = result if isinstance(result, DCI) else dci
    gap = mutual_info_gap(tables, correction=options.get("correction"))
    found = {key: Interval(value, math.nan, math.nan, math.nan) for key, value in values.items()}
    return DisentanglementReport(found, None, latents.shape[0], gap, dci, left_out)


def _intervals(
    names: Iterable[str],
    codes: Columns,
    factors: Columns,
    options: Mapping[str, Any],
    **resampling: Any,
) -> dict[str, Interval]:
    """Return the scores of some names with their intervals, all from the same random parts."""

    def numbers(codes: Columns, factors: Columns, *, random_state: Any, **own: Any) -> Any:
        shared = {**own, "random_state": random_state}
        tables = tables_of(codes, factors, shared)
        values: dict[str, float] = {}
        for name in names:
            values |= computed(name, codes, factors, tables, shared)[0]
        return make_dataclass("Numbers", [(name, float) for name in values])(**values)

    found: dict[str, Interval] = score_interval(numbers, codes, factors, **resampling, **options)  # type: ignore[arg-type]
    return found
