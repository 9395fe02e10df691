"""Settings of every test."""

import torch
from hypothesis import settings

# Small tensors gain nothing from threads, and parallel test workers share the cores.
torch.set_num_threads(1)

settings.register_profile("tests", deadline=None, max_examples=25)
settings.load_profile("tests")
