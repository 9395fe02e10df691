"""The reproduction: its runs, its data, a training of few steps, and the table of results."""

import csv
import math
from collections import Counter
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from reproduction import data, grid, summary
from reproduction.__main__ import main
from reproduction.grid import Run, runs
from reproduction.table import Table
from reproduction.training import train
from tcdecomp.demo.images import squares
from tcdecomp.demo.models import Recipe

VAE = Run("squares", "VAE", 1, 1, 1, 1, "squares", 0.0, 0)
TINY = Recipe(steps=3, batch_size=32, lr=1e-3, width=8, latents=3)


# The grid


def test_each_part_of_the_grid_is_balanced_whenever_it_stops():
    planned = list(runs("squares", range(3)))
    assert [run.seed for run in planned] == sorted(run.seed for run in planned)
    assert len({run.key for run in planned}) == len(planned) == 3 * (1 + 5 * 3)
    assert Counter(run.method for run in planned) == {
        "VAE": 3, "beta-VAE": 15, "beta-TCVAE": 15, "FactorVAE": 15
    }  # fmt: skip


@pytest.mark.parametrize("part", grid.PARTS)
def test_weights_are_those_of_the_methods(part):
    for run in runs(part, [0]):
        weights = (run.alpha, run.beta, run.gamma)
        b = run.weight
        expected = {
            "VAE": (1, 1, 1),
            "beta-VAE": (b, b, b),
            "beta-TCVAE": (1, b, 1),
            "FactorVAE": (1, b, 1),
            "alpha alone": (b, 1, 1),
            "gamma alone": (1, 1, b),
            "InfoMax": (b, 1, 1),
            "information dropout": (b, b, 0),
        }
        assert weights == expected[run.method]


# The data


def test_objects_are_every_combination_each_its_own():
    images = data.objects()
    assert len(images) == 4 * 8 * 8 * 3
    assert len(np.unique(images.flat().numpy(), axis=0)) == len(images)
    assert len(np.unique(images.factors, axis=0)) == len(images)
    color = images.factors[:, images.factor_names.index("color")]
    assert np.array_equal(images.pixels.sum(axis=(1, 2)).argmax(axis=1), color)
    # One channel alone is lit.
    assert np.array_equal((images.pixels.sum(axis=(1, 2)) > 0).sum(axis=1), np.ones(len(images)))


def test_no_correlation_is_the_grid_itself():
    images = squares()
    np.testing.assert_array_equal(data.correlated_rows(images, 0.0, 3), np.arange(len(images)))


@pytest.mark.parametrize("sigma", [math.inf, 0.4, 0.1])
def test_correlated_rows_have_the_density(sigma):
    """Counts over many draws, against the density summed by a loop over the 8x8 positions."""
    images = squares()
    rows = np.concatenate([data.correlated_rows(images, sigma, seed) for seed in range(40)])
    counts = np.zeros((8, 8))
    np.add.at(counts, tuple(images.factors[rows][:, 1:].T), 1)
    density = np.array(
        [[math.exp(-((i - j) ** 2) / 49 / (2 * sigma**2)) for j in range(8)] for i in range(8)]
    )
    expected = density / density.sum() * len(rows)
    assert np.all(np.abs(counts - expected) <= 5 * np.sqrt(expected) + 3)
    assert len(data.correlated_rows(images, sigma, 0)) == 2 * len(images)


def test_a_seed_fixes_the_draw():
    images = squares()
    one, two = (data.correlated_rows(images, 0.2, 5) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, data.correlated_rows(images, 0.2, 6))


# The training


def test_a_training_is_the_same_each_time():
    one, two = (train(VAE, squares(), TINY) for _ in range(2))
    np.testing.assert_allclose(one.mu, two.mu, rtol=1e-5, atol=1e-6)
    assert one.mu.shape == one.logvar.shape == (512, 3)


def test_factor_vae_trains_with_its_discriminator():
    """At weight 1 the estimate has no weight, and the objective is the VAE's."""
    plain = Run("squares", "FactorVAE", 1, 1, 1, 1, "squares", 0.0, 0)
    heavy = Run("squares", "FactorVAE", 6, 1, 6, 1, "squares", 0.0, 0)
    a, b = (train(run, squares(), TINY) for run in (plain, heavy))
    assert not np.allclose(a.mu, b.mu)


# The command


