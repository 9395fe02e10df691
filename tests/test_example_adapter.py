"""The documentation's adapter, and broken ones, as pip installs them: distributions of their own.

Each check runs in a process of its own, where nothing is registered by hand.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "docs" / "extend" / "example_adapter"


def pip_install(target, *projects):
    """Build and install the projects, from copies: a build leaves its traces in the source."""
    sources = [shutil.copytree(project, target / "src" / project.name) for project in projects]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, *offline, "--target", target / "lib", *sources],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target / "lib"


def write_project(folder, distribution, package, source):
    """Write an adapter ``distribution`` of ``package``, whose only module holds ``source``."""
    module = distribution.replace("-", "_")
    project = folder / distribution
    project.mkdir()
    (project / f"{module}.py").write_text(source)
    (project / "pyproject.toml").write_text(
        f'[project]\nname = "{distribution}"\nversion = "1.0"\n'
        f'[project.entry-points.tcdecomp]\n{package} = "{module}"\n'
        f'[tool.setuptools]\npy-modules = ["{module}"]\n'
    )
    return project


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Where the example is installed, beside a broken adapter of another package."""
    folder = tmp_path_factory.mktemp("projects")
    broken = write_project(folder, "tcdecomp-broken", "brokenvae", "import absent_framework\n")
    target = tmp_path_factory.mktemp("installed")
    return pip_install(target, EXAMPLE / "theirvae", EXAMPLE / "tcdecomp-theirvae", broken)


def python(*arguments, path, **options):
    """Run Python with the folders of ``path`` to import from, and return what it did."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def reported(code, *path, cwd):
    """Return what the code puts into the dict ``report``, which it finds empty."""
    code = f"import json\nreport = {{}}\n{code}\nprint(json.dumps(report))"
    done = python("-c", code, path=path, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_adapters_own_tests_pass(installed, tmp_path):
    project = shutil.copytree(EXAMPLE / "tcdecomp-theirvae", tmp_path / "project")
    # From its tests' folder: what is tested is the installed module.
    options = ("-m", "pytest", "-rA", "-p", "no:cacheprovider", "--rootdir", project)
    done = python(*options, path=[installed], cwd=project / "tests")
    assert done.returncode == 0, done.stdout + done.stderr
    (source,) = (project / "tests").glob("test_*.py")
    written = re.findall(r"^def (test_\w+)", source.read_text(), re.MULTILINE)
    passed = re.findall(r"^PASSED \S+::(\w+)", done.stdout, re.MULTILINE)
    assert set(passed) == set(written)
    assert not re.search(r"^(FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", done.stdout, re.MULTILINE)
    assert {"test_encode_holds_to_the_contract", "test_attach_holds_to_the_contract"} < set(written)


@pytest.fixture(scope="module")
def report(installed, tmp_path_factory):
    """What a process saw in which the example is installed, beside a broken adapter."""
    return reported(SESSION, installed, cwd=tmp_path_factory.mktemp("session"))


SESSION = """
import sys

import tcdecomp

report["after import"] = [name for name in sys.modules if "theirvae" in name]

import torch
from tcdecomp import TCDecomposition, attach, encode, hookimpl, plugins
from theirvae import TheirVAE

class Seam(torch.nn.Module):
    def encode(self, x):
        return x, x

class ByHand:
    @hookimpl
    def tcdecomp_encode(self, model):
        return (torch.zeros(8, 1), torch.zeros(8, 1)) if isinstance(model, TheirVAE) else None

class Broken:
    __module__ = "brokenvae.models"

def width(model):
    return encode(model, {"image": torch.rand(8, 12)}).mu.shape[1]

def failure(model):
    try:
        return width(model)
    except ImportError as error:
        return str(error)

encode(Seam(), torch.zeros(8, 2))
report["after another's model"] = "tcdecomp_theirvae" in sys.modules
report["width"] = width(TheirVAE())
report["file"] = sys.modules["tcdecomp_theirvae"].__file__

model = TheirVAE()
with attach(model, TCDecomposition(beta=6), 100) as handle:
    model({"image": torch.rand(8, 12)})
    report["attached"] = repr(handle)
    report["terms"] = list(handle.terms()._asdict())

report["broken"] = [failure(Broken()), width(TheirVAE()), failure(Broken()), width(TheirVAE())]

plugin = ByHand()
plugins.register(plugin)
report["by hand"] = width(TheirVAE())
plugins.unregister(plugin)
report["unregistered"] = width(TheirVAE())
"""


def test_importing_tcdecomp_imports_no_adapter(report):
    assert report["after import"] == []


def test_it_is_loaded_for_models_of_its_package_only(report, installed):
    assert not report["after another's model"]
    assert report["file"] == str(installed / "tcdecomp_theirvae.py")


def test_encode_and_attach_find_it_by_its_entry_point(report):
    assert report["width"] == 3
    assert report["attached"] == "<Attachment to TheirVAE.loss_function, dataset_size=100>"
    assert "total_correlation" in report["terms"]


def test_a_plugin_registered_by_hand_is_asked_before_the_adapter(report):
    assert (report["by hand"], report["unregistered"]) == (1, 3)


def test_a_broken_adapter_names_itself_and_breaks_nobody_else(report):
    message = (
        "'brokenvae = tcdecomp_broken' of tcdecomp-broken could not be loaded: "
        "ModuleNotFoundError: No module named 'absent_framework'"
    )
    assert report["broken"] == [message, 3, message, 3]


RIVALRY = """
import torch
from tcdecomp import TCDecomposition, attach, encode
from theirvae import TheirVAE

class Seam(torch.nn.Module):
    def kl_loss(self, z, mu, logvar):
        return mu.sum()

def failure(function, *arguments):
    try:
        function(*arguments)
    except ImportError as error:
        return str(error)

report["encode"] = failure(encode, TheirVAE(), {"image": torch.rand(8, 12)})
report["attach"] = failure(attach, TheirVAE(), TCDecomposition(), 100)
report["others"] = repr(attach(Seam(), TCDecomposition(), 100))
"""


def test_two_distributions_that_claim_one_package_are_an_error_that_names_both(installed, tmp_path):
    rival = write_project(tmp_path, "tcdecomp-rival", "theirvae", "raise RuntimeError\n")
    path = installed, pip_install(tmp_path / "rival", rival)
    report = reported(RIVALRY, *path, cwd=tmp_path)
    for message in (report["encode"], report["attach"]):
        assert message.startswith("entry point 'theirvae' of group 'tcdecomp' must be claimed by o")
        assert "'theirvae = tcdecomp_theirvae' of tcdecomp-theirvae" in message
        assert "'theirvae = tcdecomp_rival' of tcdecomp-rival" in message
    assert report["others"] == "<Attachment to Seam.kl_loss, dataset_size=100>"
