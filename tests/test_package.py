"""The package as a whole: what importing it costs, and what it shows."""

import pkgutil
import shutil
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest

import tcdecomp
import tcdecomp_adapters

ROOT = Path(__file__).parents[1]

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


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel and an sdist, built from a copy: a build leaves its traces in the source."""
    copy, dist = tmp_path_factory.mktemp("build") / "source", tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "_build", "*.egg-info"))
    code = f"to = {str(dist)!r}; from setuptools import build_meta as backend; "
    code += "backend.build_wheel(to); backend.build_sdist(to)"
    subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, check=True)
    return dist


def test_the_wheel_installs_two_packages_of_the_version(built):
    with ZipFile(next(built.glob(f"tcdecomp-{tcdecomp.__version__}-*.whl"))) as wheel:
        names = {Path(name) for name in wheel.namelist()}
    tops = {name.parts[0] for name in names}
    assert tops == {"tcdecomp", "tcdecomp_adapters", f"tcdecomp-{tcdecomp.__version__}.dist-info"}
    for package in (tcdecomp, tcdecomp_adapters):
        folder = Path(package.__file__).parent
        sources = {path.relative_to(folder.parent) for path in folder.rglob("*.py")}
        assert sources | {Path(folder.name, "py.typed")} == {
            n for n in names if n.parts[0] == folder.name
        }


def test_the_sdist_can_be_tested(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {Path(*Path(name).parts[1:]) for name in sdist.getnames()}
    files = {path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py")}
    assert files | {Path("Makefile"), Path("constraints.txt"), Path("CITATION.cff")} <= names