def rows_of(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def _two_runs(monkeypatch):
    """A part of two runs for each seed."""
    objectives = (("VAE", 1, 1, 1, 1), ("FactorVAE", 6, 1, 6, 1))
    monkeypatch.setitem(grid.PARTS, "correlated", ("squares", (0.4,), objectives))
    monkeypatch.setitem(grid.PARTS, "dsprites", ("dsprites", (0.0,), objectives[:1]))


@pytest.mark.usefixtures("_two_runs")
def test_the_command_resumes_and_scores_anew(tmp_path, capsys):
    arguments = ["--parts", "correlated", "--seeds", "0", "--steps", "2", "--no-figures"]
    arguments += ["--output", str(tmp_path)]
    main(arguments)
    assert "MIG" in capsys.readouterr().out
    before = rows_of(tmp_path)
    assert [row["key"] for row in before] == [run.key for run in runs("correlated", [0])]
    assert {row["steps"] for row in before} == {"2"}
    main(arguments)
    assert capsys.readouterr().out == ""
    main([*arguments, "--rescore"])
    for one, two in zip(before, rows_of(tmp_path), strict=True):
        assert one["seconds"] == two["seconds"]
        for column in ("mig", "mig_density", "total_correlation", "disentanglement"):
            assert float(one[column]) == pytest.approx(float(two[column]), abs=1e-4)


@pytest.mark.usefixtures("_two_runs")
def test_dsprites_are_read_from_their_file(tmp_path):
    """A file with the published keys."""
    axes = [np.arange(n) for n in (1, 3, 4, 4, 4, 4)]
    classes = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 6)
    images = np.random.default_rng(0).integers(0, 2, (len(classes), 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "dsprites.npz", imgs=images, latents_classes=classes)
    arguments = ["--parts", "dsprites", "--seeds", "0", "--steps", "1", "--no-figures"]
    main([*arguments, "--data", str(tmp_path / "dsprites.npz"), "--output", str(tmp_path)])
    (row,) = rows_of(tmp_path)
    assert row["data"] == "dsprites"
    with np.load(tmp_path / "posteriors" / f"{row['key']}.npz") as kept:
        assert kept["mu"].shape == (len(classes), 10)


def test_dsprites_need_their_file(capsys):
    with pytest.raises(SystemExit):
        main(["--parts", "dsprites"])
    assert "the part dsprites needs --data FILE" in capsys.readouterr().err


# The table, and what is computed from it


def test_seeds_that_are_not_complete_are_left_out(tmp_path):
    table = Table(tmp_path / "results.csv")
    for run in [*runs("weights", [0]), *list(runs("weights", [1]))[:-1]]:
        table.add(run, {"mig": 0.5})
    assert set(summary.load(table.path)["seed"]) == {0}


def test_the_table_survives_an_interruption(tmp_path):
    table = Table(tmp_path / "results.csv")
    table.add(VAE, {"mig": 0.123456789, "mig_density": ""})
    table.path.with_suffix(".part").write_text("half a ro")
    again = Table(table.path)
    assert VAE in again
    again.add(VAE, {"mig_density": 0.25})
    (row,) = Table(table.path)
    assert (row["mig"], row["mig_density"], row["method"]) == ("0.123457", "0.25", "VAE")


def test_two_processes_keep_each_others_rows(tmp_path):
    one, other = Table(tmp_path / "results.csv"), Table(tmp_path / "results.csv")
    run = runs("squares", [0, 1])
    one.add(next(run), {"mig": 0.5})
    other.add(next(run), {"mig": 0.6})
    assert [row["mig"] for row in Table(one.path)] == ["0.5", "0.6"]


def test_runs_of_other_lengths_need_a_table_of_their_own(capsys):
    with pytest.raises(SystemExit):
        main(["--steps", "5"])
    assert "--steps needs --output" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (["alpha"], [-1, 0, 1, 3, 6, 10]),
        (["beta"], [1, *grid.BETAS]),
        (["gamma"], [0, 1, 3, 6, 10]),
        (["alpha", "beta", "gamma"], [1, *grid.BETAS]),
    ],
)
def test_varied_weights_are_those_of_the_grid(names, weights):
    planned = [*runs("squares", [0]), *runs("weights", [0])]
    rows = summary.varied(pd.DataFrame(map(asdict, planned)), names)
    assert sorted(rows["weight"]) == weights


def test_differences_are_paired_by_seed():
    frame = pd.DataFrame({"seed": [0, 1, 2], "mig_density": [0.5, 0.7, 0.9]})
    other = pd.DataFrame({"seed": [2, 0], "mig_density": [0.1, 0.2]})
    np.testing.assert_allclose(summary.differences(frame, other), [0.3, 0.8])


def test_a_beta_is_chosen_by_the_other_seeds():
    """Seed 0 prefers 6 by much, the others 3 by little: no seed gets its own best."""
    scores_of = {(0, 3): 0.1, (0, 6): 0.9, (1, 3): 0.5, (1, 6): 0.4, (2, 3): 0.5, (2, 6): 0.4}
    rows = [(seed, w, "beta-VAE", value) for (seed, w), value in scores_of.items()]
    frame = pd.DataFrame(rows, columns=["seed", "weight", "method", "mig_density"])
    found = summary.chosen_by_others(frame, "beta-VAE").set_index("seed")["weight"]
    assert found.to_dict() == {0: 3, 1: 6, 2: 6}
    assert summary.chosen_by_others(frame[frame["seed"] == 0], "beta-VAE").empty


def test_rank_correlations_are_scipys():
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=40) for name in [*summary.READINGS.values(), "mig_density"]}
    columns["total_correlation"] = -columns["mig_density"]
    columns["active_units"] = rng.integers(0, 3, 40)  # ties
    frame = pd.DataFrame(columns | {"seed": np.arange(40) % 8})
    found = summary.rank_correlations(frame)
    for label, name in summary.READINGS.items():
        assert found[label].value == pytest.approx(
            spearmanr(frame[name], frame["mig_density"]).statistic
        )
        assert found[label].low <= found[label].value <= found[label].high
    assert found["total correlation"].high == pytest.approx(-1)
