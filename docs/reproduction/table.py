"""The table of results: a CSV file with one row for each run."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from reproduction.grid import Run

__all__ = ["Table", "conditions"]

Row = dict[str, Any]
PACKAGES = ("tcdecomp", "torch", "numpy", "scikit-learn")


def conditions() -> Row:
    """Return the versions and the hardware of this process."""
    versions = [f"{name} {version(name)}" for name in PACKAGES]
    return {
        "versions": "; ".join([f"python {platform.python_version()}", *versions]),
        "hardware": f"{processor()}; {torch.get_num_threads()} thread",
    }


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


class Table:
    """The rows in a file, by the keys of their runs.

    Parameters
    ----------
    path : Path
        The file. It need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = self._stored()

    def _stored(self) -> dict[str, Row]:
        if not self.path.is_file():
            return {}
        with self.path.open(newline="") as file:
            return {row["key"]: row for row in csv.DictReader(file)}

    def __contains__(self, run: Run) -> bool:
        return run.key in self.rows

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows.values())

    def add(self, run: Run, results: Row) -> None:
        """Add a run's row, or replace what the row has of these results, and write the file.

        The new file takes the place of the old one at once: an interruption loses no row. Rows
        that another process has added since are kept.
        """
        self.rows |= self._stored()
        before = self.rows.get(run.key, {"key": run.key} | asdict(run))
        self.rows[run.key] = before | results
        columns = list(dict.fromkeys(name for row in self for name in row))
        draft = self.path.with_suffix(f".part{os.getpid()}")
        with draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: shortened(v) for k, v in row.items()} for row in self)
        draft.replace(self.path)


def shortened(value: object) -> object:
    """Return a float with six digits; the rest is noise."""
    return f"{value:.6g}" if isinstance(value, float) else value
