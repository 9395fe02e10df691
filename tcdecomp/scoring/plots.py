"""A report as a picture. Nothing here imports matplotlib before something is drawn."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tcdecomp.metrics import MutualInfoGap
from tcdecomp.metrics.columns import FloatArray
from tcdecomp.terms import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tcdecomp.scoring.report import Report

__all__ = ["LABELS", "draw", "needed", "picture_kinds"]

NAMED = 20  # latents, or factors, beyond which their names would overlap
LEVEL = 40  # characters of names that stand side by side; more of them stand upright
WRITTEN = (20, 8)  # rows and columns of a matrix whose numbers can be read
# What a report's estimates are called, in their order; the parts of total correlation follow it.
LABELS = {
    "kl": "KL",
    "index_code_mi": "index-code MI",
    "total_correlation": "total correlation",
    "tc_active": "among active latents",
    "tc_passive": "among passive latents",
    "tc_between": "between the two",
    "dimension_wise_kl": "dimension-wise KL",
}
DARK, LIGHT, GREY = "#3182bd", "#9ecae1", "#bdbdbd"


def needed(module: str, method: str) -> Any:
    """Import what a method of a report needs, and only that method.

    Raises
    ------
    ImportError
        If it cannot be imported; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"Report.{method} needs {module.partition('.')[0]}, which cannot be imported "
            f'({error}): pip install "tcdecomp[plot]"'
        ) from error


def draw(report: Report, figure: Figure | None) -> Figure:
    """Draw what :meth:`tcdecomp.scoring.Report.plot` says."""
    panels: list[Callable[[Axes], None]] = []
    if estimates := report.estimates():
        panels.append(partial(_draw_terms, estimates=estimates))
    panels.append(partial(_draw_latents, report=report))
    if report.mig is not None:
        panels.append(partial(_draw_matrix, gap=report.mig))
    if figure is None:
        figure = _new_figure(figsize=(4.8 * len(panels), 4.2), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        panel(axes)
    active = f"{report.active_units} of {len(report.active)} latents active"
    figure.suptitle(f"{report.items} items, {active}")
    return figure


def picture_kinds() -> list[str]:
    """Return the endings of the files that a figure can be written to, such as "png".

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    return sorted(_new_figure().canvas.get_supported_filetypes())


def _new_figure(**options: Any) -> Figure:
    figure: Figure = needed("matplotlib.figure", "plot").Figure(**options)
    return figure


def _draw_terms(axes: Axes, estimates: Mapping[str, Estimate]) -> None:
    values = [pair.value for pair in estimates.values()]
    errors = [pair.standard_error for pair in estimates.values()]
    axes.barh(
        [("TC " if name.startswith("tc_") else "") + LABELS[name] for name in estimates],
        values,
        xerr=[error or math.nan for error in errors],  # no mark on what is exact
        color=[LIGHT if name.startswith("tc_") else DARK for name in estimates],
        capsize=2,
    )
    for row, (value, error) in enumerate(zip(values, errors, strict=True)):
        # Rounded first, and -0.0 + 0 is 0.
        label, place = f"{round(value, 2) + 0:.2f}", (max(value + error, 0), row)
        axes.annotate(label, place, (5, 0), textcoords="offset points", va="center")
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.2 * (right - left))  # room for the longest bar's label
    axes.invert_yaxis()
    axes.set(title="Terms", xlabel="nats per item, with standard errors")


def _draw_latents(axes: Axes, report: Report) -> None:
    heights, title, unit = _heights(report)
    index = np.arange(len(heights))
    for label, colour, chosen in (
        ("active", DARK, report.active),
        ("passive", GREY, ~report.active),
    ):
        axes.bar(index[chosen], heights[chosen], color=colour, label=label)
    _name_columns(axes, report.latent_names)
    axes.margins(x=0.02)
    if report.active.any() and not report.active.all():
        axes.legend(framealpha=0.9)
    axes.set(title=title, xlabel="latent", ylabel=unit)


def _heights(report: Report) -> tuple[FloatArray, str, str]:
    if report.latent_kl is None:
        return report.variance, "Variance of each latent", "variance over items"
    return report.latent_kl, "KL of each latent", "nats per item"


def _draw_matrix(axes: Axes, gap: MutualInfoGap) -> None:
    shares: NDArray[Any] = gap.mutual_info / gap.factor_entropy
    heat = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if all(side <= most for side, most in zip(shares.shape, WRITTEN, strict=True)):
        for (row, column), share in np.ndenumerate(shares):
            ink = "white" if share > 0.6 else "black"
            axes.text(column, row, f"{share:.2f}", color=ink, ha="center", va="center", fontsize=8)
    _name_columns(axes, gap.factor_names)
    if len(gap.latent_names) <= NAMED:
        axes.set_yticks(range(len(gap.latent_names)), gap.latent_names)
    axes.figure.colorbar(heat, ax=axes, label="mutual information / entropy of the factor")
    axes.set(title=f"Latents and factors, MIG {gap.score:.3f}", xlabel="factor", ylabel="latent")


def _name_columns(axes: Axes, names: Sequence[str]) -> None:
    if len(names) <= NAMED:
        upright = sum(len(name) + 2 for name in names) > LEVEL
        axes.set_xticks(range(len(names)), names, rotation=90 if upright else 0)
