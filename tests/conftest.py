"""Settings of every test."""

import os

import torch
from hypothesis import settings

# Small tensors gain nothing from threads, and parallel test workers share the cores.
torch.set_num_threads(1)

# Before anything imports triton: without a GPU its kernels run in the interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile("tests", deadline=None, max_examples=25)
settings.load_profile("tests")
