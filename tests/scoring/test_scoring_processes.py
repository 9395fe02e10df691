"""score in two processes, each with some of the items, gives what one process gives."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import scoring_processes
from tcdecomp import score

PAGE = Path(__file__).parents[2] / "docs" / "learn" / "scoring.md"
EVERYWHERE = "must be the same in every process of process_group; got"


def run(arguments, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = {"capture_output": True, "text": True, "timeout": 120, "check": False}
    done = subprocess.run(arguments, cwd=folder, env=environment, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Return what each process has written."""
    folder = tmp_path_factory.mktemp("processes")
    run([sys.executable, scoring_processes.__file__, str(folder)], folder)
    names = [f"{rank}.json" for rank in range(scoring_processes.PROCESSES)]
    return [json.loads(Path(folder, name).read_text()) for name in names]


def leaves(value):
    """Return the numbers and strings of what was read from JSON, in their order."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return [leaf for part in parts for leaf in leaves(part)]
    return [value]


@pytest.mark.parametrize("kind", scoring_processes.REPORTS)
def test_the_report_is_that_of_one_process(ranks, kind):
    want = scoring_processes.alone(kind)
    first, second = (rank[kind] for rank in ranks)
    assert first == second
    assert first["items"] == scoring_processes.SIZE
    for got, expected in zip(leaves(first), leaves(want), strict=True):
        is_float = isinstance(expected, float)
        assert got == (pytest.approx(expected, rel=0, abs=1e-12) if is_float else expected)


def test_the_order_of_the_items_matters_above():
    order = torch.arange(scoring_processes.SIZE - 1, -1, -1)
    report = score(scoring_processes.model(scoring_processes.X[order]), **scoring_processes.OPTIONS)
    other = scoring_processes.alone("no factors")
    assert abs(report.to_dict()["total_correlation"] - other["total_correlation"]) > 1e-6


@pytest.mark.parametrize(
    ("case", "own"),
    [
        ("no batches", "ValueError: batches must yield at least one batch; got none"),
        ("pair", "TypeError: batches must be a DataLoader .*; got a pair of arrays"),
        ("nan", "ValueError: mu must be finite; got nan"),
        ("failure", "RuntimeError: out of memory"),
        ("length", "ValueError: codes and factors .*; got 251 and 9 rows"),
        ("num_samples", "ValueError: num_samples must be an int >= 100; got 99"),
    ],
)
def test_a_process_that_is_refused_makes_all_raise(ranks, case, own):
    first, second = (rank["told"][case] for rank in ranks)
    assert first == "ValueError: rank 1 raised an error; see its traceback"
    assert re.match(own, second)


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("width", f"D, the number of latents, {EVERYWHERE} [4, 3] by rank"),
        ("codes", f"whether there are posteriors {EVERYWHERE} [True, False] by rank"),
        ("columns", f"the columns of factors {EVERYWHERE} [('shape', 'size'), ('size',)] by rank"),
        ("some factors", f"the columns of factors {EVERYWHERE} [('shape', 'size'), None] by rank"),
        ("names", f"the columns of codes {EVERYWHERE} [('a', "),
        ("asked", f"whether factors are looked for in the batches {EVERYWHERE} [False, True]"),
        ("same share", "batches must deal out each item to one process of process_group; got"),
        ("shuffled", "batches must go through their data set in order where factors is an array"),
        ("epochs", f"seed and epoch of a DistributedSampler {EVERYWHERE} [(3, 0), (4, 0)] by rank"),
        ("seed", f"seed {EVERYWHERE} ['1', '2'] by rank"),
        ("active_threshold", f"active_threshold {EVERYWHERE} ['0.1', '0.2'] by rank"),
        ("bins", f"mig['n_bins'] {EVERYWHERE} ['9', None] by rank"),
        ("weights", f"mig['sample_weight'] {EVERYWHERE} ['[1.0, 1.0, "),
    ],
)
def test_what_all_must_agree_on(ranks, case, text):
    for rank in ranks:
        assert rank["told"][case].startswith(f"ValueError: {text}")


def test_equal_numbers_of_other_types_agree(ranks):
    assert [rank["told"]["same"] for rank in ranks] == [None, None]


def test_the_script_of_the_page_prints_the_report_of_all_items(tmp_path):
    (script,) = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (command,) = re.findall(r"^torchrun (.*) evaluate.py$", PAGE.read_text(), re.MULTILINE)
    (tmp_path / "evaluate.py").write_text(script)
    arguments = [sys.executable, "-m", "torch.distributed.run", *command.split(), "evaluate.py"]
    done = run(arguments, tmp_path)
    factors = torch.cartesian_prod(torch.arange(7), torch.arange(9))
    want = score((factors.double(), torch.full((63, 2), -4.0).double()), factors=factors)
    assert done.stdout == f"{want}\n"


def test_a_group_that_is_none_is_refused_before_the_model_has_run():
    with pytest.raises(TypeError, match='process_group must be None, "world" or'):
        score(scoring_processes.fails, [scoring_processes.X], process_group=3)
