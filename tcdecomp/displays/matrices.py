"""Latents against factors: mutual information, and importance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tcdecomp._extras import needed
from tcdecomp.displays.axes import (
    DARK,
    Display,
    check_kind,
    height_for,
    name_columns,
    name_rows,
    rows_fit,
)
from tcdecomp.metrics import DCI, MutualInfoGap
from tcdecomp.metrics.inputs import as_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ImportanceDisplay", "MutualInfoDisplay"]

ORANGE = "#e6550d"
WRITTEN = (20, 8)  # rows and columns of a matrix whose numbers can be read


@dataclass(eq=False)
class MutualInfoDisplay(Display):
    """The share of each factor's entropy that each latent tells, as a matrix.

    Each factor's best latent has a solid outline, the runner-up a dashed one. The difference of
    their shares is the factor's gap.

    Parameters
    ----------
    gap : MutualInfoGap
        From :func:`tcdecomp.mutual_info_gap`, or ``score(...).mig``.

    Raises
    ------
    TypeError
        If it is something else.

    Examples
    --------
    >>> from tcdecomp import mutual_info_gap
    >>> from tcdecomp.displays import MutualInfoDisplay
    >>> gap = mutual_info_gap([[0.1, 5], [0.9, 6], [0.1, 6], [0.9, 5]], [0, 1, 0, 1])
    >>> MutualInfoDisplay(gap).plot().ax_.get_title()
    'Latents and factors, MIG 1.000'
    """

    gap: MutualInfoGap

    def __post_init__(self) -> None:
        remedy = "mutual_info_gap(codes, factors) returns one, and reports have it as gap or mig"
        check_kind("gap", self.gap, MutualInfoGap, remedy)

    def _size(self) -> tuple[float, float]:
        return 4.8, height_for(len(self.gap.latent_names))

    def _draw(self, ax: Axes) -> None:
        gap = self.gap
        heat = ax.imshow(
            gap.shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest"
        )
        if all(side <= most for side, most in zip(gap.shares.shape, WRITTEN, strict=True)):
            for (row, column), share in np.ndenumerate(gap.shares):
                ink = "white" if share > 0.6 else "black"
                text = f"{share:.2f}"
                ax.text(column, row, text, color=ink, ha="center", va="center", fontsize=8)
        if rows_fit(ax, len(gap.shares)):  # an outline would hide a lower row
            self._outline(ax)
        name_columns(ax, gap.factor_names)
        name_rows(ax, gap.latent_names)
        ax.figure.colorbar(heat, ax=ax, label="share of the entropy")
        ax.set(title=f"Latents and factors, MIG {gap.score:.3f}", xlabel="factor", ylabel="latent")

    def _outline(self, ax: Axes) -> None:
        patches = needed("matplotlib.patches", "MutualInfoDisplay.plot")
        for latents, line in ((self.gap.best_latent, "-"), (self.gap.runner_up, ":")):
            for column, row in enumerate(latents):
                if row >= 0:
                    corner = column - 0.48, row - 0.46
                    options = {"edgecolor": ORANGE, "linestyle": line, "linewidth": 2}
                    ax.add_patch(patches.Rectangle(corner, 0.96, 0.92, fill=False, **options))


@dataclass(eq=False)
class ImportanceDisplay(Display):
    """How important each latent is for each factor, as squares (a Hinton diagram).

    The area of a square is the latent's share of the factor's importance.

    Parameters
    ----------
    importance : array_like, shape (D, K)
        From :func:`tcdecomp.metrics.dci_score`.
    latent_names, factor_names : tuple of str, optional
        By default "z0", "z1", ... and "v0", "v1", ...

    Raises
    ------
    TypeError, ValueError
        If the importance is not such an array.
    """

    importance: NDArray[np.float64]
    latent_names: tuple[str, ...] = ()
    factor_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.importance, DCI):
            raise TypeError("importance must be an array; got DCI. Pass its attribute importance")
        self.importance = as_array(self.importance, "importance")
        if self.importance.ndim != 2 or self.importance.dtype.kind not in "biuf":
            got = f"dtype {self.importance.dtype} and shape {self.importance.shape}"
            raise ValueError(
                "importance must be an array of numbers, a row for each latent and a column for "
                f"each factor; got {got}. dci_score(codes, factors).importance is one"
            )

    def _size(self) -> tuple[float, float]:
        n_latents, n_factors = self.importance.shape
        height = height_for(n_latents)
        return max(3.2, 1.5 + n_factors * min(0.75 * height / n_latents, 0.8)), height

    def _draw(self, ax: Axes) -> None:
        n_latents, n_factors = self.importance.shape
        total = self.importance.sum(0)
        shares = np.divide(
            self.importance, total, out=np.zeros((n_latents, n_factors)), where=total > 0
        )
        patches = needed("matplotlib.patches", "ImportanceDisplay.plot")
        for (row, column), share in np.ndenumerate(shares):
            side = 0.95 * np.sqrt(share)
            corner = column - side / 2, row - side / 2
            ax.add_patch(patches.Rectangle(corner, side, side, color=DARK, linewidth=0))
        name_columns(ax, self.factor_names or [f"v{k}" for k in range(n_factors)])
        name_rows(ax, self.latent_names or [f"z{j}" for j in range(n_latents)])
        ax.set_xlim(-0.5, n_factors - 0.5)
        ax.set_ylim(n_latents - 0.5, -0.5)
        ax.set_aspect("equal")
        ax.set(title="Importance for each factor", xlabel="factor", ylabel="latent")
