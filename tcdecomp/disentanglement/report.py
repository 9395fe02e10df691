"""What a report holds, and how it shows and exports its scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any

from tcdecomp._extras import needed
from tcdecomp._text import html_table, latex_text, table
from tcdecomp.disentanglement.scores import VALUES
from tcdecomp.metrics import DCI, Interval, MutualInfoGap

__all__ = ["DisentanglementReport", "half_width", "latex_cell"]


@dataclass(frozen=True, eq=False)
class DisentanglementReport:
    """Several scores of one set of codes; it shows as a table, in print and in notebooks.

    Attributes
    ----------
    scores : dict of str to Interval
        Each number, with its confidence interval and standard error, or NaN in place of them.
    confidence : float or None
        The confidence of the intervals.
    items : int
        The number of items.
    gap : MutualInfoGap
        The mutual information of every latent with every factor.
    dci : DCI or None
        The importance of every latent for every factor, if DCI was asked for.
    left_out : dict of str to str
        The scores, and parts of scores, that do not exist for these codes and factors, each with
        the reason.
    settings : dict of str to str
        The options that change the scores, such as ``n_bins``, as text.
    """

    scores: dict[str, Interval]
    confidence: float | None
    items: int
    gap: MutualInfoGap
    dci: DCI | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    def numbers(self) -> dict[str, Interval]:
        """Return the scores by name, as :func:`tcdecomp.compare` reads them."""
        return dict(self.scores)

    def __str__(self) -> str:
        rows = table(self.rows(), left=(0, 3, 4) if self.confidence else (0, 2, 3))
        return "\n\n".join([self._heading(), rows, *self._footnotes()])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{escape(note)}</p>" for note in self._footnotes())
        return f"<p>{escape(self._heading())}</p>{html_table(self.rows())}{notes}"

    def _heading(self) -> str:
        d, k = self.gap.mutual_info.shape
        return f"{self.items:,} items, {d} latents, {k} factors"

    def rows(self) -> list[tuple[str, ...]]:
        """Return the cells of the table, with the header first."""
        rows: list[tuple[str, ...]] = [
            ("score", "value", f"{100 * (self.confidence or 0):g}% interval", "better", "here")
        ]
        for name, (value, low, high, _) in self.scores.items():
            kind = VALUES[name]
            ends = "" if math.isnan(low) else f"{low:.3f} to {high:.3f}"
            better = "higher" if kind.higher else "lower"
            rows.append((kind.label, f"{value:.4f}", ends, better, kind.says.format(value)))
        return rows if self.confidence else [(*row[:2], *row[3:]) for row in rows]

    def _footnotes(self) -> list[str]:
        return [f"no {name}: {reason}" for name, reason in self.left_out.items()]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, strings, lists and dicts, fit for JSON."""
        return {
            "items": self.items,
            "confidence": self.confidence,
            "scores": {
                name: {
                    **{key: _plain(number) for key, number in interval._asdict().items()},
                    "higher_is_better": VALUES[name].higher,
                }
                for name, interval in self.scores.items()
            },
            "left_out": dict(self.left_out),
        }

    def to_json(self, path: str | PathLike[str] | None = None) -> str:
        """Return :meth:`to_dict` as JSON, and write it to a file if a path is given."""
        text = json.dumps(self.to_dict(), allow_nan=False)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def to_frame(self) -> Any:
        """Return a pandas data frame of one row: ``mig``, ``mig_low``, ``mig_high``, ...

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        row: dict[str, float] = {"items": self.items}
        for name, interval in self.scores.items():
            row[name] = interval.value
            if not math.isnan(interval.low):
                row |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
        return needed("pandas", "DisentanglementReport.to_frame").DataFrame([row])

    def to_latex(self, name: str) -> str:
        r"""Return the values as a row of a LaTeX table, ``name & 0.65 & ... \\``.

        With intervals, half of the interval's width follows the value: ``$0.65 \pm 0.01$``.
        """
        cells = (latex_cell(interval) for interval in self.scores.values())
        return f"{latex_text(name)} & {' & '.join(cells)} \\\\"


def latex_cell(interval: Interval) -> str:
    """Return a value, and half of its interval's width if it has an interval."""
    value, low, _, _ = interval
    if math.isnan(value):
        return ""
    if math.isnan(low):
        return f"${value:.2f}$"
    return rf"${value:.2f} \pm {half_width(interval):.2f}$"


def half_width(interval: Interval) -> float:
    """Return how far an interval reaches, on the side where the range of the score allows more."""
    return max(interval.high - interval.value, interval.value - interval.low)


def _plain(number: float) -> float | None:
    return None if math.isnan(number) else number
