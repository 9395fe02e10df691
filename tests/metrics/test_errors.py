"""Bad input: each message names the argument, what was expected and what came, in every score."""

import inspect

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.preprocessing import KBinsDiscretizer

from data.mig_cases import make_case
from tcdecomp import metrics
from tcdecomp.metrics import mig_score, mutual_info_gap

V = np.arange(60) % 3
Z = np.column_stack([V, -V, V % 2]) + np.linspace(0, 0.5, 60)[:, None]
FACTORS = np.column_stack([V, V % 2])
WEIGHT = np.ones(60)
UNIT = np.linspace(0, 1, 60)


def put(array, value, *where, dtype=float):
    """Return a copy with ``value`` at the indices ``where``."""
    copy = np.array(array, dtype=dtype)
    for index in where:
        copy[index] = value
    return copy


BAD_ARRAYS = {
    "codes without rows": (
        {"codes": np.empty((0, 3)), "factors": []},
        ValueError,
        r"^codes must have at least one row and one column; got shape \(0, 3\)$",
    ),
    "codes without columns": (
        {"codes": np.empty((60, 0))},
        ValueError,
        r"^codes must have at least one row and one column; got shape \(",
    ),
    "frame without columns": (
        {"codes": pd.DataFrame()},
        ValueError,
        r"^codes must have at least one row and one column; got shape \(0, 0\)$",
    ),
    "factors without columns": (
        {"factors": np.empty((60, 0))},
        ValueError,
        r"^factors must have at least one row and one column",
    ),
    "codes of one dimension": (
        {"codes": V},
        ValueError,
        r"^codes must have shape \(n, columns\), one row per item; got shape \(60,\)\. "
        r"A single column is an array of shape \(n, 1\)$",
    ),
    "codes of three": ({"codes": Z[None]}, ValueError, r"^codes must .* got shape \(1, 60, 3\)"),
    "codes of none": ({"codes": 3.0}, ValueError, r"^codes must have shape .* got float\."),
    "factors of three": (
        {"factors": torch.zeros(60, 2, 1)},
        ValueError,
        r"^factors must have shape \(n, columns\), one row per item, or \(n,\); "
        r"got shape \(60, 2, 1\)",
    ),
    "ragged codes": ({"codes": [[1.0, 2.0], [3.0]]}, ValueError, r"^codes must be an array; numpy"),
    "lengths": (
        {"factors": FACTORS[:-1]},
        ValueError,
        r"^codes and factors must have one row per item each; got 60 and 59 rows$",
    ),
    "indices": (
        {"codes": pd.DataFrame(Z), "factors": pd.DataFrame(FACTORS, index=range(60, 0, -1))},
        ValueError,
        r"^factors must have the same index as codes, .*; got different ones\. "
        r"Pass factors\.loc\[codes\.index\], or factors\.set_axis\(codes\.index\) "
        r"if the order is right$",
    ),
    "index of a series": (
        {"codes": pd.DataFrame(Z), "factors": pd.Series(V, index=[*range(59), 99])},
        ValueError,
        r"^factors must have the same index as codes",
    ),
    "repeated columns": (
        {"codes": pd.DataFrame(Z, columns=["a", "b", "a"])},
        ValueError,
        r"^codes must have distinct column names; got 'a' repeatedly$",
    ),
    "NaN in codes": (
        {"codes": put(Z, np.nan, (3, 0), (9, 2))},
        ValueError,
        r"^codes must have no NaN, infinite or missing values; got some in 'z0', 'z2'\. "
        r"Leave those rows out, or give them sample_weight 0$",
    ),
    "infinity in codes": ({"codes": put(Z, -np.inf, (0, 1))}, ValueError, r"^codes .* in 'z1'\."),
    "NaN in a named column": (
        {"codes": pd.DataFrame(put(Z, np.nan, (0, 1)), columns=["a", "b", "c"])},
        ValueError,
        r"^codes .* in 'b'\.",
    ),
    "NaN in half precision": (
        {"codes": torch.tensor(put(Z, np.nan, (0, 1)), dtype=torch.bfloat16)},
        ValueError,
        r"^codes .* in 'z1'\.",
    ),
    "None in codes": ({"codes": put(Z, None, (0, 1), dtype=object)}, ValueError, r"in 'z1'\."),
    "NaN everywhere": (
        {"codes": np.full((60, 11), np.nan)},
        ValueError,
        r"in 'z0', .*'z7' and 3 more\.",
    ),
    "masked codes": (
        {"codes": np.ma.masked_less(Z, 0)},
        ValueError,
        r"^codes must have no masked values\. Leave those rows out$",
    ),
    "complex codes": (
        {"codes": Z * 1j},
        TypeError,
        r"^codes must hold real numbers; got dtype complex128 in 'z0'$",
    ),
    "complex tensor": ({"codes": torch.tensor(Z * 1j).conj()}, TypeError, r"got dtype complex128"),
    "strings for codes": (
        {"codes": Z.astype(str)},
        TypeError,
        r"^codes must .* got dtype <U\d+ in 'z0'\. The strings are numbers: pass numpy.asarray\(",
    ),
    "words for codes": (
        {"codes": np.where(Z > 0, "a", "b")},
        TypeError,
        r"^codes must hold real numbers; got dtype <U1 in 'z0'(, which|$)",
    ),
    "transposed codes": (
        {"codes": Z.T, "factors": FACTORS},
        ValueError,
        r"each; got 3 and 60 rows\. codes must have shape \(n, D\), and may be transposed\. Pass "
        r"codes\.T$",
    ),
    "one string in codes": (
        {"codes": [*Z[1:].tolist(), [0.1, "0.2", 0.3]]},
        TypeError,
        r"^codes must hold real numbers; got dtype object in 'z1'(, which cannot be binned: "
        r"mark it as discrete in discrete_codes)?$",
    ),
    "NaN in factors": (
        {"factors": put(FACTORS, np.nan, (5, 1))},
        ValueError,
        r"^factors must have no NaN, infinite or missing values; got some in 'v1'\.",
    ),
    "infinity in factors": ({"factors": put(FACTORS, np.inf, (5, 0))}, ValueError, r"in 'v0'\."),
    "NaN in a binned factor": (
        {"factors": put(FACTORS, np.nan, (5, 1)), "discrete_factors": False},
        ValueError,
        r"^factors .* in 'v1'\.",
    ),
    "None among strings": (
        {"factors": put(FACTORS.astype(str), None, (5, 0), (6, 1), dtype=object)},
        ValueError,
        r"^factors .* in 'v0', 'v1'\.",
    ),
    "NaN in a list of strings": (
        {"factors": ["a", "b", float("nan")] * 20},
        ValueError,
        r"^factors .* in 'v0'\.",
    ),
    "NA": (
        {"factors": pd.DataFrame({"size": V, "kind": pd.array([1, None, 2] * 20, "Int64")})},
        ValueError,
        r"^factors .* in 'kind'\.",
    ),
    "NA among strings": (
        {"factors": pd.Series(["a", "b", pd.NA] * 20, dtype="object", name="kind")},
        ValueError,
        r"^factors .* in 'kind'\.",
    ),
    "missing category": (
        {"factors": pd.Series(["a", "b", None] * 20, dtype="category")},
        ValueError,
        r"^factors .* in 'v0'\.",
    ),
    "not a time": (
        {"factors": np.array(["2020", "2021", "NaT"] * 20, dtype="M8[Y]")},
        ValueError,
        r"^factors .* in 'v0'\.",
    ),
    "complex factors": (
        {"factors": FACTORS * 1j},
        TypeError,
        r"^factors must hold labels or real numbers; got complex128 in 'v0'$",
    ),
    "unhashable factors": (
        {"factors": pd.Series([["a"], ["b"], ["c"]] * 20, name="tags")},
        TypeError,
        r"^factors must hold hashable labels; 'tags': unhashable type: 'list'$",
    ),
}

