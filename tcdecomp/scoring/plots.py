"""The pictures of a report, each drawn into axes of matplotlib, which is imported when needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tcdecomp._extras import needed
from tcdecomp.displays.axes import DARK, GREY, LIGHT, check_kind, name_columns, new_figure
from tcdecomp.metrics.columns import FloatArray
from tcdecomp.terms import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_estimates", "draw_latents", "picture_kinds", "side_by_side"]


def picture_kinds() -> list[str]:
    """Return the endings of the files that a figure can be written to, such as "png".

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    return sorted(new_figure("Report.plot").canvas.get_supported_filetypes())


def side_by_side(
    panels: Sequence[Callable[[Axes], object]], title: str, figure: Figure | None
) -> Figure:
    """Draw panels beside each other, in a new figure by default."""
    if figure is None:
        figure = new_figure("Report.plot", figsize=(4.8 * len(panels), 4.2))
    kind = needed("matplotlib.figure", "Report.plot").FigureBase
    check_kind("figure", figure, kind, "report.plot() makes one, and .savefig(path) writes it")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        panel(axes)
    figure.suptitle(title)
    return figure


def draw_estimates(axes: Axes, estimates: Mapping[str, Estimate], parts: Sequence[str]) -> None:
    """Draw a bar for each estimate, by its label; those that are parts of another are lighter."""
    values = [estimate.value for estimate in estimates.values()]
    errors = [estimate.standard_error for estimate in estimates.values()]
    axes.barh(
        list(estimates),
        values,
        xerr=[error or math.nan for error in errors],  # no mark on an exact value
        color=[LIGHT if label in parts else DARK for label in estimates],
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


def draw_latents(
    axes: Axes, heights: FloatArray, names: Sequence[str], active: NDArray[np.bool_], what: str
) -> None:
    """Draw a bar for each latent; the active ones are dark. ``what`` is "title (unit)"."""
    index = np.arange(len(heights))
    for label, colour, chosen in (("active", DARK, active), ("passive", GREY, ~active)):
        axes.bar(index[chosen], heights[chosen], color=colour, label=label)
    name_columns(axes, names)
    axes.margins(x=0.02)
    if active.any() and not active.all():
        axes.legend(framealpha=0.9)
    title, unit = what.rstrip(")").split(" (")
    axes.set(title=title, xlabel="latent", ylabel=unit)
