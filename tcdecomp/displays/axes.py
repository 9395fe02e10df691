"""What all displays share: axes of a new figure, and names that leave room for the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tcdecomp._extras import needed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DARK", "GREY", "LIGHT", "NAMED", "Display", "name_columns", "name_rows", "new_figure"]

NAMED = 20  # names beyond which they would overlap
LONGEST = 14  # characters of a name in a picture; of a longer name, its beginning and its end
LEVEL = 40  # characters of names that stand side by side; longer names stand upright
DARK, LIGHT, GREY = "#3182bd", "#9ecae1", "#bdbdbd"

Self = TypeVar("Self", bound="Display")


def new_figure(who: str, **options: Any) -> Figure:
    """Return a new figure that pyplot does not know of."""
    figure: Figure = needed("matplotlib.figure", who).Figure(**{"layout": "constrained", **options})
    return figure


class Display:
    """A picture that can be drawn into any axes."""

    figsize = (4.8, 4.2)
    ax_: Axes
    figure_: Any

    def plot(self: Self, ax: Axes | None = None) -> Self:
        """Draw into the axes, by default into those of a new figure.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            The axes.

        Returns
        -------
        Display
            Itself, with the attributes ``ax_`` and ``figure_``.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        if ax is None:
            ax = new_figure(f"{type(self).__name__}.plot", figsize=self.figsize).subplots()
        self._draw(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _draw(self, ax: Axes) -> None:
        raise NotImplementedError


def name_columns(ax: Axes, names: Sequence[str]) -> None:
    """Name the columns, if there is room for the names."""
    if len(names) <= NAMED:
        names = _shortened(names)
        upright = sum(len(name) + 2 for name in names) > LEVEL
        ax.set_xticks(range(len(names)), names, rotation=90 if upright else 0)


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """Name the rows, if there is room for the names."""
    if len(names) <= NAMED:
        ax.set_yticks(range(len(names)), _shortened(names))


def _shortened(names: Sequence[str]) -> list[str]:
    """Return short names: long ones would leave no room for the panels."""
    half = LONGEST // 2
    return [
        name if len(name) <= LONGEST else f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[1 - half :]}"
        for name in names
    ]
