"""Every kind of codes, factors and weights gives what a plain array gives, under its own names."""

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch

from tcdecomp.metrics import mig_score, mutual_info_gap

RNG = np.random.default_rng(0)
SHAPE = RNG.integers(0, 3, size=60)
SIZE = RNG.integers(0, 4, size=60)
FACTORS = np.column_stack([SHAPE, SIZE])
# Multiples of 1/8 below 8: exact in every floating dtype, bfloat16 among them.
CODES = np.column_stack([SHAPE * 2, SIZE, SHAPE + SIZE]) + RNG.integers(0, 8, size=(60, 3)) / 8
EXPECTED = mutual_info_gap(CODES, FACTORS)


def assert_same(gap, expected=EXPECTED):
    # Labels may be numbered in another order, and sums be rounded in another.
    np.testing.assert_allclose(gap.mutual_info, expected.mutual_info, rtol=0, atol=1e-13)
    assert gap.score == pytest.approx(expected.score, rel=0, abs=1e-13)


class Frame:
    """What any data frame has: named columns."""

    def __init__(self, **columns):
        self.columns, self._columns = list(columns), columns

    def __getitem__(self, name):
        return self._columns[name]


CODES_KINDS = {
    "list": CODES.tolist(),
    "rows": tuple(CODES),
    "float32": CODES.astype(np.float32),
    "float16": CODES.astype(np.float16),
    "longdouble": CODES.astype(np.longdouble),
    "object": CODES.astype(object),
    "column-major": np.asfortranarray(CODES),
    "strided": np.repeat(CODES, 2, axis=0)[::2],
    "tensor": torch.tensor(CODES),
    "float32 tensor": torch.tensor(CODES, dtype=torch.float32),
    "half tensor": torch.tensor(CODES, dtype=torch.half),
    "bfloat16 tensor": torch.tensor(CODES, dtype=torch.bfloat16),
    "parameter": torch.nn.Parameter(torch.tensor(CODES)),
    "graph": torch.tensor(CODES, requires_grad=True) * 1.0,
    "negative view": torch.tensor(-1j * CODES).conj().imag,
    "transposed tensor": torch.tensor(CODES.T.copy()).T,
    "data frame": pd.DataFrame(CODES),
    "nullable": pd.DataFrame(CODES).astype("Float64"),
    "any frame": Frame(a=CODES[:, 0], b=CODES[:, 1].tolist(), c=torch.tensor(CODES[:, 2])),
    "unmasked": np.ma.masked_array(CODES, mask=False),
}


@pytest.mark.parametrize("kind", CODES_KINDS)
def test_kinds_of_codes(kind):
    assert_same(mutual_info_gap(CODES_KINDS[kind], FACTORS))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, int, np.uint8, bool])
