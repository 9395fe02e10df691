"""The page of the reproduction: its tables, figures and sentences say what the stored rows say."""

import csv
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from reproduction import grid, scores, summary
from reproduction.__main__ import GENERATED
from reproduction.figures import FIGURES
from reproduction.grid import runs
from reproduction.text import TABLES, at_beta
from tcdecomp.metrics import interval_of_mean

FOLDER = Path(grid.__file__).parent
RESULTS = FOLDER / "results.csv"
PAGE = " ".join((FOLDER / "index.md").read_text().split())


def stored():
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def mean(column, **conditions):
    """The mean of a column over the eight rows with these values."""
    rows = [r for r in stored() if all(r[name] == value for name, value in conditions.items())]
    assert len(rows) == 8
    return sum(float(row[column]) for row in rows) / len(rows)


def test_rows_are_those_of_the_grid():
    planned = [run.key for part in GENERATED for run in runs(part, range(8))]
    rows = stored()
    assert Counter(row["key"] for row in rows) == Counter(planned)
    assert f"{len(rows)} trainings" in PAGE
    assert min(float(row["seconds"]) for row in rows) >= 3.5
    assert max(float(row["seconds"]) for row in rows) <= 20
    for row in rows:
        assert not [name for name, value in row.items() if value == ""]
        assert row["versions"]
        assert row["hardware"]
        terms = [float(row[name]) for name in scores.TERMS]
        assert sum(terms[:3]) == pytest.approx(terms[3], abs=1e-4)
        assert 0 < float(row["total_correlation_error"]) < 0.1


def test_the_trade_off_shows_the_means_of_the_file():
    figure = FIGURES["trade-off"](summary.load(RESULTS))
    axes = figure.axes[0]
    assert axes.get_title().startswith("squares")
    for method, points in zip(summary.METHODS, axes.collections, strict=True):
        places = zip([1, *grid.BETAS], points.get_offsets(), strict=True)
        for weight, (x, y) in places:
            name = "VAE" if weight == 1 else method
            conditions = {"part": "squares", "method": name, "weight": str(weight)}
            assert x == pytest.approx(mean("total_correlation", **conditions), rel=1e-9)
            assert y == pytest.approx(mean("mig_density", **conditions), rel=1e-9)
        assert np.all(np.diff(points.get_sizes()) > 0)


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_of_the_file(name):
    path = FOLDER / "generated" / f"{name}.md"
    text = TABLES[name](summary.load(RESULTS))
    assert (path.read_text().strip() if path.is_file() else "") == text
    assert (f"generated/{name}.md" in PAGE) == bool(text)


def test_cells_are_means_of_the_file():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in TABLES["squares"](summary.load(RESULTS)).splitlines()[2:]
    ]
    assert len(rows) == 16
    for method, weight, mig, *texts in rows:
        columns = ("mig_density", "mig", "total_correlation", "index_code_mi")
        columns += ("dimension_wise_kl", "reconstruction", "disentanglement")
        for column, text in zip(columns, (mig.split()[0], *texts), strict=True):
            value = mean(column, part="squares", method=method, weight=weight)
            assert float(text) == pytest.approx(value, abs=0.0051)


def by_seed(column, part, method, weight):
    """Return the values of a column by seed."""
    rows = [r for r in stored() if (r["part"], r["method"], r["weight"]) == (part, method, weight)]
    return {row["seed"]: float(row[column]) for row in rows}


def cell(one, other):
    """A cell of the tables of differences, by scipy's interval."""
    found = [one[seed] - other[seed] for seed in sorted(one)]
    interval = ttest_1samp(found, 0).confidence_interval(0.95)
    wins = sum(difference > 0 for difference in found)
    mean, half = sum(found) / len(found), (interval.high - interval.low) / 2
    return f"{mean:+.2f} ± {half:.2f} ({wins} of {len(found)})"


def cells(name):
    """The cells of a table of the page, by the first two cells of a row."""
    text = (FOLDER / "generated" / f"{name}.md").read_text().replace("\N{NO-BREAK SPACE}", " ")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    header, _, *body = rows
    return {tuple(row[:2]): dict(zip(header, row, strict=True)) for row in body}


def test_the_table_in_short_says_what_the_file_says():
    columns = {"MIG": "mig_density", "binned MIG": "mig", "reconstruction loss": "reconstruction"}
    table = cells("in-short")
    for other, weight in (("VAE", "1"), ("beta-VAE", "6"), ("FactorVAE", "6")):
        for title, column in columns.items():
            pair = (("beta-TCVAE", "6"), (other, weight))
            values = (by_seed(column, "squares", *model) for model in pair)
            assert table["6", other][title] == cell(*values)