if hasattr(np.dtypes, "StringDType"):  # numpy 2
    BAD_ARRAYS["NA among numpy strings"] = (
        {"factors": np.array(["a", "b", np.nan] * 20, np.dtypes.StringDType(na_object=np.nan))},
        ValueError,
        r"^factors .* in 'v0'\.",
    )

BAD_FACTORS = {
    "one value": (
        {"factors": np.column_stack([V, V * 0])},
        r"^factors must take at least two values .* got one in 'v1'\. The entropy of such a "
        r"factor is 0: leave it out$",
    ),
    "one value, named": ({"factors": pd.Series(["a"] * 60, name="kind")}, r"got one in 'kind'\."),
    "one value among weighted rows": (
        {"factors": np.column_stack([V, V == 2]), "sample_weight": V != 2},
        r"in the rows of positive weight; got one in 'v1'\.",
    ),
    "one binned value": (
        {"factors": np.ones(60), "discrete_factors": False},
        r"two bins, if they are not discrete\) .* got one in 'v0'\.",
    ),
    "one row": ({"codes": Z[:1], "factors": FACTORS[:1]}, r"got one in 'v0', 'v1'\."),
    "one bin": (
        {"factors": V == 0, "discrete_factors": False, "strategy": "quantile", "n_bins": 2},
        r"two bins, .* got one in 'v0'\.",
    ),
    "continuous": (
        {"factors": np.column_stack([V, UNIT])},
        r"^factors look continuous in 'v1': floats with more distinct values than a fifth of the "
        r"60 rows, .* If they are quantities, (pass discrete_factors=False, or a list with one "
        r"bool per factor|bin that column first, for example with numpy.digitize: .* classes)"
        r"\. Or are codes and factors in the wrong order\?$",
    ),
    "continuous where marked": (
        {"factors": np.column_stack([UNIT, UNIT]), "discrete_factors": [False, True]},
        r"^factors look continuous in 'v1':",
    ),
    "continuous objects": (
        {"factors": pd.DataFrame({"a": list("xyz") * 20, "b": UNIT}).to_numpy()},
        r"^factors look continuous in 'v1':",
    ),
    "continuous among weighted rows": (
        {"factors": UNIT * (V == 0), "sample_weight": V == 0},
        r"^factors look continuous in 'v0': .* the 20 rows",
    ),
    "13 fractions in 60 rows": (
        {"factors": np.arange(60) % 13 / 8},
        r"^factors look continuous in 'v0':",
    ),
}

