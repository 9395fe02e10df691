"""The hooks are documentation: what they say must be what is called and what is tested."""

import inspect
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from pluggy import PluginManager

import tcdecomp
from tcdecomp.plugins import hooks

SPECS = sorted(name for name in hooks.__all__ if name.startswith("tcdecomp_"))
TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent


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


ADAPTERS = {
    entry.name: entry.value.rpartition(".")[2]
    for entry in entry_points(group="tcdecomp")
    if entry.dist.name == "tcdecomp"
}
# Where the tests of an adapter are, if not in tests/adapters/test_<its module>*.py.
ELSEWHERE = {"pytorch_lightning": "adapters/test_lightning*.py", "scvi": "scvi_tools/test_scvi.py"}


# Diffusers' models have no loss: the hook says what to write instead.
REFUSING = {("diffusers", "tcdecomp_attach")}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("package", ADAPTERS)
def test_each_hook_of_each_adapter_is_tested_against_the_contract(package, name):
    module = ADAPTERS[package]
    source = (ROOT / "adapters" / "tcdecomp_adapters" / f"{module}.py").read_text()
    tests = list(TESTS.glob(ELSEWHERE.get(module, f"adapters/test_{module}*.py")))
    assert tests
    check = name.replace("tcdecomp_", "check_")
    implemented = f"def {name}(" in source and (module, name) not in REFUSING
    assert not implemented or any(f"{check}(" in path.read_text() for path in tests)


def test_every_hook_has_an_adapter():
    sources = [path.read_text() for path in (ROOT / "adapters").glob("*/*.py")]
    assert all(any(f"def {name}(" in source for source in sources) for name in SPECS)


def test_the_marker_is_public():
    assert tcdecomp.hookimpl is hooks.hookimpl
