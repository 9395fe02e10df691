"""The package as a whole: what importing it costs, and what it shows."""

import pkgutil
import subprocess
import sys

import pytest

import tcdecomp

WATCHED = (
    "sklearn",
    "scipy",
    "pandas",
    "matplotlib",
    "lightning",
    "pytorch_lightning",
    "diffusers",
    "pyro",
    "pythae",
    "torchmetrics",
    "tcdecomp_adapters",
)


def loaded_by(statement):
    """Return which of the watched packages a fresh interpreter holds after the statement."""
    code = f"import sys; {statement}; print(*[m for m in {WATCHED} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_loads_no_framework_and_no_adapter():
    modules = [f"tcdecomp.{module.name}" for module in pkgutil.iter_modules(tcdecomp.__path__)]
    assert loaded_by(f"import {', '.join(modules)}") == []


def test_the_check_above_can_fail():
    assert {"sklearn", "scipy"} <= set(loaded_by("import tcdecomp, sklearn"))


@pytest.mark.parametrize("name", tcdecomp.__all__)
def test_public_names_are_there_and_explained(name):
    public = getattr(tcdecomp, name)
    assert public.__doc__ or name == "hookimpl"


def test_no_public_function_shares_its_name_with_a_module():
    modules = {module.name for module in pkgutil.iter_modules(tcdecomp.__path__)}
    assert modules.isdisjoint(tcdecomp.__all__)
