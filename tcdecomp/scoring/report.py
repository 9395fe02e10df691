"""What a score says: printed, exported and plotted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tcdecomp._exports import Exports, plain
from tcdecomp._extras import needed
from tcdecomp._text import table
from tcdecomp.dataset.decomposition import DatasetTerms
from tcdecomp.disentanglement import DisentanglementReport
from tcdecomp.displays import MutualInfoDisplay
from tcdecomp.metrics import Interval, MutualInfoGap
from tcdecomp.metrics.columns import FloatArray
from tcdecomp.scoring.plots import draw_estimates, draw_latents, side_by_side
from tcdecomp.scoring.printing import LABELS, estimates_text, gap_text, latents_text
from tcdecomp.scoring.units import GroupedTC
from tcdecomp.terms import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Report"]


@dataclass(frozen=True, eq=False)
class Report(Exports):
    """The score of one model over a data set, as :func:`tcdecomp.score` returns it.

    ``print`` shows it as tables. Information is in nats, per item.

    Attributes
    ----------
    items : int
        N, how many items were scored.
    latent_names : tuple of str
        "z0", "z1", ..., or the columns of a data frame of codes.
    variance : ndarray, shape (D,)
        Variance of each latent's posterior means over the items.
    active : ndarray of bool, shape (D,)
        Which latents are active: those whose variance exceeds ``active_threshold``.
    active_threshold : float
        0.01 by convention.
    terms : DatasetTerms or None
        KL, index-code mutual information, total correlation and dimension-wise KL over the data
        set, with their standard errors. None, as the next two, where only codes were scored.
    latent_kl : ndarray, shape (D,), or None
        Each latent's share of the closed-form KL; they sum to it.
    grouped_tc : GroupedTC or None
        Total correlation among the active latents, among the passive ones, and between the two.
        None, too, for a conditional model.
    mig : MutualInfoGap or None
        The mutual information gap of the posterior means; None without factors.
    mig_active : MutualInfoGap or None
        The same of the active latents alone; None too if no latent is active.
    density_mig : MutualInfoGap or None
        The gap of the posterior densities, without bins, which collapsed latents do not blur. None
        without factors or log-variances, and where a factor is not discrete.
    disentanglement : DisentanglementReport or None
        Other scores of the posterior means; None without factors.
    absence : str
        Why there are no factors, where there are none.
    settings : dict of str to str, or None
        The options of the scores, as text; :func:`tcdecomp.compare` states those that differ.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import score
    >>> codes = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
    >>> report = score(codes, factors=codes.int())
    >>> print(report)
    16 items, 2 of 2 latents active (variance of means above 0.01)
    <BLANKLINE>
    no terms: codes without log-variances; a model must return (mu, logvar)
    <BLANKLINE>
    latent  variance  active
    z0        1.2500     yes
    z1        1.2500     yes
    <BLANKLINE>
    MIG 1.0000 (information in nats)
    factor  gap     entropy  best latent  runner-up
    v0      1.0000  1.3863   z0 1.3863    z1 0.0000
    v1      1.0000  1.3863   z1 1.3863    z0 0.0000
    <BLANKLINE>
    score         value  better
    MIG-sup      1.0000  higher
    DCIMIG       1.0000  higher
    JEMMIG       1.0000  higher
    modularity   1.0000  higher
    MCC          1.0000  higher
    linear R2    1.0000  higher
    pairwise MI  0.0000  lower
    >>> report.to_dict()["mig"]
    1.0
    """

    items: int
    latent_names: tuple[str, ...]
    variance: FloatArray
    active: NDArray[np.bool_]
    active_threshold: float
    terms: DatasetTerms | None = None
    latent_kl: FloatArray | None = None
    grouped_tc: GroupedTC | None = None
    mig: MutualInfoGap | None = None
    mig_active: MutualInfoGap | None = None
    density_mig: MutualInfoGap | None = None
    disentanglement: DisentanglementReport | None = None
    absence: str = "no factors were given"
    settings: Mapping[str, str] | None = None

    @property
    def active_units(self) -> int:
        """How many latents are active."""
        return int(self.active.sum())

    def __str__(self) -> str:
        parts = [
            f"{self.items} items, {self.active_units} of {len(self.active)} latents active "
            f"(variance of means above {self.active_threshold:g})"
        ]
        if estimates := self.estimates():
            parts.append(estimates_text(estimates, self.items))
        else:
            parts.append("no terms: codes without log-variances; a model must return (mu, logvar)")
        columns = {} if self.latent_kl is None else {"kl": self.latent_kl}
        columns["variance"] = self.variance
        parts.append(latents_text(self.latent_names, columns, self.active))
        if self.mig is None:
            parts.append(f"no MIG: {self.absence}")
        else:
            score_active = None if self.mig_active is None else self.mig_active.score
            score_densities = None if self.density_mig is None else self.density_mig.score
            parts.append(gap_text(self.mig, self.active, score_active, score_densities))
        if self.disentanglement is not None:
            scores = self.disentanglement.rows()
            parts.append(table([row[:3] for row in scores], left=(0, 2)))
        return "\n\n".join(parts)

    def estimates(self) -> dict[str, Estimate]:
        """Return the KL and the terms with their standard errors, by name; none of codes alone."""
        if self.terms is None:
            return {}
        values, errors = self.terms.terms._asdict(), self.terms.standard_error._asdict()
        known = {name: Estimate(values[name].item(), errors[name].item()) for name in values}
        if self.grouped_tc is not None:
            known |= {f"tc_{name}": pair for name, pair in self.grouped_tc._asdict().items()}
        return {name: known[name] for name in LABELS if name in known}

    def numbers(self) -> dict[str, Interval]:
        """Return the terms and scores by name, with intervals of two standard errors."""
        terms = {
            name: Interval(value, value - 2 * error, value + 2 * error, error)
            for name, (value, error) in self.estimates().items()
            if not name.startswith("tc_")
        }
        mig = {} if self.mig is None else {"mig": Interval(self.mig.score, *[math.nan] * 3)}
        if self.density_mig is not None:
            mig["density_mig"] = Interval(self.density_mig.score, *[math.nan] * 3)
        return {**terms, **mig, **self._scores()}

    def _scores(self) -> dict[str, Interval]:
        """Return the scores beside the MIG."""
        return {} if self.disentanglement is None else self.disentanglement.scores

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain Python numbers, strings, lists and dicts, fit for JSON.

        A standard error follows its value, as ``total_correlation_error``. What is missing is
        None, such as the terms of codes alone, or the MIG without factors.
        """
        numbers: dict[str, Any] = {
            "items": self.items,
            "active_units": self.active_units,
            "active_threshold": self.active_threshold,
        }
        estimates = self.estimates()
        for name in LABELS:
            numbers[name], error = estimates.get(name, (None, None))
            if name != "kl":  # which is exact
                numbers[f"{name}_error"] = error
        return {
            **numbers,
            "num_samples": None if self.terms is None else self.terms.num_samples,
            "mig": None if self.mig is None else self.mig.score,
            "mig_active": None if self.mig_active is None else self.mig_active.score,
            "density_mig": None if self.density_mig is None else self.density_mig.score,
            **{name: interval.value for name, interval in self._scores().items()},
            "latents": self._by_latent(),
            "factors": self._by_factor(),
            "mutual_info": None if self.mig is None else self.mig.mutual_info.tolist(),
            "settings": plain(self.settings),
        }

    def to_frame(self) -> Any:
        """Return a pandas data frame of one row, to be concatenated over models.

        The columns are the numbers of :meth:`to_dict`. Those of a latent or a factor have its
        name: ``kl_z0``, ``variance_z0``, ``is_active_z0``, ``gap_v0``, ``entropy_v0``,
        ``best_latent_v0``. What is missing has no column.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        row = self.to_dict()
        parts = [row.pop("latents"), row.pop("factors") or {}]
        del row["mutual_info"], row["settings"]
        for part in parts:
            names = part.pop("name", [])
            for column, values in part.items():
                cells = zip(names, values or (), strict=False)
                row |= {f"{column}_{name}": value for name, value in cells}
        row = {column: value for column, value in row.items() if value is not None}
        return needed("pandas", "Report.to_frame").DataFrame([row])

    def plot(self, figure: Figure | None = None) -> Figure:
        """Draw the terms, the latents, and with factors the matrix of mutual information.

        Parameters
        ----------
        figure : matplotlib.figure.Figure, optional
            What to draw into, such as ``plt.figure()``. By default a new figure that pyplot does
            not know of: ``report.plot().savefig("score.png")``.

        Returns
        -------
        matplotlib.figure.Figure
            The figure.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If ``figure`` is something else.
        """
        panels: list[Callable[[Axes], object]] = []
        if estimates := self.estimates():
            labels = {name: _full_label(name) for name in estimates}
            bars = {labels[name]: estimate for name, estimate in estimates.items()}
            parts = [label for name, label in labels.items() if name.startswith("tc_")]
            panels.append(partial(draw_estimates, estimates=bars, parts=parts))
        heights, what = self.latent_kl, "KL of each latent (nats per item)"
        if heights is None:
            heights, what = self.variance, "Variance of each latent (variance over items)"
        panels.append(
            partial(
                draw_latents,
                heights=heights,
                names=self.latent_names,
                active=self.active,
                what=what,
            )
        )
        if self.mig is not None:
            panels.append(MutualInfoDisplay(self.mig).plot)
        active = f"{self.active_units} of {len(self.active)} latents active"
        return side_by_side(panels, f"{self.items} items, {active}", figure)

    def _by_latent(self) -> dict[str, Any]:
        return {
            "name": list(self.latent_names),
            "kl": None if self.latent_kl is None else self.latent_kl.tolist(),
            "variance": self.variance.tolist(),
            "is_active": self.active.tolist(),
        }

    def _by_factor(self) -> dict[str, Any] | None:
        if self.mig is None:
            return None
        return {
            "name": list(self.mig.factor_names),
            "gap": self.mig.gaps.tolist(),
            "entropy": self.mig.factor_entropy.tolist(),
            "best_latent": [self.latent_names[j] for j in self.mig.best_latent],
        }


def _full_label(name: str) -> str:
    return f"TC {LABELS[name]}" if name.startswith("tc_") else LABELS[name]