@pytest.mark.parametrize("part", ["squares", "objects"])
def test_comparisons_say_what_the_file_says(part):
    """At each beta, and at the beta that the other seven seeds choose, by a loop over seeds."""
    betas = sorted({row["weight"] for row in stored() if row["part"] == part} - {"1"})
    curves = {
        method: {beta: by_seed("mig_density", part, method, beta) for beta in betas}
        for method in summary.METHODS
    }

    def chosen(method):
        def of_others(seed, beta):
            return sum(value for s, value in curves[method][beta].items() if s != seed)

        seeds = curves[method][betas[0]]
        return {
            seed: curves[method][max(betas, key=lambda beta: of_others(seed, beta))][seed]
            for seed in seeds
        }

    pairs = {beta: {m: curves[m][beta] for m in summary.METHODS} for beta in betas}
    pairs["chosen"] = {method: chosen(method) for method in summary.METHODS}
    table = {key[0]: row for key, row in cells(f"{part}-comparisons").items()}
    assert set(table) == set(pairs)
    for beta, found in pairs.items():
        found["VAE"] = by_seed("mig_density", part, "VAE", "1")
        for other in ("VAE", "beta-VAE", "FactorVAE"):
            assert table[beta][f"against {other}"] == cell(found["beta-TCVAE"], found[other])


def interval(one, other, column="mig_density"):
    """The interval of the mean difference between two groups of runs with the same seeds."""
    return interval_of_mean(summary.differences(one, other, column))


def against(runs, weight, column="mig_density"):
    """The intervals of beta-TCVAE against the VAE, beta-VAE and FactorVAE at the same beta."""
    first, *others = at_beta(runs, weight)
    return [interval(first, other, column) for other in others]


@pytest.fixture(scope="module")
def frame():
    return summary.load(RESULTS)


def test_claims_on_the_squares_hold_in_the_file(frame):
    squares = summary.of(frame, part="squares")
    for weight in (6, 10):
        first, *others = at_beta(squares, weight)
        assert all((summary.differences(first, other) > 0).all() for other in others)
        assert all(found.low > 0 for found in against(squares, weight))
    assert all(found.low > 0 for found in against(squares, None))
    for weight in (2, 3, 4):
        _, found, _ = against(squares, weight)
        assert found.low < 0 < found.high
    means = squares.groupby(["method", "weight"]).mean(numeric_only=True)
    loss = means["reconstruction"] - means["reconstruction"]["VAE", 1]
    assert 1 < loss["beta-TCVAE", 6] < loss["beta-TCVAE", 10] < 2
    assert [round(loss["beta-VAE", weight]) for weight in (6, 10)] == [11, 30]

    runs = squares[(squares["method"] == "beta-TCVAE") & squares["weight"].isin([2, 3, 4])]
    low = runs[runs["mig_density"] < 0.6]
    assert (len(runs), len(low), (low["active_units"] == 4).sum()) == (24, 9, 7)
    _, dense, _ = against(squares, 6)
    _, binned, _ = against(squares, 6, "mig")
    texts = [f"{i.value:+.2f} ± {i.high - i.value:.2f}" for i in (dense, binned)]
    assert f"it is {texts[0]} by densities and {texts[1]} by bins" in PAGE

    tc, mig = means["total_correlation"], means["mig_density"]
    for method in ("beta-TCVAE", "FactorVAE"):
        found = summary.rank_correlations(summary.curve(squares, method))
        assert found["total correlation"].high < 0
    assert mig["beta-VAE"].idxmax() == 3
    assert mig["beta-VAE"].loc[3:].is_monotonic_decreasing
    assert tc["beta-VAE"].is_monotonic_decreasing
    assert tc["beta-VAE", 10] < tc["beta-TCVAE", 10]
    assert mig["beta-VAE", 10] < mig["VAE", 1]
    assert tc["FactorVAE"].min() > 10 * tc["beta-TCVAE"].min()


def test_the_page_of_beta_and_this_one_quote_each_other(frame):
    runs = summary.of(frame, part="squares", method="beta-TCVAE", weight=2)
    with (FOLDER.parent / "pictures" / "squares.csv").open(newline="") as file:
        others = [row for row in csv.DictReader(file) if row["model"] == "beta-TCVAE"]
    three = [float(row["mig"]) for row in others if row["beta"] == "2"]
    here, there = runs["mig"].mean(), sum(three) / len(three)
    assert (len(runs), len(three)) == (8, 3)
    assert f"have a binned MIG of {there:.2f}, and eight here {here:.2f}" in PAGE
    assert f"[a mean of {here:.2f}]" in (FOLDER.parent / "learn" / "beta.md").read_text()


