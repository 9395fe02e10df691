"""Text tables, as reports print them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["decimal", "table"]


def decimal(value: float) -> str:
    """Return a number with four decimals, or in scientific notation if it is large."""
    # Rounded first, and -0.0 + 0 is 0.
    return f"{round(value, 4) + 0:.4f}" if abs(value) < 1e9 else f"{value:.4e}"


def table(rows: Iterable[Sequence[str]], *, numbers: bool = True) -> str:
    """Return rows as lines of aligned columns.

    Parameters
    ----------
    rows : iterable of sequences of str
        The cells, equally many in each row.
    numbers : bool
        Whether all columns but the first hold numbers, which are aligned to the right.
    """
    rows = list(rows)
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    align = str.rjust if numbers else str.ljust
    lines = ("  ".join([row[0].ljust(first), *map(align, row[1:], others)]) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
