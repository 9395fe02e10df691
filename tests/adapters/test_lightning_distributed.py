"""Two processes with DistributedDataParallel: each logs what the whole set gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_models import PACKAGES

SCRIPT = Path(__file__).parents[1] / "lightning_ddp.py"


@pytest.fixture(scope="module", params=PACKAGES)
def ranks(request, tmp_path_factory):
    """Return what each process has written."""
    folder = tmp_path_factory.mktemp("ddp")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), request.param, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_every_process_logs_the_same(ranks):
    first, second = ranks
    ours = [key for key in first["fit"] if key.split("/")[1] not in ("loss", "reconstruction")]
    assert len(ours) == 15
    assert [first["fit"][key] for key in ours] == [second["fit"][key] for key in ours]
    assert first["lopsided"] == second["lopsided"]


def test_mig_and_kl_are_those_of_the_whole_set(ranks):
    for rank in ranks:
        assert rank["fit"]["val/mig"] == pytest.approx(rank["whole"]["mig"], abs=1e-6)
        assert rank["fit"]["val/kl"] == pytest.approx(rank["whole"]["kl"], rel=1e-5)


def test_repeated_items_count_once_in_the_mig(ranks):
    for rank in ranks:
        mig = rank["odd"]["whole"]["mig"]
        assert rank["odd"]["logged"]["val/mig"] == pytest.approx(mig, abs=1e-6)


def test_each_process_draws_noise_of_its_own(ranks):
    assert abs(ranks[0]["noise"] - ranks[1]["noise"]) > 0.01


def test_a_process_without_an_estimate_does_not_hold_up_the_other(ranks):
    assert set(ranks[0]["lopsided"]) >= {"val/total_correlation", "val/kl", "val/mig"}


def test_a_learned_prior_stays_the_same_in_all_processes(ranks):
    assert ranks[0]["weights"] == ranks[1]["weights"]


def test_two_processes_train_as_one_with_the_whole_batch(ranks):
    assert [rank["difference"] < 1e-6 for rank in ranks] == [True, True]
