"""Compute the scores of a report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import make_dataclass, replace
from typing import Any

from numpy.typing import ArrayLike

from tcdecomp._progress import progress
from tcdecomp.disentanglement.report import DisentanglementReport
from tcdecomp.disentanglement.scores import (
    FAST,
    SCORES,
    VALUES,
    check_options,
    checked_names,
    computed,
    each_warning_once,
    settings_of,
    tables_of,
)
from tcdecomp.metrics import DCI, Interval, mutual_info_gap, score_interval
from tcdecomp.metrics.columns import Columns, FloatArray
from tcdecomp.metrics.inputs import check_rows, read_columns

__all__ = ["disentanglement_report", "report_of"]

UNDEFINED = "it is NaN, because it compares factors or active latents, and there is only one"
MOST = 20  # latents whose pairs are few enough to be counted for an interval
MANY = 100  # latents whose pairs are counted only if the user asks for them


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
        "pairwise_information", "density_mig", "explicitness", "sap", "irs", "infomec",
        "factor_vae", "beta_vae" and "dci". By default the first eight, which take about as long as
        reading the codes, and "density_mig" if there are log-variances. Of scores that are not
        named one by one, those that do not exist for these codes and factors are left out with the
        reason, such as MCC for factors that are not numbers, and "pairwise_information" of over 100
        latents.
    confidence : float or None, optional
        Of the intervals over rows, which the first eight scores have ("pairwise_information" for
        up to 20 latents); None computes no intervals.
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
    if not names:
        raise ValueError(
            f"scores must have at least one name of {', '.join(SCORES)}; got none. scores=None "
            "computes the fast ones"
        )
    latents = read_columns(codes, "codes", "z")
    targets = read_columns(factors, "factors", "v", vector=True)
    check_rows(latents, targets)
    shared = {**options, "random_state": random_state, "n_jobs": n_jobs}
    if logvar is not None:
        shared["logvar"] = _spreads(logvar, latents.shape)
    with each_warning_once():
        report = report_of(names, latents, targets, shared, named=scores not in (None, "all"))
        fast = [name for name in names if name in FAST and name in report.scores]
        if latents.shape[1] > MOST and "pairwise_information" in fast:
            fast.remove("pairwise_information")
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
        if name == "pairwise_information" and not named and latents.shape[1] > MANY:
            left_out[name] = f"it takes long for {latents.shape[1]} latents; name it in scores"
            continue
        try:
            numbers, result = computed(name, latents, targets, tables, options)
        except (TypeError, ValueError) as error:
            if named:
                raise
            left_out[name] = str(error)
            continue
        for key, value in numbers.items():
            if math.isnan(value):
                left_out[key] = UNDEFINED
            else:
                values[key] = value
        dci = result if isinstance(result, DCI) else dci
    gap = mutual_info_gap(tables, correction=options.get("correction"))
    found = {key: Interval(value, math.nan, math.nan, math.nan) for key, value in values.items()}
    settings = settings_of(options)
    return DisentanglementReport(found, None, latents.shape[0], gap, dci, left_out, settings)


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
    return {name: VALUES[name].within(interval) for name, interval in found.items()}
