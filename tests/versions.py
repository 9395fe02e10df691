"""Marks of tests that need a newer version than the oldest that tcdecomp runs on."""

import pytest
import torch

compiles = pytest.mark.skipif(
    torch.__version__ < (2, 7), reason="torch.compile takes the loss from torch 2.7 on"
)
compiles_schedules = pytest.mark.skipif(
    torch.__version__ < (2, 13), reason="older torch compiles a weight that changes ever anew"
)
compiles_attached = pytest.mark.skipif(
    torch.__version__ < (2, 13), reason="Dynamo traces no __get__ before"
)
