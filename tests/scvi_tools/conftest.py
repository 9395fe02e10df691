"""Settings of every test of this folder."""

import sys
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

# The suite's own helpers. Not by pytest's `pythonpath`, which would write the folder as "scvi/..".
sys.path.append(str(Path(__file__).parents[1]))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
