"""The exports that all reports have."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

__all__ = ["Exports", "plain"]


class Exports(ABC):
    """A report that can be exported as a dict, as JSON and as a data frame."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, strings, lists and dicts, fit for JSON."""

    @abstractmethod
    def to_frame(self) -> Any:
        """Return a pandas data frame."""

    def to_json(self, path: str | PathLike[str] | None = None) -> str:
        """Return :meth:`to_dict` as JSON, and write it to a file if a path is given."""
        text = json.dumps(self.to_dict(), allow_nan=False)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text


def plain(value: Any) -> Any:
    """Return a value with lists in place of arrays and tuples, and None in place of NaN."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
