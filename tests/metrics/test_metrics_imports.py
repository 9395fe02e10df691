"""Importing the metrics brings in no heavy module."""

import subprocess
import sys

import pytest

HEAVY = ("sklearn", "scipy", "pandas")


def heavy_modules_after(statement):
    code = f"{statement}\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_importing_metrics_is_light():
    assert heavy_modules_after("import tcdecomp.metrics") == "[]"


@pytest.mark.parametrize("name", HEAVY)
def test_the_check_sees_heavy_modules(name):
    assert f"'{name}'" in heavy_modules_after(f"import {name}")


def test_scikit_learn_comes_with_the_first_score():
    score = "from tcdecomp.metrics import mig_score\nmig_score([[0], [1]], [0, 1])"
    assert "'sklearn'" in heavy_modules_after(score)