def test_codes_of_whole_numbers(dtype):
    codes = torch.tensor(FACTORS) if isinstance(dtype, torch.dtype) else FACTORS
    codes = codes.to(dtype) if isinstance(dtype, torch.dtype) else codes.astype(dtype)
    expected = mutual_info_gap(np.asarray(codes).astype(float), FACTORS)
    assert_same(mutual_info_gap(codes, FACTORS), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_codes_on_a_gpu():
    codes = torch.tensor(CODES, device="cuda", requires_grad=True)
    assert_same(mutual_info_gap(codes, torch.tensor(FACTORS, device="cuda")))


WORDS = np.array(["disc", "square", "heart"])[SHAPE]
DAYS = np.array(["2001-01-01", "1999-05-05", "2020-02-02", "2000-12-31"], dtype="M8[D]")[SIZE]
MIXED = np.array([1, "1", (1, 2), 0.5], dtype=object)[SIZE]

FACTOR_KINDS = {
    "list": FACTORS.tolist(),
    "tuples with strings": list(zip(WORDS.tolist(), SIZE.tolist(), strict=True)),
    "float": FACTORS.astype(float),
    "float with fractions": FACTORS / 7 - 0.3,
    "uint8": FACTORS.astype(np.uint8),
    "far apart": FACTORS * 2**61 - 2**62,
    "strings": FACTORS.astype(str),
    "bytes": FACTORS.astype("S"),
    "objects": FACTORS.astype(object),
    "huge": FACTORS.astype(object) + 2**80,
    "tensor": torch.tensor(FACTORS),
    "int8 tensor": torch.tensor(FACTORS, dtype=torch.int8),
    "bfloat16 tensor": torch.tensor(FACTORS, dtype=torch.bfloat16),
    "tensor with gradient": torch.tensor(FACTORS, dtype=torch.float64, requires_grad=True),
    "data frame": pd.DataFrame({"shape": pd.Categorical(WORDS), "size": SIZE}),
    "array of a mixed frame": pd.DataFrame({"shape": WORDS, "size": SIZE}).to_numpy(),
    "nullable": pd.DataFrame(FACTORS).astype("Int64"),
    "dates": pd.DataFrame({"shape": SHAPE, "day": DAYS}),
    "mixed objects": pd.DataFrame({"shape": WORDS.astype(object), "size": MIXED}),
    "any frame": Frame(shape=WORDS.tolist(), size=torch.tensor(SIZE)),
}
if hasattr(np.dtypes, "StringDType"):  # numpy 2
    words = np.column_stack([WORDS, SIZE.astype(str)])
    FACTOR_KINDS["numpy strings"] = words.astype(np.dtypes.StringDType())


@pytest.mark.parametrize("kind", FACTOR_KINDS)
def test_kinds_of_factors(kind):
    assert_same(mutual_info_gap(CODES, FACTOR_KINDS[kind]))


@pytest.mark.parametrize(
    "factor",
    [
        SHAPE > 0,
        torch.tensor(SHAPE > 0),
        (SHAPE > 0).tolist(),
        np.where(SHAPE > 0, "yes", "no"),
        np.where(SHAPE > 0, "yes", "no").tolist(),
        pd.Series(SHAPE > 0),
        pd.Series(SHAPE > 0).astype("boolean"),
        pd.Series(np.where(SHAPE > 0, "yes", "no"), dtype="category"),
        pd.Series(np.where(SHAPE > 0, "yes", "no"), dtype="string"),
        pd.Series(DAYS).where(SHAPE > 0, pd.Timestamp(0)).dt.year == 1970,
    ],
    ids=lambda factor: type(factor).__name__,
)
def test_kinds_of_a_single_factor(factor):
    assert_same(mutual_info_gap(CODES, factor), mutual_info_gap(CODES, (SHAPE > 0).astype(int)))


def test_an_object_array_is_binned_where_it_holds_numbers():
    factors = pd.DataFrame({"shape": WORDS, "size": SIZE / 4}).to_numpy()
    gap = mutual_info_gap(CODES, factors, discrete_factors=[True, False])
    assert_same(gap, mutual_info_gap(CODES, FACTORS, discrete_factors=[True, False]))


WEIGHT = RNG.integers(0, 4, size=60)


@pytest.mark.parametrize(
    "weight",
    [
        WEIGHT.tolist(),
        WEIGHT.astype(np.float32),
        WEIGHT.astype(object),
        torch.tensor(WEIGHT),
        torch.tensor(WEIGHT, dtype=torch.bfloat16, requires_grad=True),
        pd.Series(WEIGHT),
    ],
    ids=lambda weight: type(weight).__name__,
)
def test_kinds_of_weights(weight):
    gap = mutual_info_gap(CODES, FACTORS, sample_weight=weight)
    assert_same(gap, mutual_info_gap(CODES.repeat(WEIGHT, 0), FACTORS.repeat(WEIGHT, 0)))


def test_a_mask_of_rows_is_a_weight():
    gap = mutual_info_gap(CODES, FACTORS, sample_weight=WEIGHT > 1)
    assert_same(gap, mutual_info_gap(CODES[WEIGHT > 1], FACTORS[WEIGHT > 1]))


def test_a_row_of_weight_zero_is_as_if_it_were_not_there():
    codes = np.vstack([CODES, np.full((1, 3), np.nan)])
    factors = np.vstack([FACTORS.astype(object), [[None, "?"]]])
    assert_same(mutual_info_gap(codes, factors, sample_weight=np.append(np.ones(60), 0)))


@pytest.mark.parametrize(
    "flags",
    [
        [True, False],
        (True, False),
        [np.True_, np.False_],
        np.array([True, False]),
        torch.tensor([True, False]),
    ],
    ids=["list", "tuple", "numpy's", "array", "tensor"],
)
def test_kinds_of_discrete_factors(flags):
    gap = mutual_info_gap(CODES, FACTORS, n_bins=2, discrete_factors=flags)
    size = mutual_info_gap(CODES, FACTORS[:, 1] > 1, n_bins=2)
    shape = mutual_info_gap(CODES, FACTORS[:, 0], n_bins=2)
    np.testing.assert_allclose(gap.gaps, [*shape.gaps, *size.gaps], rtol=0, atol=1e-13)


@pytest.mark.parametrize("flag", [np.True_, np.array(True), torch.tensor(True)])
def test_kinds_of_a_single_flag(flag):
    assert_same(mutual_info_gap(CODES, FACTORS, discrete_factors=flag))


@pytest.mark.parametrize("n_bins", [np.int32(20), np.array(20), torch.tensor(20)])
def test_kinds_of_n_bins(n_bins):
    assert_same(mutual_info_gap(CODES, FACTORS, n_bins=n_bins))


def test_names_of_arrays():
    assert EXPECTED.latent_names == ("z0", "z1", "z2")
    assert EXPECTED.factor_names == ("v0", "v1")
    assert mutual_info_gap(torch.tensor(CODES), torch.tensor(SHAPE)).factor_names == ("v0",)


def test_names_of_frames_and_series():
    codes = pd.DataFrame(CODES, columns=["a", 7, ("x", "y")])
    gap = mutual_info_gap(codes, pd.DataFrame({"shape": WORDS, "size": SIZE}))
    assert gap.latent_names == ("a", "7", "('x', 'y')")
    assert gap.factor_names == ("shape", "size")
    assert mutual_info_gap(codes, pd.Series(SIZE, name="size")).factor_names == ("size",)
    assert mutual_info_gap(codes, pd.Series(SIZE, name=0)).factor_names == ("0",)
    assert mutual_info_gap(codes, pd.Series(SIZE)).factor_names == ("v0",)
    assert "size" in str(gap)


@pytest.mark.parametrize(
    ("codes", "factors"),
    [
        (pd.DataFrame(CODES, index=range(60, 0, -1)), FACTORS),
        (CODES, pd.DataFrame(FACTORS, index=range(60, 0, -1))),
        (pd.DataFrame(CODES), pd.DataFrame(FACTORS, index=np.arange(60))),
        (CODES.tolist(), FACTORS.tolist()),
    ],
)
def test_rows_are_paired_in_their_order_where_no_index_says_otherwise(codes, factors):
    assert_same(mutual_info_gap(codes, factors))


def test_floats_of_whole_numbers_are_labels_however_many():
    positions = np.arange(120.0) // 2
    assert mig_score(positions[:, None], positions, n_bins=60) == pytest.approx(1)


def test_ten_distinct_fractions_are_never_too_many():
    v = np.arange(10) / 3
    assert mig_score(v[:, None], v) == pytest.approx(1)


def test_inputs_are_left_as_they_are():
    codes, factors, weight = CODES.copy(), FACTORS.copy(), WEIGHT.astype(float)
    for array in (codes, factors, weight):
        array.setflags(write=False)
    mutual_info_gap(codes, factors, discrete_factors=[False, True], sample_weight=weight)
    np.testing.assert_array_equal(codes, CODES)
    np.testing.assert_array_equal(factors, FACTORS)


def test_a_scikit_learn_that_is_set_to_return_frames():
    with sklearn.config_context(transform_output="pandas"):
        assert_same(mutual_info_gap(CODES, FACTORS))
