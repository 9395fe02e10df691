"""Labels that look like numbers, and numbers that look like labels."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mutual_info_score

from tcdecomp.metrics import mig_score, mutual_info_gap

RNG = np.random.default_rng(0)
FACTORS = RNG.integers(0, 8, (8000, 2))
TABLES = [RNG.permutation(64).reshape(8, 8) for _ in range(2)]
# Codebook indices: eight for each value of a factor, in any order
INDICES = np.stack([TABLES[j][FACTORS[:, j], RNG.integers(0, 8, 8000)] for j in range(2)], 1)


def plug_in(codes, factors):
    return np.array([[mutual_info_score(z, v) for v in factors.T] for z in codes.T])


@pytest.mark.parametrize("kind", [int, float, str, object])
def test_codes_that_are_labels(kind):
    gap = mutual_info_gap(INDICES.astype(kind), FACTORS, discrete_codes=True)
    np.testing.assert_allclose(gap.mutual_info, plug_in(INDICES, FACTORS), rtol=0, atol=1e-12)
    assert gap.score > 0.98


def test_labels_and_numbers_side_by_side():
    numbers = FACTORS[:, 1] + 0.1 * RNG.standard_normal(8000)
    frame = pd.DataFrame({"index": INDICES[:, 0].astype(str), "z": numbers})
    gap = mutual_info_gap(frame, FACTORS, discrete_codes=[True, False])
    labelled = mutual_info_gap(INDICES[:, :1], FACTORS, discrete_codes=True)
    binned = mutual_info_gap(numbers[:, None], FACTORS)
    expected = np.vstack([labelled.mutual_info, binned.mutual_info])
    np.testing.assert_allclose(gap.mutual_info, expected, rtol=0, atol=1e-12)
    assert gap.latent_names == ("index", "z")


@pytest.mark.parametrize("dtype", [int, np.uint8, float, np.float32])
def test_whole_numbers_that_bins_merge_are_warned_of(dtype):
    codes = INDICES.astype(dtype)
    with pytest.warns(
        UserWarning, match=r"whole numbers in 'z0', 'z1'.*discrete_codes=True"
    ) as seen:
        merged = mig_score(codes, FACTORS)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert merged < 0.6 < 0.98 < mig_score(codes, FACTORS, discrete_codes=True)
    assert mig_score(codes, FACTORS, discrete_codes=False) == pytest.approx(merged, abs=1e-12)


@pytest.mark.parametrize(
    ("codes", "options"),
    [
        (INDICES + 0.5, {}),
        (INDICES / 63, {}),
        (INDICES, {"n_bins": 64}),
        (INDICES, {"n_bins": 64, "strategy": "robust"}),
        (FACTORS, {}),
    ],
)
def test_other_codes_are_silent(codes, options):
    mig_score(codes, FACTORS, **options)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e-9])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_values_that_differ_by_rounding(scale, dtype):
    tenth = np.array([0.1, 0.2, 0.3]) * scale
    values = np.array([*tenth, tenth[0] + tenth[1], tenth[2] - tenth[1]], dtype)
    values[-2:] = np.nextafter(values[[2, 0]], dtype(np.inf))
    factor = RNG.choice(values, 3000)
    codes = factor[:, None].astype(float)
    with pytest.warns(
        UserWarning, match="factors have values in 'v0' that differ by rounding"
    ) as s:
        mig_score(codes, factor)
    (decimals,) = re.findall(r"numpy\.round\(column, (-?\d+)\)", str(s[0].message))
    rounded = np.round(factor, int(decimals))
    assert len(np.unique(rounded)) == 3
    assert mig_score(codes, rounded) == pytest.approx(1)


def test_rounding_around_0_is_seen():
    factor = RNG.choice([-0.5, 0.0, 0.1 + 0.2 - 0.3, 0.5], 1000)
    with pytest.warns(UserWarning, match=r"rounding.*numpy\.round\(column"):
        mig_score(factor[:, None], factor)


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(0, 1, 200),
        np.linspace(0.28, 0.72, 32, dtype=np.float32),
        np.arange(12) / 8,
        [1e-5, 1.0, 1e5],
        [16777216.0, 16777217.0],
        [0.3, 0.300001],
    ],
)
def test_values_that_differ_are_silent(values):
    factor = RNG.choice(np.asarray(values), 2000)
    factor[: len(values)] = values
    mig_score(factor[:, None] * 0.3, factor)


@pytest.mark.parametrize(
    "index",
    [
        np.arange(500),
        RNG.permutation(500),
        np.arange(500.0),
        np.arange(500).astype(str),
        pd.Series([f"image_{i}.png" for i in range(500)]),
    ],
    ids=["order", "shuffled", "floats", "strings", "names"],
)
def test_the_number_of_a_row_is_no_factor(index):
    codes = RNG.standard_normal((500, 3))
    message = "factors must not have a different value in every row.*500 values in 500 rows in 'v1'"
    factors = pd.DataFrame({"v0": np.arange(500) % 5, "v1": index})
    with pytest.raises(ValueError, match=message):
        mig_score(codes, factors)
    mig_score(codes, factors[["v0"]], correction="adjusted")


def test_a_quantity_that_differs_in_every_row_is_binned():
    order = np.arange(500)
    with pytest.raises(ValueError, match=r"If it is a quantity, pass discrete_factors=False"):
        mig_score(order[:, None] / 500, order)
    assert mig_score(order[:, None] / 500, order, discrete_factors=False) == pytest.approx(1)


def test_codes_that_differ_in_every_row_are_no_labels():
    v = np.arange(500) % 5
    with pytest.raises(ValueError, match=r"codes must not .* 'z0'.*pass discrete_codes=False"):
        mig_score(RNG.permutation(500)[:, None], v, discrete_codes=True)
    with pytest.raises(ValueError, match=r"codes look continuous in 'z0': .*discrete_codes=False"):
        mig_score(RNG.standard_normal((500, 1)), v, discrete_codes=True)


@pytest.mark.parametrize("shape", [(2, 900), (3, 100)])
def test_factors_of_another_shape(shape):
    message = (
        rf"got 100 and {shape[0]} rows\. An array of shape \({shape[0]}, {shape[1]}\), such as a "
    )
    with pytest.raises(ValueError, match=message + r"transposed array or the edge list"):
        mig_score(RNG.standard_normal((100, 2)), RNG.integers(0, 2, shape))


def test_other_lengths_say_nothing_of_edges():
    with pytest.raises(ValueError, match=r"got 100 and 90 rows$"):
        mig_score(RNG.standard_normal((100, 2)), RNG.integers(0, 2, (90, 2)))


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        ([True], ValueError, "discrete_codes must have one bool for each of the 2 latents; got 1"),
        ("yes", TypeError, "discrete_codes must be a bool, or a sequence with one bool per latent"),
    ],
)
def test_bad_flags(flags, error, message):
    with pytest.raises(error, match=message):
        mig_score(INDICES, FACTORS, discrete_codes=flags)


def test_missing_labels_are_named():
    codes = INDICES.astype(object)
    codes[3, 1] = None
    with pytest.raises(ValueError, match=r"codes must have no NaN.* in 'z1'"):
        mig_score(codes, FACTORS, discrete_codes=True)
