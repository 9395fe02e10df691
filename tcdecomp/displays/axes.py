"""What all displays share: axes of a new figure, and names that leave room for the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tcdecomp._extras import needed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "DARK",
    "GREY",
    "LIGHT",
    "Display",
    "check_kind",
    "height_for",
    "ink",
    "name_columns",
    "name_rows",
    "new_figure",
    "rows_fit",
]

ROOM = 0.16  # inches that a name needs across its length
LONGEST = 14  # characters of a name in a picture; of a longer name, its beginning and its end
LEVEL = 30  # characters of names that stand side by side; longer names stand upright
DARK, LIGHT, GREY = "#3182bd", "#9ecae1", "#bdbdbd"

Self = TypeVar("Self", bound="Display")


def new_figure(who: str, **options: Any) -> Figure:
    """Return a new figure that pyplot does not know of."""
    figure: Figure = needed("matplotlib.figure", who).Figure(**{"layout": "constrained", **options})
    return figure


class Display:
    """A picture that can be drawn into any axes."""

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
        TypeError
            If ``ax`` is something else.
        """
        who = f"{type(self).__name__}.plot"
        if ax is None:
            ax = new_figure(who, figsize=self._size()).subplots()
        check_kind("ax", ax, needed("matplotlib.axes", who).Axes, "figure.subplots() makes one")
        self._draw(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _size(self) -> tuple[float, float]:
        """Return the width and the height of a new figure, in inches."""
        return 4.8, 4.2

    def _draw(self, ax: Axes) -> None:
        raise NotImplementedError


def check_kind(argument: str, value: object, kind: type, remedy: str) -> None:
    """Raise a TypeError that names the argument, if it is of another kind."""
    if not isinstance(value, kind):
        got = f"got {type(value).__name__}"
        raise TypeError(f"{argument} must be of type {kind.__name__}; {got}. {remedy}")


def height_for(rows: int) -> float:
    """Return the height of a figure in which so many rows have names, in inches."""
    return min(max(4.2, ROOM * rows / 0.75), 20)


def ink(ax: Axes) -> Any:
    """Return the colour of lines and letters in the current style."""
    return ax.spines["left"].get_edgecolor()


def rows_fit(ax: Axes, rows: int) -> bool:
    """Tell whether so many rows are high enough for their names."""
    return rows * ROOM <= ax.get_window_extent().height / ax.figure.dpi


def name_columns(ax: Axes, names: Sequence[str]) -> None:
    """Name the columns, if there is room for the names."""
    if len(names) * ROOM <= ax.get_window_extent().width / ax.figure.dpi:
        names = _shortened(names)
        upright = sum(len(name) + 1 for name in names) > LEVEL
        ax.set_xticks(range(len(names)), names, rotation=90 if upright else 0)


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """Name the rows, if there is room for the names."""
    if rows_fit(ax, len(names)):
        ax.set_yticks(range(len(names)), _shortened(names))


def _shortened(names: Sequence[str]) -> list[str]:
    """Return short names: long ones would leave no room for the panels."""
    half = LONGEST // 2
    return [
        name if len(name) <= LONGEST else f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[1 - half :]}"
        for name in names
    ]
