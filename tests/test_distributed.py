"""Several processes with one batch give what one process gives."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from strategies import draw_posterior
from tcdecomp import TCDecomposition

SCRIPT = Path(__file__).parent / "several_processes.py"


@pytest.fixture(scope="module", params=["0,6,12", "0,5,12", "0,3,6,9,12"])
def ranks(request, tmp_path_factory):
    """Return what each process has written; the batch of 12 is cut at these rows."""
    folder = tmp_path_factory.mktemp("processes")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), request.param, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    count = request.param.count(",")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]


@pytest.mark.parametrize("loss", ["mss", "jackknife", "inclusive", "bank"])
def test_losses_and_trained_weights_are_those_of_one_process(ranks, loss):
    for rank in ranks:
        assert max(rank["bank"]["train"] if loss == "bank" else rank[loss]) < 1e-12


@pytest.mark.parametrize("marginals", ["quadrature", "samples alone"])
def test_an_evaluation_shared_is_that_of_one_process(ranks, marginals):
    for rank in ranks:
        assert rank["evaluation"][marginals] < 1e-12


def test_tables_of_densities_are_those_of_one_process(ranks):
    for rank in ranks:
        assert max(rank["densities"]) < 1e-10


def test_tables_of_densities_that_one_process_is_refused(ranks):
    for index, rank in enumerate(ranks):
        own = "mu and factors must have one row per item each; got "
        want = own if index == 1 else "rank 1 raised an error; see its traceback"
        assert rank["factors"].startswith(want)


def test_an_evaluation_without_generators_is_the_same_everywhere(ranks):
    assert len({rank["shared seed"] for rank in ranks}) == 1


def test_a_process_without_rows_makes_all_raise(ranks):
    for index, rank in enumerate(ranks):
        if index == 1:
            assert "z, mu and logvar must not be empty" in rank["no rows"]
        else:
            assert rank["no rows"].endswith(
                "process_group must have rows in every process; none came from rank 1"
            )


def test_a_process_that_is_refused_makes_all_raise(ranks):
    for index, rank in enumerate(ranks):
        for case, error in {
            "nan": "mu must be finite",
            "prior": "no such prior",
            "flat": "must share one shape",
            "samples": "num_samples must be an int >= 100; got 50",
            "groups": "groups must hold each of the D = 3 dimensions",
            "data set": "mu must be finite",
        }.items():
            want = (
                error if index == 1 else "process_group must have valid input in every process; see"
            )
            assert want in rank[case]


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("dim", "D, the number of latents, must be the same in every process"),
        ("dim", "process of process_group; got [3, 2"),
        ("dtype", "the bits of a number must be the same"),
        ("size", "dataset_size must be the same in every process of process_group; got [100, 99"),
        ("items", "whether there are items must be the same"),
        ("small", "at least the batch size M = 12; got 11"),
    ],
)
def test_what_must_be_the_same_everywhere(ranks, case, text):
    assert all(text in rank[case] for rank in ranks)


def test_a_push_that_is_refused_in_one_process_is_refused_in_all(ranks):
    first, *others = [rank["bank"] for rank in ranks]
    assert first["push"] == "posterior must be a Posterior; got str"
    for bank in others:
        assert "see the error of rank 0" in bank["push"]
    for bank in (first, *others):
        assert bank["held"] == 0
    assert "items must be a torch.Tensor of integers; got NoneType" in first["push items"]
    assert all("see the error of rank 0" in bank["push items"] for bank in others)


def test_items_with_rows_in_several_processes_are_those_of_one_process(ranks):
    for rank in ranks:
        assert rank["repeated"] < 1e-12


def test_a_bank_must_be_shared_as_the_batch_is(ranks):
    for rank in ranks:
        assert "bank must be shared by the criterion's processes" in rank["bank"]["local"]
        assert "the number of entries in the bank must be the same" in rank["bank"]["one process"]


@pytest.mark.parametrize(
    ("group", "error", "text"),
    [
        ("all", TypeError, "process_group must be None, \"world\" or a torch.*; got 'all'"),
        (3, TypeError, "process_group must be None, .*; got 3"),
        ("world", ValueError, r"None before torch.distributed.init_process_group; got 'world'"),
    ],
)
def test_groups_that_are_none(group, error, text):
    with pytest.raises(error, match=text):
        TCDecomposition(beta=6, process_group=group)(*draw_posterior(0, 5, 2), 100)


def test_a_criterion_for_all_processes_can_be_made_and_copied_before_they_meet():
    assert copy.deepcopy(TCDecomposition(process_group="world")).process_group == "world"
    with pytest.raises(TypeError, match="process_group must be None"):
        TCDecomposition(process_group=torch)
