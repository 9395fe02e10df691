"""A progress bar for everything that may take long."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

__all__ = ["progress"]

T = TypeVar("T")
PATIENCE = 3  # seconds without a sign of progress


def progress(steps: Iterable[T], label: str) -> Iterator[T]:
    """Yield the steps, and show a bar on stderr if they take more than some seconds.

    A terminal sees the bar move. A file gets a new state every few seconds.
    """
    interval = 0.1 if sys.stderr.isatty() else PATIENCE
    return iter(tqdm(steps, label, delay=PATIENCE, mininterval=interval, leave=False))
