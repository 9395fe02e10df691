"""Contingency tables: counts, sums of parts, tables made elsewhere, and the bins behind them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.preprocessing import KBinsDiscretizer

import data
from data.mig_cases import make_case
from tcdecomp.metrics import Tables, contingency_tables, mig_score, mutual_info_gap
from tcdecomp.metrics.bins import Binning, Bins

RNG = np.random.default_rng(0)
FACTORS = RNG.integers(0, 4, (500, 2))
CODES = np.column_stack([FACTORS + 0.3 * RNG.standard_normal((500, 2)), RNG.random(500)])


def by_hand(codes, factors, weight, n_bins=20):
    """Counts row by row."""
    edges = [np.linspace(z.min(), z.max(), n_bins + 1)[1:-1] for z in codes.T]
    values = [sorted(set(v)) for v in factors.T]
    counts = np.zeros((codes.shape[1], n_bins, sum(map(len, values))))
    for z, v, w in zip(codes, factors, weight, strict=True):
        for j in range(len(z)):
            b = np.sum(edges[j] <= z[j])
            offset = 0
            for k in range(len(v)):
                counts[j, b, offset + values[k].index(v[k])] += w
                offset += len(values[k])
    return counts


def test_counts():
    tables = contingency_tables(CODES, FACTORS)
    np.testing.assert_array_equal(tables.counts, by_hand(CODES, FACTORS, np.ones(500)))
    assert (tables.sizes, tables.total) == ((4, 4), 500)
    weight = RNG.random(500)
    weighted = contingency_tables(CODES, FACTORS, sample_weight=weight)
    np.testing.assert_allclose(weighted.counts, by_hand(CODES, FACTORS, weight), atol=1e-12)
    assert weighted.total == pytest.approx(weight.sum())


def test_more_rows_than_a_block():
    codes, factors = np.tile(CODES, (60, 1)), np.tile(FACTORS, (60, 1))
    once, often = contingency_tables(CODES, FACTORS), contingency_tables(codes, factors)
    np.testing.assert_array_equal(often.counts, 60 * once.counts)


LABELS = {
    "integers": FACTORS,
    "floats": FACTORS / 3,
    "strings": FACTORS.astype(str),
    "objects": np.array([0, "one", (2,), 3.5], object)[FACTORS],
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("weighted", [False, True])
def test_tables_of_parts_add_up(labels, weighted):
    """Each part lacks some values; the last value of the first factor occurs in one part only."""
    order = np.argsort(FACTORS[:, 0], kind="stable")
    parts = np.array_split(order, 7)
    weight = RNG.integers(1, 4, 500) if weighted else None
    bins = KBinsDiscretizer(20, strategy="uniform", subsample=None).fit(CODES)
    tables = [
        contingency_tables(
            CODES[rows],
            np.column_stack([labels[rows, 0], labels[rows, 1]]),
            n_bins=bins,
            sample_weight=None if weight is None else weight[rows],
        )
        for rows in (np.concatenate([part, order[::13]]) for part in parts)
    ]
    rows = np.concatenate([np.concatenate([part, order[::13]]) for part in parts])
    whole = mutual_info_gap(
        CODES[rows], labels[rows], sample_weight=None if weight is None else weight[rows]
    )
    total = tables[0]
    for part in tables[1:]:
        total = total + part
    assert total.total == (len(rows) if weight is None else weight[rows].sum())
    np.testing.assert_allclose(
        mutual_info_gap(total).mutual_info, whole.mutual_info, rtol=0, atol=1e-12
    )


def test_tables_of_discrete_codes_add_up():
    codes = FACTORS * 7 % 5
    halves = [
        contingency_tables(codes[p], FACTORS[p], discrete_codes=True)
        for p in (FACTORS[:, 0] < 2, FACTORS[:, 0] >= 2)
    ]
    whole = mutual_info_gap(codes, FACTORS, discrete_codes=True)
    joined = mutual_info_gap(halves[0] + halves[1])
    np.testing.assert_allclose(joined.mutual_info, whole.mutual_info, rtol=0, atol=1e-12)


def test_tables_made_elsewhere():
    tables = contingency_tables(CODES, FACTORS)
    expected = mutual_info_gap(CODES, FACTORS)
    for counts in (tables.counts, torch.tensor(tables.counts), tables.counts / 500):
        given = Tables(counts, (4, 4))
        gap = mutual_info_gap(given)
        np.testing.assert_allclose(gap.mutual_info, expected.mutual_info, rtol=0, atol=1e-12)
        assert (gap.latent_names, gap.factor_names) == (("z0", "z1", "z2"), ("v0", "v1"))
    twice = mutual_info_gap(Tables(tables.counts, (4, 4)) + Tables(tables.counts, (4, 4)))
    assert twice.score == pytest.approx(expected.score)


def test_tables_of_densities():
    """Two normal densities: information and score by quadrature, in closed form for no overlap."""
    grid = np.linspace(-40, 40, 4001)
    density = np.exp(-((grid[:, None] - [-20, 20]) ** 2) / 2) / np.sqrt(2 * np.pi)
    mass = density * np.diff(grid)[0] / 2
    gap = mutual_info_gap(Tables(np.stack([mass, np.full_like(mass, mass.mean())]), (2,)))
    assert gap.score == pytest.approx(1)
    np.testing.assert_allclose(gap.mutual_info[:, 0], [np.log(2), 0], atol=1e-12)


def test_names():
    tables = Tables(np.ones((1, 2, 6)), (3, 3), ("size",), ("a", "b"))
    assert mutual_info_gap(tables).factor_names == ("a", "b")


OTHER = contingency_tables(CODES * 2, FACTORS)
BAD = {
    "shape": (
        lambda: Tables(np.ones((2, 3)), (3,)),
        ValueError,
        r"counts must have shape \(D, B, C\)",
    ),
    "sizes": (
        lambda: Tables(np.ones((1, 2, 3)), (2,)),
        ValueError,
        r"the sum of sizes, 2; got shape",
    ),
    "negative": (
        lambda: Tables(-np.ones((1, 2, 3)), (3,)),
        ValueError,
        "must be finite and not neg",
    ),
    "NaN": (lambda: Tables(np.full((1, 2, 3), np.nan), (3,)), ValueError, "must be finite"),
    "sums": (
        lambda: Tables(np.arange(6.0).reshape(2, 1, 3), (3,)),
        ValueError,
        "same positive sum for every latent and factor; got sums between 3 and 12",
    ),
    "zero": (lambda: Tables(np.zeros((2, 2, 3)), (3,)), ValueError, "positive sum"),
    "names": (
        lambda: Tables(np.ones((1, 2, 3)), (3,), ("a", "b")),
        ValueError,
        "latent_names must have 1 entries; got 2",
    ),
    "other bins": (
        lambda: contingency_tables(CODES, FACTORS) + OTHER,
        ValueError,
        "equal bins to be added; got different ones. Pass one fitted KBinsDiscretizer as n_bins",
    ),
    "other shapes": (
        lambda: Tables(np.ones((1, 2, 3)), (3,)) + Tables(np.ones((1, 4, 3)), (3,)),
        ValueError,
        "equal shapes to be added",
    ),
    "other names": (
        lambda: OTHER + Tables(np.ones((1, 2, 3)), (3,)),
        ValueError,
        "same latent_names to be added",
    ),
    "half coded": (
        lambda: OTHER + Tables(OTHER.counts, OTHER.sizes),
        ValueError,
        "both have codings, or both none",
    ),
    "no tables": (lambda: OTHER + 1, TypeError, "unsupported operand"),
    "factors too": (
        lambda: mig_score(OTHER, FACTORS),
        TypeError,
        "factors must be left out beside fin",
    ),
    "weights too": (
        lambda: mig_score(OTHER, sample_weight=np.ones(500)),
        TypeError,
        "sample_weight must be left out beside finished tables",
    ),
    "options too": (
        lambda: mig_score(OTHER, n_bins=5, discrete_codes=True),
        TypeError,
        "n_bins and discrete_codes must be left out beside finished tables, which contain them: "
        "pass them to contingency_tables",
    ),
    "no factors": (lambda: mig_score(CODES), ValueError, "factors must have shape"),
    "fractions": (
        lambda: mig_score(CODES, FACTORS, sample_weight=RNG.random(500), correction="adjusted"),
        ValueError,
        "correction='adjusted' needs whole numbers of rows; got weights with fractions",
    ),
    "correction": (
        lambda: mig_score(OTHER, correction="jackknife"),
        ValueError,
        "correction must be None, 'miller-madow' or 'adjusted'; got 'jackknife'",
    ),
    "convention": (
        lambda: mig_score(OTHER, convention="tf"),
        ValueError,
        "convention must be None, 'disentanglement_lib', .* or 'ubisoft'; got 'tf'",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD.keys())
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@given(
    st.integers(2, 50),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e3),
    arrays(float, 40, elements=st.floats(-0.2, 1.2)),
)
def test_the_bin_of_a_value_is_where_a_search_finds_it(n_bins, low, width, places):
    edges = np.linspace(low, low + width, n_bins + 1)[1:-1]
    near = [np.nextafter(edges, side) for side in (-np.inf, np.inf)]
    column = np.concatenate([low + width * places, edges, *near, [-1e300, 1e300]])
    expected = np.searchsorted(edges, column, side="right")
    np.testing.assert_array_equal(Bins(edges, n_bins, uniform=True).label(column), expected)


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_bins_are_those_of_scikit_learn(strategy):
    options = {} if strategy == "uniform" else {"quantile_method": "averaged_inverted_cdf"}
    if options and "quantile_method" not in KBinsDiscretizer().get_params():
        pytest.skip("scikit-learn below 1.7 has other quantiles")
    binner = KBinsDiscretizer(7, encode="ordinal", strategy=strategy, subsample=None, **options)
    expected = binner.fit_transform(CODES)
    bins = Binning(7, strategy).fit(CODES, None)
    labels = [part.label(column) for part, column in zip(bins, CODES.T, strict=True)]
    np.testing.assert_array_equal(np.stack(labels, 1), expected)
    tables = contingency_tables(CODES, FACTORS, n_bins=binner)
    np.testing.assert_array_equal(
        tables.counts, contingency_tables(CODES, FACTORS, n_bins=7, strategy=strategy).counts
    )


def test_bins_for_each_latent():
    tables = contingency_tables(CODES, FACTORS, n_bins=[3, 5, 20])
    assert tables.counts.any(2).sum(1).tolist() == [3, 5, 20]
    alone = contingency_tables(CODES[:, :1], FACTORS, n_bins=3)
    np.testing.assert_array_equal(tables.counts[0, :3], alone.counts[0])


def test_robust_bins_stand_an_outlier():
    factor = RNG.integers(0, 5, 3000)
    codes = factor[:, None] + 0.05 * RNG.standard_normal((3000, 1))
    codes[0] = 1e6
    assert mig_score(codes, factor) < 0.05
    assert mig_score(codes, factor, strategy="robust") > 0.9


@given(
    arrays(int, 60, elements=st.integers(0, 30)),
    st.integers(2, 30),
    st.sampled_from([1e-12, 1.0, 1e9]),
    st.booleans(),
)
def test_robust_bins_separate_values_where_they_can(values, n_bins, scale, weighted):
    weight = np.ones(60) if weighted else None
    (bins,) = Binning(n_bins, "robust").fit(scale * values[:, None].astype(float), weight)
    labels = bins.label(scale * values)
    distinct = np.unique(values)
    assert len(np.unique(labels)) <= n_bins
    if len(distinct) <= n_bins:
        np.testing.assert_array_equal(labels, np.searchsorted(distinct, values))
    order = np.argsort(values, kind="stable")
    assert (np.diff(labels[order]) >= 0).all()


def test_robust_bins_keep_a_perfect_code_of_few_values():
    values = np.array([0, 1e-9, 5, 1e12])[RNG.integers(0, 4, 1000)]
    gap = mutual_info_gap(values[:, None], (values > 1e-10) * 1 + (values > 1) + (values > 10))
    robust = mutual_info_gap(values[:, None], values.astype(str), strategy="robust")
    assert gap.score < 0.9 < robust.score == pytest.approx(1)


def tabulated(means, deviations, factors):
    """q(z_j, v_k) on a grid of half the smallest deviation, 8 deviations beyond the means."""
    _, n_latents = means.shape
    step = deviations.min() / 2
    span = np.abs(means).max() + 8 * deviations.max()
    grid = np.arange(-span, span, step)
    cards = factors.max(0) + 1
    counts = np.zeros((n_latents, len(grid), cards.sum()))
    for mean, deviation, values in zip(means, deviations, factors, strict=True):
        z = (grid[None] - mean[:, None]) / deviation[:, None]
        density = np.exp(-(z**2) / 2) / deviation[:, None] * step / np.sqrt(2 * np.pi) / len(means)
        for k, value in enumerate(values):
            counts[:, :, cards[:k].sum() + value] += density
    return Tables(counts, tuple(cards))


REFERENCE = json.loads((Path(data.__file__).parent / "score_reference.json").read_text("utf-8"))
DENSITIES = {name: case["density"] for name, case in REFERENCE.items() if "density" in case}


@pytest.mark.parametrize("name", DENSITIES)
def test_tables_of_posterior_densities_give_the_mig_of_the_paper(name):
    case, expected = make_case(name), DENSITIES[name]
    low, high = expected["deviations"]
    deviations = low + (high - low) * case["draws"]
    if expected["dead"]:
        deviations[:, case["factors"].shape[1] :] = 1
    gap = mutual_info_gap(tabulated(case["codes"], deviations, case["factors"]))
    np.testing.assert_allclose(gap.gaps, expected["gaps"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(gap.mutual_info.T, expected["mutual_info"], rtol=0, atol=1e-7)
    assert gap.score == pytest.approx(expected["mig"], abs=1e-7)
