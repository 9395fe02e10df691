"""Settings of every test."""

import os
import sys

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
