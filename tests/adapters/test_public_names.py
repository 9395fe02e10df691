"""The adapters import what third parties can import: what tcdecomp and its packages export."""

import ast
import importlib
from pathlib import Path

import pytest

import tcdecomp_adapters

SOURCES = sorted(Path(tcdecomp_adapters.__file__).parent.rglob("*.py"))


def private(source):
    """Return what a module imports from tcdecomp that no ``__all__`` of a public room has."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("tcdecomp.")]
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "tcdecomp":
            room = importlib.import_module(node.module)
            deep = node.module.count(".") > 1 or "._" in node.module
            names = [alias.name for alias in node.names]
            found += [f"{node.module}.{n}" for n in names if deep or n not in public(room)]
    return found


def public(room):
    """Return the names of a room's ``__all__``, and the modules that its ``__init__`` shows."""
    shown = {name for name in vars(room) if f"{name} as {name}" in text(room)}
    return {*room.__all__, *shown}


def text(room):
    return Path(room.__file__).read_text()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_adapters_import_public_names_only(path):
    assert private(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "from tcdecomp._checks import checked_int",
        "from tcdecomp.plugins.attachment import Attachment",
        "from tcdecomp.plugins import ask",
        "from tcdecomp.scoring import evaluation",
        "import tcdecomp.minibatch.batch",
    ],
)
def test_that_check_can_fail(line):
    assert len(private(line)) == 1
