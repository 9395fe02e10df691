"""The scores of a report: how each is computed, which direction is better, what a value says."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from tcdecomp import metrics
from tcdecomp.dataset import density_mig_score
from tcdecomp.metrics import Interval, Tables
from tcdecomp.metrics.columns import Columns
from tcdecomp.metrics.tables import TableOptions

__all__ = [
    "FAST",
    "SCORES",
    "VALUES",
    "Value",
    "check_options",
    "checked_names",
    "computed",
    "each_warning_once",
    "settings_of",
    "tables_of",
]


class Value(NamedTuple):
    """What a reader needs to know about one number of a report.

    Attributes
    ----------
    label : str
        Its name in a table.
    says : str
        What a value says, in one sentence with a place for the value.
    higher : bool
        Whether a higher value is better.
    lowest : float
        The lowest possible value. The highest is 1.
    """

    label: str
    says: str
    higher: bool = True
    lowest: float = 0.0

    def within(self, interval: Interval) -> Interval:
        """Return an interval without the values that no score has."""
        # NaN stays, because it stands first
        low, high = max(interval.low, self.lowest), min(interval.high, 1.0)
        return interval._replace(low=low, high=high)


VALUES = {
    "mig": Value("MIG", "the best latent tells {:.0%} more of a factor than the second best"),
    "density_mig": Value(
        "density MIG", "by the posteriors' densities, {:.0%} more than the second best"
    ),
    "mig_sup": Value("MIG-sup", "a latent tells {:.0%} more of its best factor than of the second"),
    "dcimig": Value("DCIMIG", "{:.0%} of the factors' entropy stands alone in a latent"),
    "jemmig": Value("JEMMIG", "{:.0%} of the way to latents that hold one factor and nothing else"),
    "modularity": Value("modularity", "latents prefer one factor by {:.0%}"),
    "mcc": Value("MCC", "matched latents and factors correlate by {:.2f}"),
    "linear_r2": Value(
        "linear R2",
        "a linear map of the latents explains {:.0%} of the variance",
        lowest=-math.inf,
    ),
    "pairwise_information": Value(
        "pairwise MI", "two latents share {:.0%} of the smaller entropy on average", higher=False
    ),
    "explicitness": Value(
        "explicitness", "linear classifiers on all latents reach an area of {:.2f}"
    ),
    "sap": Value("SAP", "the best latent predicts a factor better than the second by {:.2f}"),
    "irs": Value("IRS", "latents keep still by {:.0%} of their range while one factor is fixed"),
    "infomec_modularity": Value("InfoM", "a latent's information is {:.0%} about one factor"),
    "infomec_explicitness": Value("InfoE", "linear models remove {:.0%} of the log-loss"),
    "infomec_compactness": Value("InfoC", "a factor's information is {:.0%} in one latent"),
    "factor_vae": Value(
        "FactorVAE", "the latent that varies least tells {:.0%} of the fixed factors"
    ),
    "beta_vae": Value("BetaVAE", "a linear model tells {:.0%} of the shared factors"),
    "dci_disentanglement": Value(
        "DCI disentanglement", "a latent's importance is {:.0%} for one factor"
    ),
    "dci_completeness": Value("DCI completeness", "a factor's importance is {:.0%} in one latent"),
    "dci_informativeness": Value(
        "DCI informativeness", "models of all latents score {:.0%} on test rows"
    ),
}


def _density_mig(
    codes: Columns, factors: Any, *, logvar: Any = None, sample_weight: Any = None
) -> float:
    """Return the MIG of densities, with the codes as the means of the posteriors."""
    if logvar is None:
        raise ValueError("logvar must be given, the log-variances of the posteriors")
    logvar = torch.as_tensor(logvar)
    mu = torch.from_numpy(codes.as_floats()).to(logvar)
    return density_mig_score(mu, logvar, factors, sample_weight=sample_weight)


# The scores that a user can ask for, and the numbers of each.
SCORES: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "mig": (metrics.mig_score, ()),
    "density_mig": (_density_mig, ()),
    "mig_sup": (metrics.mig_sup_score, ()),
    "dcimig": (metrics.dcimig_score, ()),
    "jemmig": (metrics.jemmig_score, ()),
    "modularity": (metrics.modularity_score, ()),
    "mcc": (metrics.mcc_score, ()),
    "linear_r2": (metrics.linear_r2_score, ()),
    "pairwise_information": (metrics.pairwise_information_score, ()),
    "explicitness": (metrics.explicitness_score, ()),
    "sap": (metrics.sap_score, ()),
    "irs": (metrics.irs_score, ()),
    "infomec": (metrics.infomec_score, ("modularity", "explicitness", "compactness")),
    "factor_vae": (metrics.factor_vae_score, ()),
    "beta_vae": (metrics.beta_vae_score, ()),
    "dci": (metrics.dci_score, ("disentanglement", "completeness", "informativeness")),
}
TABLES = ("mig", "mig_sup", "dcimig", "jemmig", "modularity")  # from one set of tables
FAST = (*TABLES, "mcc", "linear_r2", "pairwise_information")  # in about the time of reading
OPTIONS = (*TableOptions.__annotations__, "correction")


def checked_names(
    scores: str | Iterable[str] | None, *, densities: bool = False
) -> tuple[str, ...]:
    """Return the scores that are asked for, in the order of :data:`SCORES`.

    Parameters
    ----------
    scores : iterable of str, "all" or None
        Names of scores; None for the fast ones.
    densities : bool
        Whether there are log-variances: then None stands for the MIG of densities, too.
    """
    if scores is None:
        scores = (*FAST, "density_mig") if densities else FAST
    names = set(SCORES) if scores == "all" else {scores} if isinstance(scores, str) else {*scores}
    if unknown := sorted(map(str, names - set(SCORES))):
        raise ValueError(
            f"scores must be 'all' or names of {', '.join(SCORES)}; got {', '.join(unknown)}"
        )
    return tuple(name for name in SCORES if name in names)


def check_options(options: Mapping[str, Any]) -> None:
    """Raise a TypeError for an option that no score has."""
    if unknown := [name for name in options if name not in OPTIONS]:
        raise TypeError(f"options must be of {', '.join(OPTIONS)}; got {', '.join(unknown)}")


def settings_of(options: Mapping[str, Any]) -> dict[str, str]:
    """Return how scores are computed, by option: what the user chose, or the default."""
    defaults = inspect.signature(metrics.mig_score).parameters
    tables = inspect.signature(metrics.contingency_tables).parameters
    names = (*OPTIONS, "convention")  # which a report of a model can have
    known = {name: (tables.get(name) or defaults[name]).default for name in names}
    return {
        name: repr(options.get(name, default))
        for name, default in known.items()
        if name != "sample_weight"
    }


def tables_of(codes: Columns, factors: Columns, options: Mapping[str, Any]) -> Tables:
    """Return the contingency tables of codes and factors, with the options that they have."""
    own = {key: value for key, value in options.items() if key in TableOptions.__annotations__}
    return metrics.contingency_tables(codes, factors, **own)  # type: ignore[arg-type]


@contextmanager
def each_warning_once() -> Iterator[None]:
    """Give equal warnings of several scores once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in {str(warning.message): warning for warning in reversed(caught)}.values():
        place = warning.filename, warning.lineno
        warnings.warn_explicit(warning.message, warning.category, *place)


def computed(
    name: str,
    codes: Columns,
    factors: Columns,
    tables: Tables,
    options: Mapping[str, Any],
) -> tuple[dict[str, float], Any]:
    """Return the numbers of a score by their names in :data:`VALUES`, and its whole result.

    Parameters
    ----------
    name : str
        A key of :data:`SCORES`.
    codes, factors : Columns
        The codes and the factors of the same items.
    tables : Tables
        Their contingency tables.
    options : mapping
        Options of which each score gets its own.
    """
    function, fields = SCORES[name]
    known = inspect.signature(function).parameters
    own = {key: value for key, value in options.items() if key in known}
    if name in TABLES:
        correction = {key: value for key, value in own.items() if key == "correction"}
        result = function(tables, **correction)
    elif "factors" in known:
        result = function(codes, factors, **own)
    else:
        result = function(codes, **own)
    if not fields:
        return {name: float(result)}, result
    return {f"{name}_{field}": float(getattr(result, field)) for field in fields}, result
