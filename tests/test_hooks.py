"""The hooks are documentation: what they say must be what is called and what is tested."""

import inspect
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from pluggy import PluginManager

import tcdecomp
from lightning_models import PACKAGES
from tcdecomp import hooks

SPECS = sorted(name for name in hooks.__all__ if name.startswith("tcdecomp_"))
TESTS = Path(__file__).parent


def test_all_hooks_are_public_and_known_to_pluggy():
    manager = PluginManager("tcdecomp")
    manager.add_hookspecs(hooks)
    assert sorted(vars(manager.hook).keys() - {"__doc__"}) == SPECS
    assert all(getattr(manager.hook, name).spec.opts["firstresult"] for name in SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_a_hook_says_what_each_argument_is_and_does_nothing(name):
    spec = getattr(hooks, name)
    for argument in inspect.signature(spec).parameters:
        assert f"    {argument} : " in spec.__doc__
    assert "None" in spec.__doc__
    code = spec.__code__
    assert spec(*[None] * code.co_argcount) is None


@pytest.mark.parametrize("name", SPECS)
def test_every_hook_is_implemented_and_each_adapter_that_does_is_tested(name):
    adapters = [entry for entry in entry_points(group="tcdecomp") if entry.dist.name == "tcdecomp"]
    implementing = {entry.name for entry in adapters if hasattr(entry.load(), name)}
    assert implementing
    assert implementing <= {"torch", *PACKAGES}
    check = name.replace("tcdecomp_", "check_")
    for kind in {"plain" if framework == "torch" else "lightning" for framework in implementing}:
        tests = (TESTS / "adapters").glob(f"test_{kind}*.py")
        assert any(f"{check}(" in path.read_text() for path in tests)


def test_the_marker_is_public():
    assert tcdecomp.hookimpl is hooks.hookimpl
