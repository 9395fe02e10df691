"""Values of the mutual information gap: against references, other code and closed forms."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mutual_info_score

from data.mig_cases import REFERENCE, make_case
from tcdecomp.metrics import mig_score, mutual_info_gap

CONTINUOUS = {"j_continuous_factors"}
EXPECTED = [(name, key) for name, case in REFERENCE.items() for key in case["expected"]]


# s_scales has a latent of scale 1e-9, t_posterior_sharp has latents of whole numbers
@pytest.mark.filterwarnings("ignore:codes vary", "ignore:codes hold whole numbers")
@pytest.mark.parametrize(("name", "key"), EXPECTED, ids=map("-".join, EXPECTED))
def test_reference_cases(name, key):
    case, expected = make_case(name), REFERENCE[name]["expected"][key]
    *weighted, strategy, n_bins = key.split("_")
    gap = mutual_info_gap(
        case["codes"],
        case["factors"],
        n_bins=int(n_bins),
        strategy=strategy,
        discrete_factors=name not in CONTINUOUS,
        sample_weight=case["sample_weight"] if weighted else None,
    )
    np.testing.assert_allclose(gap.mutual_info, expected["mutual_info"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(gap.factor_entropy, expected["entropy"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(gap.gaps, expected["gaps"], rtol=0, atol=1e-12)
    assert gap.score == pytest.approx(expected["score"], rel=0, abs=1e-12)


def test_the_reference_covers_every_option():
    keys = {key for _, key in EXPECTED}
    assert keys == {
        *("uniform_10", "uniform_20", "quantile_10", "quantile_20"),
        *("weighted_uniform_20", "weighted_quantile_20"),
    }
    assert len(EXPECTED) == 4 * 40 + 2


@pytest.mark.parametrize("name", ["d_mixed", "e_dsprites_like_noisy_1k", "l_labels_float"])
def test_against_mutual_info_score_of_hand_made_bins(name):
    case = make_case(name)
    expected = [
        [mutual_info_score(uniform_bins(z, 20), v) for v in case["factors"].astype(str).T]
        for z in case["codes"].T
    ]
    gap = mutual_info_gap(case["codes"], case["factors"])
    np.testing.assert_allclose(gap.mutual_info, expected, rtol=0, atol=1e-12)


def uniform_bins(z, n_bins):
    """Bins made without scikit-learn."""
    return np.digitize(z, np.linspace(z.min(), z.max(), n_bins + 1)[1:-1])


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_above_200_000_rows_no_row_is_left_out(strategy):
    rng = np.random.default_rng(0)
    v = rng.integers(0, 6, size=250_000)
    z = v + rng.standard_normal(250_000)
    edges = {
        "uniform": np.linspace(z.min(), z.max(), 21),
        "quantile": np.quantile(z, np.linspace(0, 1, 21), method="averaged_inverted_cdf"),
    }[strategy]
    cells = np.zeros((20, 6))
    np.add.at(cells, (np.digitize(z, edges[1:-1]), v), 1 / len(v))
    independent = cells.sum(1, keepdims=True) * cells.sum(0)
    full = cells > 0
    information = (cells[full] * np.log(cells[full] / independent[full])).sum()
    gap = mutual_info_gap(z[:, None], v, strategy=strategy)
    assert gap.mutual_info[0, 0] == pytest.approx(information, rel=1e-10)
    assert gap.score == pytest.approx(mig_score(z[:, None], v, strategy=strategy), abs=1e-12)


def grid(*cards):
    """Every combination of factors once."""
    return np.indices(cards).reshape(len(cards), -1).T


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_a_perfect_code_scores_1(strategy):
    factors = np.repeat(grid(4, 2, 5), 10, axis=0)
    # quantiles merge the values of a discrete latent, so that each value gets a spread of its own
    spread = np.tile(np.linspace(0, 0.1, 10), len(factors) // 10)[:, None]
    codes = factors[:, [2, 0, 1]] * [-1.0, 30.0, 0.001] + spread * [1.0, 30.0, 0.001]
    gap = mutual_info_gap(codes, factors, strategy=strategy)
    np.testing.assert_allclose(gap.gaps, 1, rtol=0, atol=1e-12)
    assert gap.best_latent.tolist() == [1, 2, 0]
    np.testing.assert_allclose(gap.factor_entropy, np.log([4, 2, 5]), rtol=1e-12)


def test_independent_factors_on_a_full_grid_score_0():
    codes_and_factors = grid(5, 3, 5, 2)  # 5 by 5: the sum is rounded to a number below 0
    gap = mutual_info_gap(codes_and_factors[:, :2], codes_and_factors[:, 2:])
    np.testing.assert_allclose(gap.mutual_info, 0, rtol=0, atol=1e-12)
    assert (gap.mutual_info >= 0).all()
    assert gap.score == pytest.approx(0, rel=0, abs=1e-12)


def test_a_code_that_merges_values_tells_the_entropy_of_what_is_left():
    v = np.repeat(np.arange(4), 5)
    assert mig_score((v // 2)[:, None], v) == pytest.approx(0.5)


def test_an_unbalanced_factor_by_hand():
    v = np.array([0, 0, 0, 1])
    z = np.array([0, 0, 1, 1])
    entropy = -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4))
    information = 1 / 2 * math.log(4 / 3) + 1 / 4 * math.log(2 / 3) + 1 / 4 * math.log(2)
    gap = mutual_info_gap(z[:, None], v)
    assert gap.factor_entropy[0] == pytest.approx(entropy)
    assert gap.mutual_info[0, 0] == pytest.approx(information)
    assert gap.score == pytest.approx(information / entropy)


def test_a_factor_of_more_values_than_bins_cannot_score_1():
    position = np.repeat(np.arange(32), 4)
    assert mig_score(position[:, None], position, n_bins=20, discrete_codes=False) < 0.9
    assert mig_score(position[:, None], position, n_bins=32) == pytest.approx(1)


def test_quantiles_merge_the_largest_values_of_a_discrete_latent():
    v = np.repeat(np.arange(3), 20)
    left = -(1 / 3 * math.log(1 / 3) + 2 / 3 * math.log(2 / 3))
    merged = mig_score(v[:, None], v, strategy="quantile", discrete_codes=False)
    assert merged == pytest.approx(left / math.log(3))
    assert mig_score(v[:, None], v, strategy="robust") == pytest.approx(1)
    assert mig_score(v[:, None], v, strategy="uniform") == pytest.approx(1)


def test_one_outlier_takes_the_bins_of_equal_width():
    rng = np.random.default_rng(0)
    v = rng.integers(0, 4, size=2_000)
    z = v[:, None] + 0.05 * rng.standard_normal((2_000, 1))
    assert mig_score(z, v) > 0.99
    z[0] = 1e6
    assert mig_score(z, v) < 0.01
    assert mig_score(z, v, strategy="quantile") > 0.9


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_constant_latent_has_no_information_at_all(strategy, weighted):
    rng = np.random.default_rng(0)
    v = rng.integers(0, 7, size=(999, 2))
    weight = rng.random(999) if weighted else None
    codes = np.full((999, 3), 0.1)
    gap = mutual_info_gap(codes, v, strategy=strategy, sample_weight=weight)
    assert (gap.mutual_info == 0).all()
    assert (gap.gaps == 0).all()
    assert gap.score == 0


def test_a_latent_lost_by_quantiles_is_named():
    v = np.arange(100) % 2
    codes = np.column_stack([v, 1e-10 * v, np.arange(100) == 3, np.zeros(100)])
    with pytest.warns(UserWarning, match=r"codes vary in 'z1', 'z2', but .* quantile bin"):
        gap = mutual_info_gap(codes, v, strategy="quantile", discrete_codes=False)
    assert (gap.mutual_info[1:] == 0).all()


def test_a_single_latent_has_no_runner_up():
    v = np.arange(20) % 4
    gap = mutual_info_gap(v[:, None], np.column_stack([v, v % 2]))
    assert gap.runner_up.tolist() == [-1, -1]
    np.testing.assert_allclose(gap.gaps, [1, 1])


def test_the_first_of_equal_latents_is_best():
    v = np.arange(20) % 4
    gap = mutual_info_gap(np.column_stack([v % 2, v] * 300), v)
    assert (gap.best_latent.tolist(), gap.runner_up.tolist(), gap.score) == ([1], [3], 0)


def test_the_score_is_what_the_result_says():
    case = make_case("d_mixed")
    gap = mutual_info_gap(case["codes"], case["factors"])
    ranked = np.sort(gap.mutual_info, axis=0)
    np.testing.assert_allclose(gap.gaps, (ranked[-1] - ranked[-2]) / gap.factor_entropy, atol=1e-12)
    np.testing.assert_array_equal(gap.best_latent, gap.mutual_info.argmax(axis=0))
    np.testing.assert_array_equal(gap.mutual_info[gap.runner_up, range(3)], ranked[-2])
    score = mig_score(case["codes"], case["factors"])
    assert gap.score == pytest.approx(gap.gaps.mean(), abs=1e-12)
    assert score == pytest.approx(gap.score, abs=1e-12)
    assert type(gap.score) is type(score) is float


def test_options_reach_the_score():
    case = make_case("o_weighted")
    options = {"n_bins": 7, "strategy": "quantile", "sample_weight": case["sample_weight"]}
    options["discrete_factors"] = [False, True]
    plain = mig_score(case["codes"], case["factors"])
    gap = mutual_info_gap(case["codes"], case["factors"], **options)
    assert mig_score(case["codes"], case["factors"], **options) == pytest.approx(gap.score)
    for option in options:
        rest = {key: value for key, value in options.items() if key != option}
        without = mig_score(case["codes"], case["factors"], **rest)
        assert without != pytest.approx(gap.score, abs=1e-4)
        assert without != pytest.approx(plain, abs=1e-4)


def test_discrete_and_binned_factors_side_by_side():
    case = make_case("j_continuous_factors")
    labels = np.floor(case["factors"][:, 1] * 4)
    binned = mutual_info_gap(case["codes"], case["factors"], discrete_factors=False)
    labelled = mutual_info_gap(case["codes"], labels)
    factors = np.column_stack([case["factors"][:, 0], labels, case["factors"][:, 2]])
    gap = mutual_info_gap(case["codes"], factors, discrete_factors=[False, True, False])
    want = binned.mutual_info.copy()
    want[:, [1]] = labelled.mutual_info
    np.testing.assert_allclose(gap.mutual_info, want, rtol=0, atol=1e-12)


def test_weights_choose_the_rows_that_bin_a_factor():
    v = np.append(np.linspace(0, 1, 40), 1e9)
    weight = np.append(np.ones(40), 0)
    without = mig_score(v[:40, None] ** 2, v[:40], discrete_factors=False)
    assert without > 0.5
    weighted = mig_score(v[:, None] ** 2, v, discrete_factors=False, sample_weight=weight)
    assert weighted == pytest.approx(without, abs=1e-12)


@pytest.mark.parametrize("n_bins", [13, 19, 20])
@pytest.mark.parametrize("seed", range(5))
def test_whole_weights_where_quantiles_fall_on_rows(n_bins, seed):
    """Edges are then averages of two rows, which scikit-learn before 1.8 rounded otherwise."""
    rng = np.random.default_rng(seed)
    codes, factors = rng.standard_normal((200, 2)), rng.standard_normal((200, 2))
    weight = rng.integers(0, 6, size=200)
    weight[0] += n_bins - weight.sum() % n_bins
    options = {"n_bins": n_bins, "strategy": "quantile", "discrete_factors": False}
    repeated = mutual_info_gap(codes.repeat(weight, 0), factors.repeat(weight, 0), **options)
    weighted = mutual_info_gap(codes, factors, sample_weight=weight, **options)
    np.testing.assert_allclose(weighted.mutual_info, repeated.mutual_info, rtol=0, atol=1e-12)


def test_weights_of_any_ratio():
    v = np.array([0, 1])
    gap = mutual_info_gap(v[:, None], v, sample_weight=[1, 1e-200])
    assert gap.factor_entropy[0] == pytest.approx(200 * math.log(10) * 1e-200)
    assert gap.score == pytest.approx(1)


def test_the_table():
    gap = mutual_info_gap(np.arange(8)[:, None] % [2, 4], np.arange(8)[:, None] % [4, 2])
    assert str(gap).splitlines() == [
        "MIG 0.2500 (information in nats)",
        "factor  gap     entropy  best latent  runner-up",
        "v0      0.5000  1.3863   z1 1.3863    z0 0.6931",
        "v1      0.0000  0.6931   z0 0.6931    z1 0.6931",
    ]
    alone = mutual_info_gap([[0], [1]], [0, 1])
    assert str(alone).splitlines()[-1].split() == ["v0", "1.0000", "0.6931", "z0", "0.6931", "none"]


def test_exports(tmp_path):
    codes = pd.DataFrame(np.arange(8)[:, None] % [2, 4], columns=["a", "b"])
    gap = mutual_info_gap(codes, np.arange(8)[:, None] % [4, 2])
    text = gap.to_json(tmp_path / "gap.json")
    assert json.loads(text) == json.loads((tmp_path / "gap.json").read_text()) == gap.to_dict()
    assert gap.to_dict()["mutual_info"] == gap.mutual_info.tolist()
    frame = gap.to_frame()
    assert frame.index.tolist() == ["v0", "v1"]
    assert frame["gap"].tolist() == pytest.approx([0.5, 0])
    assert frame["entropy"].tolist() == pytest.approx([math.log(4), math.log(2)])
    assert (frame["best_latent"].tolist(), frame["runner_up"].tolist()) == (["b", "a"], ["a", "b"])
    assert mutual_info_gap([[0], [1]], [0, 1]).to_frame()["runner_up"].tolist() == [None]


def test_few_rows_are_warned_of():
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 10, (300, 2))
    codes = factors + 0.1 * rng.standard_normal((300, 2))
    message = "300 rows are few for so many bins: .* too high, by about 0.1"
    with pytest.warns(UserWarning, match=message) as seen:
        score = mig_score(codes, factors)
    assert seen[0].filename == __file__
    rows = int(str(seen[0].message).split("at least ")[1].split()[0])
    assert 1000 < rows < 3000
    more = rng.integers(0, 10, (rows * 11 // 10, 2))
    mig_score(more + 0.1 * rng.standard_normal(more.shape), more)  # silent
    corrected = mig_score(codes, factors, correction="miller-madow")  # silent
    assert score < 0.9 < corrected


def test_noise_free_codes_of_a_grid_are_not_warned_of():
    factors = grid(3, 4)
    assert mig_score(factors * 1.5, factors) == pytest.approx(1)


def test_the_ceiling_of_few_bins():
    factors = grid(40, 32, 2)
    gap = mutual_info_gap(factors / 7, factors)
    # 12 of 20 bins hold two of 32 values; all hold two of 40
    expected = [1 - math.log(2) / math.log(40), 1 - 0.75 * math.log(2) / math.log(32), 1]
    np.testing.assert_allclose(gap.ceilings, expected)
    assert gap.score == pytest.approx(np.mean(expected), abs=0.02)
    assert str(gap).endswith(
        f"At most {np.mean(expected):.4f}: fewer bins than values in 'v0', 'v1'"
    )
    many = mutual_info_gap(factors / 7, factors, n_bins=40)
    np.testing.assert_array_equal(many.ceilings, 1)


def test_classes_as_codes_have_no_ceiling():
    values = np.repeat(np.arange(50), 4)
    gap = mutual_info_gap(values[:, None], values, discrete_codes=True)
    assert gap.ceilings.tolist() == [1]
