"""Several models in one table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest
from typing import Any, Protocol

from tcdecomp._exports import Exports, plain
from tcdecomp._extras import needed
from tcdecomp._text import html_table, latex_text, table
from tcdecomp.disentanglement.report import columns_of
from tcdecomp.disentanglement.scores import VALUES
from tcdecomp.displays import ComparisonDisplay
from tcdecomp.displays.axes import new_figure
from tcdecomp.metrics import Interval, interval_of_mean
from tcdecomp.terms import TERM_LABELS

__all__ = ["Comparison", "compare"]


_LEGEND = "* the best; its interval meets no other"


class Reported(Protocol):
    """A report: of :func:`tcdecomp.score` or :func:`tcdecomp.disentanglement_report`."""

    def numbers(self) -> dict[str, Interval]:
        """Return the numbers by name."""


@dataclass(frozen=True, eq=False)
class Comparison(Exports):
    """The numbers of several models; it shows as a table, in print and in notebooks.

    An asterisk marks the best value of a score, if all models have intervals and that of the best
    meets no other. The terms of the KL have no best value.

    Attributes
    ----------
    models : dict of str to dict of str to Interval
        For each model its numbers by name; NaN if some seeds lack the number.
    notes : tuple of str
        What differs in how the reports were computed, such as the number of items.
    """

    models: dict[str, dict[str, Interval]]
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The numbers that at least one model has, in the order of the reports."""
        return list(dict.fromkeys(name for numbers in self.models.values() for name in numbers))

    def __str__(self) -> str:
        return "\n\n".join([table(self._rows()), *self._footnotes()])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{escape(note)}</p>" for note in self._footnotes())
        return f"{html_table(self._rows())}{notes}"

    def _footnotes(self) -> list[str]:
        return [_LEGEND] * any(map(self._best, self.names)) + list(self.notes)

    def _rows(self) -> list[tuple[str, ...]]:
        rows = [("", *self.models)]
        for name in self.names:
            cells = (self._cell(name, numbers.get(name)) for numbers in self.models.values())
            rows.append((label_of(name), *cells))
        return rows

    def _cell(self, name: str, interval: Interval | None) -> str:
        if interval is None or math.isnan(interval.value):
            return "- "
        value, low, _, _ = interval
        half = "" if math.isnan(low) else f" +- {_half_width(interval):.3f}"
        return f"{value:.3f}{half}{'*' if interval is self._best(name) else ' '}"

    def _best(self, name: str) -> Interval | None:
        """Return the best interval of a score, if all have one and the best meets no other."""
        given = [numbers[name] for numbers in self.models.values() if name in numbers]
        found = [interval for interval in given if not math.isnan(interval.value)]
        if name not in VALUES or len(found) < 2 or any(math.isnan(i.low) for i in found):
            return None
        best, *others = sorted(found, reverse=VALUES[name].higher)
        return None if any(_meet(best, other) for other in others) else best

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, strings, lists and dicts, fit for JSON.

        What a model lacks is None.
        """
        models = {
            model: {name: plain(interval._asdict()) for name, interval in numbers.items()}
            for model, numbers in self.models.items()
        }
        return {"models": models, "notes": list(self.notes)}

    def to_frame(self) -> Any:
        """Return a pandas data frame with a row for each model: ``mig``, ``mig_low``, ...

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        rows = {model: columns_of(numbers) for model, numbers in self.models.items()}
        return needed("pandas", "Comparison.to_frame").DataFrame.from_dict(rows, orient="index")

    def plot(self, names: Sequence[str] | None = None) -> Any:
        """Draw some of the numbers, by default all, with a panel for each.

        Parameters
        ----------
        names : sequence of str, optional
            Names of numbers.

        Returns
        -------
        matplotlib.figure.Figure
            A figure that pyplot does not know of.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If no model has a number of that name, or there is no name.
        """
        chosen = self.names if names is None else list(names)
        if unknown := [name for name in chosen if name not in self.names]:
            raise ValueError(f"names must be of {', '.join(self.names)}; got {', '.join(unknown)}")
        if not chosen:
            raise ValueError("names must have at least one name; got none")
        columns = min(4, len(chosen))
        rows = math.ceil(len(chosen) / columns)
        size = 3.2 * columns, (0.9 + 0.4 * len(self.models)) * rows
        figure = new_figure("Comparison.plot", figsize=size)
        for ax, name in zip_longest(figure.subplots(rows, columns, squeeze=False).flat, chosen):
            if name is None:
                ax.set_axis_off()
                continue
            values = {m: numbers[name] for m, numbers in self.models.items() if name in numbers}
            ComparisonDisplay(values, label_of(name)).plot(ax)
        return figure

    def to_latex(self) -> str:
        """Return a LaTeX table with a row for each model and half of each interval's width."""
        names = self.names
        lines = [" & ".join(["", *(latex_text(label_of(name)) for name in names)]) + r" \\ \hline"]
        for model, numbers in self.models.items():
            cells = (_latex_cell(numbers[name]) if name in numbers else "" for name in names)
            lines.append(" & ".join([latex_text(model), *cells]) + r" \\")
        body = "\n".join(lines)
        return f"\\begin{{tabular}}{{l{'r' * len(names)}}}\n{body}\n\\end{{tabular}}"


