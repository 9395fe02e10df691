"""What a report holds, and how it shows and exports its scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

from tcdecomp._exports import Exports, plain
from tcdecomp._extras import needed
from tcdecomp._text import html_table, table
from tcdecomp.disentanglement.scores import VALUES
from tcdecomp.metrics import DCI, Interval, MutualInfoGap

__all__ = ["DisentanglementReport", "columns_of"]


@dataclass(frozen=True, eq=False)
class DisentanglementReport(Exports):
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
        """Return everything as plain numbers, strings, lists and dicts, fit for JSON.

        What a score lacks is None, such as the interval of a slow score.
        """
        scores = {
            name: {**interval._asdict(), "higher_is_better": VALUES[name].higher}
            for name, interval in self.scores.items()
        }
        whole = {
            "items": self.items,
            "confidence": self.confidence,
            "scores": scores,
            "left_out": self.left_out,
            "settings": self.settings,
        }
        return {name: plain(part) for name, part in whole.items()}

    def to_frame(self) -> Any:
        """Return a pandas data frame of one row: ``mig``, ``mig_low``, ``mig_high``, ...

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        row = {"items": self.items, **columns_of(self.scores)}
        return needed("pandas", "DisentanglementReport.to_frame").DataFrame([row])


def columns_of(numbers: Mapping[str, Interval]) -> dict[str, float]:
    """Return values by name, each followed by the ends of its interval if it has one."""
    row: dict[str, float] = {}
    for name, (value, low, high, _) in numbers.items():
        row[name] = value
        if not math.isnan(low):
            row |= {f"{name}_low": low, f"{name}_high": high}
    return row
