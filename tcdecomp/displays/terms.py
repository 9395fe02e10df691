"""The terms over a training, with their brackets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tcdecomp.displays.axes import Display, check_kind
from tcdecomp.terms import TERM_LABELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["TermsDisplay"]


@dataclass(eq=False)
class TermsDisplay(Display):
    """The terms at each step of a training; a band shows the bracket of a term.

    Parameters
    ----------
    steps : sequence of float
        Steps or epochs.
    values : dict of str to sequence of float
        For each term its values, and where there is a bracket its ends ``NAME_low`` and
        ``NAME_high``; NaN where nothing was logged.

    Raises
    ------
    TypeError
        If the values are something else.

    Examples
    --------
    >>> from tcdecomp.displays import TermsDisplay
    >>> logs = [{"val/kl": 5.0, "val/total_correlation": 0.4}, {"val/kl": 4.0}]
    >>> TermsDisplay.from_logs(logs, prefix="val/").values["total_correlation"]
    [0.4, nan]
    """

    steps: Sequence[float]
    values: dict[str, list[float]]

    def __post_init__(self) -> None:
        check_kind("values", self.values, Mapping, "TermsDisplay.from_logs(records) reads logs")

    @classmethod
    def from_logs(
        cls,
        records: Iterable[Mapping[str, float]],
        *,
        prefix: str = "",
        steps: Sequence[float] | None = None,
    ) -> TermsDisplay:
        """Read the numbers that ``TCMonitor`` logs.

        Parameters
        ----------
        records : iterable of mappings
            One for each step, such as ``trainer.callback_metrics`` of each epoch.
        prefix : str, optional
            "train/" or "val/", for example.
        steps : sequence of float, optional
            By default 0, 1, ...

        Raises
        ------
        TypeError
            If the records are not mappings.
        ValueError
            If no record has a term with this prefix.
        """
        rows = list(records)
        remedy = 'Terms have terms.to_dict(), data frames frame.to_dict("records")'
        for row in rows:
            check_kind("each of records", row, Mapping, remedy)
        names = [f"{term}{end}" for term in TERM_LABELS for end in ("", "_low", "_high")]
        values = {
            name: [float(row.get(prefix + name, np.nan)) for row in rows]
            for name in names
            if any(prefix + name in row for row in rows)
        }
        if not values:
            found = ", ".join(dict.fromkeys(str(key) for row in rows for key in row)) or "none"
            raise ValueError(
                f"records must have terms, such as {prefix + 'kl'!r}; got the keys {found}. "
                "prefix= is what stands before the terms"
            )
        return cls(list(range(len(rows)) if steps is None else steps), values)

    def _draw(self, ax: Axes) -> None:
        for colour, (term, label) in enumerate(TERM_LABELS.items()):
            if term not in self.values:
                continue
            ax.plot(self.steps, self.values[term], color=f"C{colour}", label=label)
            if f"{term}_low" in self.values:
                ends = self.values[f"{term}_low"], self.values[f"{term}_high"]
                ax.fill_between(self.steps, *ends, color=f"C{colour}", alpha=0.25, linewidth=0)
        place = (0.5, -0.18)  # below the axis, where it hides no line
        ax.legend(loc="upper center", bbox_to_anchor=place, ncols=2, frameon=False)
        ax.set(title="Terms of the KL", xlabel="step", ylabel="nats per item")