def _latex_cell(interval: Interval) -> str:
    """Return a value, and half of its interval's width if it has an interval."""
    value, low, _, _ = interval
    if math.isnan(value):
        return ""
    if math.isnan(low):
        return f"${value:.2f}$"
    return rf"${value:.2f} \pm {_half_width(interval):.2f}$"


def _half_width(interval: Interval) -> float:
    """Return how far an interval reaches, on the side where the range of the score allows more."""
    return max(interval.high - interval.value, interval.value - interval.low)


def _meet(a: Interval, b: Interval) -> bool:
    """Tell whether two intervals meet."""
    return a.low <= b.high and b.low <= a.high


def label_of(name: str) -> str:
    """Return the label of a number."""
    return VALUES[name].label if name in VALUES else TERM_LABELS.get(name, name)


def compare(
    models: Mapping[str, Reported | Sequence[Reported]], *, confidence: float = 0.95
) -> Comparison:
    """Compare the reports of several models.

    Parameters
    ----------
    models : mapping
        From the name of a model to its report, of :func:`tcdecomp.score` or
        :func:`tcdecomp.disentanglement_report`, or to the reports of several seeds. Of several
        seeds, the table has the mean and its interval over the seeds; of one report, the interval
        of the report. If a seed lacks a number, the table has a dash.
    confidence : float, optional
        The confidence of intervals over seeds.

    Returns
    -------
    Comparison

    Raises
    ------
    TypeError, ValueError
        If ``models`` is empty, or does not map names to reports.

    Examples
    --------
    >>> import numpy as np
    >>> from tcdecomp import compare, disentanglement_report
    >>> factors = np.random.default_rng(0).integers(0, 5, (4000, 2))
    >>> codes = {"aligned": factors, "rotated": factors @ [[1, 1], [-1, 1]]}
    >>> options = {"scores": ["mig", "linear_r2"], "confidence": None, "discrete_codes": False}
    >>> reports = {name: disentanglement_report(z, factors, **options) for name, z in codes.items()}
    >>> print(compare(reports))
               aligned  rotated
    MIG         0.999    0.011
    linear R2   1.000    1.000
    """
    if not isinstance(models, Mapping) or not models:
        raise TypeError(
            f'models must map names to reports, as in {{"ours": report}}; got {models!r:.80}'
        )
    seeds = {name: _reports(name, given) for name, given in models.items()}
    return Comparison(
        {name: _numbers(reports, confidence) for name, reports in seeds.items()}, _notes(seeds)
    )


def _reports(name: str, given: Any) -> Sequence[Any]:
    reports = given if isinstance(given, Sequence) else [given]
    for report in reports:
        if not hasattr(report, "numbers"):
            raise TypeError(f"models must map names to reports; got {report!r:.80} for {name!r}")
    if not reports:
        raise ValueError(f"models must have at least one report for {name!r}; got none")
    return reports


def _numbers(reports: Sequence[Any], confidence: float) -> dict[str, Interval]:
    found = [report.numbers() for report in reports]
    if len(found) == 1:
        return dict(found[0])
    names = dict.fromkeys(name for numbers in found for name in numbers)
    return {
        name: interval_of_mean([numbers[name].value for numbers in found], confidence=confidence)
        if all(name in numbers for numbers in found)
        else Interval(math.nan, math.nan, math.nan, math.nan)
        for name in names
    }


def _notes(models: Mapping[str, Sequence[Any]]) -> tuple[str, ...]:
    """Return a sentence for each setting that differs between reports."""
    facts = {model: list(map(_facts, reports)) for model, reports in models.items()}
    notes = []
    for key in dict.fromkeys(key for found in facts.values() for fact in found for key in fact):
        values = {
            model: dict.fromkeys(fact[key] for fact in found if key in fact)
            for model, found in facts.items()
        }
        if len({value for found in values.values() for value in found}) > 1:
            each = (f"{' and '.join(found)} of {model}" for model, found in values.items() if found)
            notes.append(f"The reports differ in {key}: {', '.join(each)}")
    return tuple(notes)


def _facts(report: Any) -> dict[str, str]:
    """Return how a report was computed, as far as it says so."""
    items = getattr(report, "items", None)
    own = {"items": f"{items:,}"} if isinstance(items, int) else {}
    return {**own, **(getattr(report, "settings", None) or {})}
