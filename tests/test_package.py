"""The package as a whole: what importing it costs, and what it shows."""

import pkgutil
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import tcdecomp
import tcdecomp_adapters

# How each adapter's framework is imported.
FRAMEWORKS = {
    "diffusers": "from diffusers import ModelMixin",  # which diffusers loads late
    "lightning": "import lightning.pytorch",
    "plain": "import torch",
    "pyro": "import pyro.infer",
    "pythae": "import pythae.trainers.training_callbacks",
    "pytorch_lightning": "import pytorch_lightning",
    "scvi": "import scvi",
    "torchmetrics": "import torchmetrics",
}
PACKAGES = set(FRAMEWORKS) - {"plain"} | {"accelerate", "ignite", "skorch", "transformers"}
WATCHED = {"sklearn", "scipy", "pandas", "matplotlib", "tcdecomp_adapters"} | PACKAGES


def loaded_by(statement, after="pass"):
    """Return which watched packages the statement loads in a fresh interpreter, after another."""
    code = (
        f"import sys; {after}; before = set(sys.modules); {statement}; "
        f"print(*({WATCHED} & set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_loads_no_framework_and_no_adapter():
    modules = [f"tcdecomp.{module.name}" for module in pkgutil.iter_modules(tcdecomp.__path__)]
    assert loaded_by(f"import {', '.join(modules)}") == []


def test_the_check_above_can_fail():
    assert {"sklearn", "scipy"} <= set(loaded_by("import tcdecomp, sklearn"))


def check_loads_no_other_framework(name):
    loaded = set(loaded_by(f"import tcdecomp_adapters.{name}", after=FRAMEWORKS[name]))
    assert loaded & (PACKAGES | {"tcdecomp_adapters"}) == {"tcdecomp_adapters"}


def test_each_adapter_is_watched():
    names = {module.name for module in pkgutil.iter_modules(tcdecomp_adapters.__path__)}
    assert {name for name in names if not name.startswith("_")} == set(FRAMEWORKS)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_an_adapter_loads_no_framework_but_its_own(name):
    if name == "scvi" and find_spec(name) is None:
        pytest.skip("scvi-tools has an environment of its own, whose tests have this one")
    check_loads_no_other_framework(name)


def test_that_check_can_fail():
    statement = "import tcdecomp_adapters.pyro, torchmetrics"
    assert "torchmetrics" in loaded_by(statement, after=FRAMEWORKS["pyro"])


@pytest.mark.parametrize("name", tcdecomp.__all__)
def test_public_names_are_there_and_explained(name):
    public = getattr(tcdecomp, name)
    assert public.__doc__ or name == "hookimpl"


def test_no_public_function_shares_its_name_with_a_module():
    modules = {module.name for module in pkgutil.iter_modules(tcdecomp.__path__)}
    assert modules.isdisjoint(tcdecomp.__all__)


def test_the_table_of_frameworks_names_the_versions_that_the_tests_run_with():
    root = Path(tcdecomp.__file__).parents[1]
    files = root / "constraints.txt", root / "tests" / "scvi_tools" / "constraints.txt"
    pins = "\n".join(file.read_text() for file in reversed(files))  # of two the first file's counts
    versions = dict(re.findall(r"^(\S+)==(\S+)$", pins, re.MULTILINE))
    page = (root / "docs" / "frameworks.md").read_text()
    rows = re.findall(r"^\| \[([^\]]+)\][^|]*\| ([^|]+) \| >= ", page, re.MULTILINE)
    distributions = {"plain PyTorch": "torch", "Pyro": "pyro-ppl", "ignite": "pytorch-ignite"}
    want = {name: versions[distributions.get(name, name.lower())] for name, _ in rows}
    assert {name: version.split()[-1] for name, version in rows} == want
    assert len(rows) == 11
