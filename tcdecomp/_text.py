"""Text tables, as reports print them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape
from itertools import chain, repeat

__all__ = ["decimal", "html_table", "latex_text", "table"]

_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%_#${}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
    }
)


def decimal(value: float) -> str:
    """Return a number with four decimals, or in scientific notation if it is large."""
    # Rounded first, and -0.0 + 0 is 0.
    return f"{round(value, 4) + 0:.4f}" if abs(value) < 1e9 else f"{value:.4e}"


def table(rows: Iterable[Sequence[str]], *, left: Collection[int] = (0,)) -> str:
    """Return rows as lines of aligned columns.

    Parameters
    ----------
    rows : iterable of sequences of str
        The cells, equally many in each row.
    left : collection of int
        The columns that are aligned to the left. Numbers stand to the right.
    """
    columns = [
        [cell.ljust(width) if index in left else cell.rjust(width) for cell in column]
        for index, column in enumerate(zip(*rows, strict=True))
        for width in [max(map(len, column))]
    ]
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))


def html_table(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as a table in HTML, with the first row as its header."""
    lines = (
        "".join(f"<{tag}>{escape(cell.strip())}</{tag}>" for cell in row)
        for tag, row in zip(chain(["th"], repeat("td")), rows, strict=False)
    )
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def latex_text(text: str) -> str:
    """Return a text for LaTeX, in which no character is a command."""
    return text.translate(_LATEX)
