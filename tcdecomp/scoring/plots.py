"""The pictures of a report, each drawn into axes of matplotlib, which is imported when needed."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tcdecomp.metrics import MutualInfoGap
from tcdecomp.metrics.columns import FloatArray
from tcdecomp.terms import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_estimates", "draw_gap", "draw_latents", "needed", "picture_kinds", "side_by_side"]

NAMED = 20  # latents, or factors, beyond which their names would overlap
LONGEST = 14  # characters of a name in a picture; of a longer name, its beginning and its end
LEVEL = 40  # characters of names that stand side by side; longer names stand upright
WRITTEN = (20, 8)  # rows and columns of a matrix whose numbers can be read
DARK, LIGHT, GREY = "#3182bd", "#9ecae1", "#bdbdbd"


def needed(module: str, method: str) -> Any:
    """Import a module for a method of a report.

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


def picture_kinds() -> list[str]:
    """Return the endings of the files that a figure can be written to, such as "png".

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    return sorted(_new_figure().canvas.get_supported_filetypes())


def side_by_side(
    panels: Sequence[Callable[[Axes], None]], title: str, figure: Figure | None
) -> Figure:
    """Draw panels beside each other, in a new figure by default."""
    if figure is None:
        figure = _new_figure(figsize=(4.8 * len(panels), 4.2), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        panel(axes)
    figure.suptitle(title)
    return figure


def _new_figure(**options: Any) -> Figure:
    figure: Figure = needed("matplotlib.figure", "plot").Figure(**options)
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
    _name_columns(axes, names)
    axes.margins(x=0.02)
    if active.any() and not active.all():
        axes.legend(framealpha=0.9)
    title, unit = what.rstrip(")").split(" (")
    axes.set(title=title, xlabel="latent", ylabel=unit)


def draw_gap(axes: Axes, gap: MutualInfoGap) -> None:
    """Draw the share of each factor's entropy that each latent tells, as a matrix."""
    shares: NDArray[Any] = gap.mutual_info / gap.factor_entropy
    heat = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    if all(side <= most for side, most in zip(shares.shape, WRITTEN, strict=True)):
        for (row, column), share in np.ndenumerate(shares):
            ink = "white" if share > 0.6 else "black"
            axes.text(column, row, f"{share:.2f}", color=ink, ha="center", va="center", fontsize=8)
    _name_columns(axes, gap.factor_names)
    if len(gap.latent_names) <= NAMED:
        axes.set_yticks(range(len(gap.latent_names)), _shortened(gap.latent_names))
    axes.figure.colorbar(heat, ax=axes, label="mutual information / entropy of the factor")
    axes.set(title=f"Latents and factors, MIG {gap.score:.3f}", xlabel="factor", ylabel="latent")


def _name_columns(axes: Axes, names: Sequence[str]) -> None:
    if len(names) <= NAMED:
        names = _shortened(names)
        upright = sum(len(name) + 2 for name in names) > LEVEL
        axes.set_xticks(range(len(names)), names, rotation=90 if upright else 0)


def _shortened(names: Sequence[str]) -> list[str]:
    """Return short names: long ones would leave no room for the panels."""
    half = LONGEST // 2
    return [
        name if len(name) <= LONGEST else f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[1 - half :]}"
        for name in names
    ]
