"""The page on scvi-tools: its examples run."""

import sys
from types import ModuleType

from test_docs import DOCS, SCRIPT, run


def test_examples_run(monkeypatch):
    monkeypatch.setitem(sys.modules, SCRIPT, ModuleType(SCRIPT))
    run(DOCS / "frameworks" / "scvi.md")
