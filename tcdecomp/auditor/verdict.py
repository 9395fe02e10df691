"""One thing that the auditor found, and how exact code has to be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["EXTREME", "ROUNDING", "SLOPE", "Verdict"]

EXTREME = 5e-3  # relative error that code in single precision may have at extremes
SLOPE = 0.05  # the same, of finite differences
ROUNDING = 20  # how much more than on ordinary batches code may be off elsewhere


@dataclass(frozen=True)
class Verdict:
    """One thing that the auditor found.

    Attributes
    ----------
    name : str
        What it is called.
    kind : {"fine", "remark", "fault"}
        Only a fault makes ``Audit.ok`` false.
    sentence : str
        What the code does.
    remedy : str
        What to do about it; empty where nothing needs to be done.
    evidence : dict of str to float
        The figures behind it.
    """

    name: str
    kind: Literal["fine", "remark", "fault"]
    sentence: str
    remedy: str = ""
    evidence: dict[str, float] = field(default_factory=dict)
