"""Settings of every test."""

import importlib
import os
import sys
import textwrap

import pytest
import torch
from hypothesis import settings

# Small tensors gain nothing from threads, and parallel test workers share the cores.
torch.set_num_threads(1)

# Before anything imports triton: without a GPU its kernels run in the interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile("tests", deadline=None, max_examples=25)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _nothing_compiled():
    """A function may be compiled so many times in a process, and no test is to use that up."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


@pytest.fixture
def no_plugins(monkeypatch):
    """A registry that has loaded no adapter yet, and in which nothing is registered by hand."""
    from tcdecomp.plugins import registry

    monkeypatch.setattr(registry, "_by_hand", [])
    monkeypatch.setattr(registry, "_adapters", {})
    registry._claims.cache_clear()
    yield
    registry._claims.cache_clear()


@pytest.fixture
def installed(no_plugins, tmp_path, monkeypatch):
    """Return a function that installs a distribution: its entry points and its modules."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def install(distribution, entries, **modules):
        info = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
        (info / "entry_points.txt").write_text(f"[tcdecomp]\n{lines}")
        for name, source in modules.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
            written.append(name)
        importlib.invalidate_caches()

    yield install
    for name in written:
        sys.modules.pop(name, None)