def test_claims_on_the_colored_squares_hold_in_the_file(frame):
    runs = summary.of(frame, part="objects")
    means = runs.groupby(["method", "weight"])["mig_density"].mean()
    assert (round(means.min(), 2), round(means.max(), 2)) == (0.05, 0.21)
    assert all(found.low < 0.005 for found in against(runs, None))
    excluding = [w for w in (3, 6, 10) for found in against(runs, w) if found.low > 0]
    assert excluding == [10]
    _, found, _ = against(runs, 10)
    assert found.low > 0
    _, binned, _ = against(runs, 10, "mig")
    assert f"{binned.value:+.2f} ± {binned.high - binned.value:.2f}" in PAGE
    high = runs[runs["mig_density"] >= 0.4].sort_values("mig_density")
    assert (len(runs), len(runs) - len(high)) == (80, 77)
    assert set(zip(high["method"], high["weight"], strict=True)) == {
        ("beta-TCVAE", 3), ("beta-TCVAE", 6)
    }  # fmt: skip
    best = high.iloc[-1]
    assert (round(best["mig_density"], 2), round(best["disentanglement"], 2)) == (0.78, 0.55)


def test_claims_on_single_weights_hold_in_the_file(frame):
    runs = summary.of_weights(frame)
    vae = summary.of(runs, method="VAE")

    def found(method, weight, column="mig_density"):
        return interval(summary.of(runs, method=method, weight=weight), vae, column)

    for weight in (3, 6):
        assert found("alpha alone", weight).low < 0
    for model in [("alpha alone", 10), *(("gamma alone", weight) for weight in (3, 6, 10))]:
        assert found(*model).high < 0
    for weight in (-1, 0):
        assert found("InfoMax", weight).value < 0
    for name in ("alpha", "gamma"):
        above = summary.varied(runs, [name]).query("weight > 1")
        assert above.groupby("weight")["mig_density"].mean().max() < 0.3
    dropout = summary.of(runs, method="information dropout", weight=1)
    gain = found("information dropout", 1)
    assert f"rises by {gain.value:.2f} ± {gain.high - gain.value:.2f}, in 7 of 8" in PAGE
    assert (summary.differences(dropout, vae) > 0).sum() == 7
    assert found("information dropout", 1, "reconstruction").high < 0
    assert round(dropout["dimension_wise_kl"].mean()) == 53


def test_claims_on_readings_hold_in_the_file(frame):
    squares = summary.of(frame, data="squares", sigma=0)
    objects = summary.of(frame, data="objects")
    curves = [summary.curve(squares, method) for method in summary.METHODS]
    found = [summary.rank_correlations(group) for group in (squares, *curves, objects)]
    assert all(column["dimension-wise KL"].low > 0 for column in found)
    every, beta_vae, *_, colored = (column["total correlation"] for column in found)
    assert every.high < 0
    assert beta_vae.low < 0 < beta_vae.high
    assert colored.low < 0 < colored.high
    for reading in ("index-code MI", "reconstruction loss"):
        values = [column[reading].value for column in found]
        assert max(map(abs, values)) < 0.35
        assert min(values) < 0 < max(values)


def test_claims_on_correlated_factors_hold_in_the_file(frame):
    runs = summary.of(frame, part="correlated")
    draw = summary.of(runs, sigma=math.inf)
    falls = []
    for sigma in (0.4, 0.2, 0.1):
        correlated = summary.of(runs, sigma=sigma)
        for method in ("VAE", *summary.METHODS):
            pair = (summary.of(rows, method=method) for rows in (draw, correlated))
            found = interval(*pair)
            assert found.low > 0
            if method == "beta-TCVAE":
                falls.append(f"{found.value:.2f} ± {found.high - found.value:.2f}")
        vae, beta_vae, factor_vae = against(correlated, 6)
        assert min(vae.low, factor_vae.low) > 0
        assert (beta_vae.low > 0) == (sigma == 0.4)
    assert f"loses {falls[0]}, {falls[1]} and {falls[2]}" in PAGE
    means = [summary.of(runs, method="beta-TCVAE", sigma=s) for s in (math.inf, 0.4, 0.2, 0.1)]
    free, *others = (rows["mig_density"].mean() for rows in means)
    assert max(others) < 0.52 * free
    failed = [mig for mig in means[0]["mig_density"] if mig < 0.6]
    assert [round(mig, 2) for mig in failed] == [0.23]


def test_figures_of_the_page_are_there():
    pictures = set(re.findall(r"generated/[\w-]+\.png", PAGE))
    drawn = {f"generated/{name}-{theme}.png" for name in FIGURES for theme in ("light", "dark")}
    assert pictures <= drawn
    assert all((FOLDER / picture).is_file() for picture in pictures)


def test_a_part_without_rows_has_no_table():
    assert not any(TABLES[name](summary.load(RESULTS).iloc[:0]) for name in ("in-short", "squares"))