BAD_OPTIONS = {
    "n_bins 1": ({"n_bins": 1}, ValueError, r"^n_bins must be an integer >= 2; got 1$"),
    "n_bins -3": ({"n_bins": -3}, ValueError, r"^n_bins must be an integer >= 2; got -3$"),
    "n_bins 2.5": ({"n_bins": 2.5}, TypeError, r"^n_bins must be an integer >= 2; got 2\.5$"),
    "n_bins 20.0": ({"n_bins": 20.0}, TypeError, r"^n_bins must be an integer"),
    "n_bins True": ({"n_bins": True}, TypeError, r"^n_bins must be an integer >= 2; got True$"),
    "n_bins numpy bool": ({"n_bins": np.True_}, TypeError, r"^n_bins must be an integer"),
    "codes too wide": (
        {"codes": put(Z, 1e308, (0, 1)) - put(0 * Z, 1e308, (1, 1))},
        ValueError,
        r"^codes must span a range that float64 can hold; they do not in 'z1'\. Rescale them$",
    ),
    "factors too wide": (
        {"factors": put(V, 1.5e308, 0) - put(0 * V, 1.5e308, 1), "discrete_factors": False},
        ValueError,
        r"^factors must span a range that float64 can hold; they do not in 'v0'\. Rescale them$",
    ),
    "n_bins text": ({"n_bins": "20"}, TypeError, r"^n_bins must be an integer >= 2; got '20'$"),
    "n_bins list": (
        {"n_bins": [20, 20]},
        ValueError,
        r"^n_bins must hold one entry for each of the 3 latents; got 2$",
    ),
    "n_bins matrix": ({"n_bins": [[20, 20, 20]]}, TypeError, r"^n_bins must be an integer"),
    "n_bins unfitted": (
        {"n_bins": KBinsDiscretizer()},
        ValueError,
        r"^n_bins must be a fitted KBinsDiscretizer; got one without bin_edges_",
    ),
    "strategy": (
        {"strategy": "kmeans"},
        ValueError,
        r"^strategy must be 'uniform', 'quantile' or 'robust'; got 'kmeans'$",
    ),
    "no strategy": ({"strategy": None}, ValueError, r"^strategy must be .* got None$"),
    "too few flags": (
        {"discrete_factors": [True]},
        ValueError,
        r"^discrete_factors must have one bool for each of the 2 factors; got 1$",
    ),
    "flags of ints": (
        {"discrete_factors": [1, 0]},
        TypeError,
        r"^discrete_factors must be a bool, or a sequence with one bool per factor; got \[1, 0\]$",
    ),
    "flag None": ({"discrete_factors": None}, TypeError, r"^discrete_factors must .* got None$"),
    "flag 1": ({"discrete_factors": 1}, TypeError, r"^discrete_factors must .* got 1$"),
    "flag text": ({"discrete_factors": "ab"}, TypeError, r"^discrete_factors must .* got 'ab'$"),
    "flag by name": ({"discrete_factors": {"v0": True}}, TypeError, r"^discrete_factors must "),
    "strings to bin": (
        {"factors": V.astype(str), "discrete_factors": False},
        TypeError,
        r"^factors must hold real numbers; got dtype <U\d+ in 'v0', which (cannot be binned|"
        r"is no number): mark it as discrete in discrete_factors$",
    ),
    "number strings to bin": (
        {"factors": V.astype(str).astype(object), "discrete_factors": False},
        TypeError,
        r"^factors must hold real numbers; got dtype object in 'v0', which (cannot be binned|is)",
    ),
    "too few weights": (
        {"sample_weight": WEIGHT[1:]},
        ValueError,
        r"^sample_weight must have shape \(60,\), one weight for each row of codes; "
        r"got shape \(59,\)$",
    ),
    "weights in a column": (
        {"sample_weight": WEIGHT[:, None]},
        ValueError,
        r"^sample_weight must have shape \(60,\), .* got shape \(60, 1\)$",
    ),
    "one weight": ({"sample_weight": 1.0}, ValueError, r"^sample_weight .* got shape \(\)$"),
    "negative weight": (
        {"sample_weight": put(WEIGHT, -1, 7)},
        ValueError,
        r"^sample_weight must be finite and not negative; got -1\.0 at row 7$",
    ),
    "NaN weight": ({"sample_weight": put(WEIGHT, np.nan, 7)}, ValueError, r"got nan at row 7$"),
    "infinite weight": ({"sample_weight": put(WEIGHT, np.inf, 7)}, ValueError, r"got inf at row 7"),
    "no weight at all": (
        {"sample_weight": 0 * WEIGHT},
        ValueError,
        r"^sample_weight must have a positive, finite sum; got 0\.0$",
    ),
    "too much weight": ({"sample_weight": 1e308 * WEIGHT}, ValueError, r"finite sum; got inf$"),
    "text weights": (
        {"sample_weight": WEIGHT.astype(str)},
        TypeError,
        r"^sample_weight must hold real numbers; got dtype <U",
    ),
    "complex weights": (
        {"sample_weight": 1j * WEIGHT},
        TypeError,
        r"^sample_weight .* complex128$",
    ),
}


