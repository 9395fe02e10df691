"""Packages that only some functions need."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["needed"]


def needed(module: str, who: str) -> Any:
    """Import a module of the extra ``plot`` for ``who``.

    Raises
    ------
    ImportError
        If it cannot be imported; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{who} needs {module.partition('.')[0]}, which cannot be imported "
            f'({error}): pip install "tcdecomp[plot]"'
        ) from error
