"""An assertion that holds under ``python -O``, too."""

from __future__ import annotations

__all__ = ["require"]


def require(ok: bool, message: str) -> None:
    """Raise an AssertionError with the message unless ``ok``."""
    if not ok:
        raise AssertionError(message)