SCORES = [getattr(metrics, name) for name in metrics.__all__ if name.endswith("_score")]
SCORES.append(metrics.neighbour_information)
WITH_FACTORS = [s for s in SCORES if "factors" in inspect.signature(s).parameters]
OF_NUMBERS = [metrics.mcc_score, metrics.linear_r2_score]  # these have no classes


def options_of(score):
    """Return the options of a score, those of tables among them."""
    names = set(inspect.signature(score).parameters)
    tables = set(inspect.signature(metrics.contingency_tables).parameters)
    return names | tables if "options" in names else names


def assert_refused(scores, arguments, error, message):
    taking = [score for score in scores if arguments.keys() <= options_of(score)]
    assert taking
    for score in taking:
        given = {"codes": Z, "factors": FACTORS} | arguments
        known = {name: given[name] for name in given if name in options_of(score)}
        with pytest.raises(error, match=message):
            score(**known)


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays(case):
    arguments, error, message = BAD_ARRAYS[case]
    of_labels = [score for score in WITH_FACTORS if score not in OF_NUMBERS]
    only_codes = arguments.keys() == {"codes"}
    assert_refused(SCORES if only_codes else of_labels, arguments, error, message)


@pytest.mark.parametrize("case", BAD_FACTORS)
def test_bad_factors(case):
    arguments, message = BAD_FACTORS[case]
    of_labels = [score for score in WITH_FACTORS if score not in OF_NUMBERS]
    assert_refused(of_labels, arguments, ValueError, message)


@pytest.mark.parametrize("score", OF_NUMBERS)
@pytest.mark.parametrize(
    ("factors", "error", "message"),
    [
        (
            V.astype(str),
            TypeError,
            r"factors must hold real numbers; .*This score compares numbers",
        ),
        (V * 1j, TypeError, r"factors must hold real numbers; got dtype complex128 in 'v0'$"),
        (put(FACTORS, np.nan, (5, 1)), ValueError, r"^factors must have no NaN.* in 'v1'"),
        (np.ones(60), ValueError, r"^factors must take at least two values .*got one in 'v0'"),
        (FACTORS[:-1], ValueError, "one row per item each; got 60 and 59"),
    ],
)
def test_bad_factors_of_scores_that_compare_numbers(score, factors, error, message):
    with pytest.raises(error, match=message):
        score(Z, factors)


ONE_OF = {
    "correction": "None, 'miller-madow' or 'adjusted'",
    "convention": "None",
    "dead_latents": "'zero' or 'ignore'",
    "method": "'pearson' or 'spearman'",
    "estimator": "'gradient-boosting' or 'random-forest'",
}


@pytest.mark.parametrize(("option", "message"), ONE_OF.items())
def test_options_that_are_one_of_several(option, message):
    expected = rf"^{option} must be {message}.*; got 'no such'$"
    assert_refused(SCORES, {option: "no such"}, ValueError, expected)


@pytest.mark.parametrize("size", [0, 1, 1.0, 0.001, -0.5, "half", [True] * 59, [True] * 60])
def test_bad_test_sizes(size):
    assert_refused(WITH_FACTORS, {"test_size": size}, ValueError, r"^test_size must .*; got ")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("n_train", 0, "n_train must be an int >= 1; got 0"),
        ("n_test", 2.5, "n_test must be an int >= 1; got 2.5"),
        ("group_size", 1, "group_size must be an int >= 2; got 1"),
        ("group_size", True, "group_size must be an int >= 2; got True"),
        ("n_neighbors", 60, "n_neighbors must be an int from 1 to n - 1 = 59; got 60"),
        ("n_neighbors", 0, "n_neighbors must be an int from 1 to n - 1 = 59; got 0"),
        ("threshold", 1e9, "a standard deviation above|threshold must"),
        ("threshold", -1, "threshold must be at least 0; got -1"),
        ("quantile", 0, "quantile must be above 0 and at most 1; got 0"),
        ("quantile", 99, "quantile must be above 0 and at most 1; got 99"),
        ("active_range", 2.0, "active_range must be at least 0 and below 1; got 2.0"),
    ],
)
def test_numbers_out_of_range(option, value, message):
    scores = [
        s for s in SCORES if (s, option, value) != (metrics.active_units_score, "threshold", 1e9)
    ]
    assert_refused(scores, {option: value}, ValueError, message)


@pytest.mark.parametrize(
    "score", [s for s in WITH_FACTORS if s not in OF_NUMBERS], ids=lambda score: score.__name__
)
def test_the_remedies_for_factors_of_numbers(score):
    rng = np.random.default_rng(0)
    numbers = rng.random((400, 2))
    codes = numbers + 0.01 * rng.standard_normal((400, 2))
    known = {"test_size": 0.3, "random_state": 0, "n_train": 50, "n_test": 50}
    options = {name: value for name, value in known.items() if name in options_of(score)}
    with pytest.raises(ValueError, match="factors look continuous") as error:
        score(codes, numbers, **options)
    if "numpy.digitize" in str(error.value):
        score(codes, np.digitize(numbers, [0.25, 0.5, 0.75]), **options)
    else:
        assert "discrete_factors=False" in str(error.value)
        score(codes, numbers, discrete_factors=False, **options)


def test_an_estimator_that_is_none():
    with pytest.raises(TypeError, match=r"estimator must be 'gradient-boosting', .*; got int"):
        metrics.dci_score(Z, FACTORS, estimator=3)


def test_scores_of_several_factors_or_latents():
    with pytest.raises(ValueError, match="modularity needs at least two factors; got one"):
        metrics.modularity_score(Z, V)
    with pytest.raises(ValueError, match="codes must have at least two latents; got one"):
        metrics.pairwise_information_score(Z[:, :1])
    with pytest.raises(ValueError, match="factors must have a value that at least two rows share"):
        metrics.factor_vae_score(Z[:3], [0, 1, 2])
    with pytest.raises(ValueError, match="codes must have an active latent"):
        metrics.infomec_score(np.ones((60, 2)), FACTORS)
    with pytest.raises(ValueError, match="codes must have a latent with a standard deviation"):
        metrics.factor_vae_score(np.ones((60, 2)), FACTORS)


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options(case):
    arguments, error, message = BAD_OPTIONS[case]
    assert_refused([*SCORES, mutual_info_gap], arguments, error, message)


def test_the_reference_case_with_a_factor_of_one_value():
    case = make_case("m_single_value_factor")
    with pytest.raises(ValueError, match=r"got one in 'v2'\."):
        mig_score(case["codes"], case["factors"])


def test_12_fractions_in_60_rows_are_not_too_many():
    v = np.arange(60) % 12 / 8
    assert mig_score(v[:, None], v) == pytest.approx(1)


def test_options_are_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        mig_score(Z, FACTORS, 20)


def test_transposed_arrays_are_told():
    with pytest.raises(ValueError, match=r"factors have 60 columns of 2 rows: pass factors.T$"):
        mig_score(np.zeros((2, 60)), np.column_stack([V, V]).T)
