"""Tables counted by torch: those of numpy, on any device, for any weights and bins."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import KBinsDiscretizer

from tcdecomp import mig_score
from tcdecomp.dataset import tensor_tables
from tcdecomp.metrics import contingency_tables

RNG = np.random.default_rng(0)
FACTORS = np.column_stack([RNG.integers(0, 3, 700), RNG.integers(-2, 5, 700)])
CODES = np.column_stack([FACTORS + RNG.standard_normal((700, 2)), np.ones(700), FACTORS[:, 0] / 8])
WEIGHT = RNG.integers(0, 3, 700) / 2
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize(
    "n_bins",
    [20, [20, 3, 2, 8], KBinsDiscretizer(7, strategy="quantile", subsample=None).fit(CODES[:, :2])],
    ids=["one", "several", "fitted"],
)
def test_the_tables_are_those_of_numpy(device, dtype, weight, n_bins):
    codes = torch.tensor(CODES, dtype=dtype, device=device)
    if hasattr(n_bins, "fit"):
        codes = codes[:, :2]
    found = tensor_tables(codes, FACTORS, n_bins=n_bins, sample_weight=weight)
    options = {"n_bins": n_bins, "sample_weight": weight, "discrete_codes": False}
    want = contingency_tables(codes.cpu().double(), FACTORS, **options)
    np.testing.assert_allclose(found.counts, want.counts, rtol=1e-12)
    assert found.sizes == want.sizes
    assert found.factor_names == want.factor_names
    assert mig_score(found) == pytest.approx(mig_score(want), abs=1e-12)


def test_tables_of_parts_add_to_those_of_numpy():
    codes = CODES[:, :2]
    bins = KBinsDiscretizer(9, strategy="uniform", subsample=None).fit(codes)
    first = tensor_tables(torch.tensor(codes[:300]), FACTORS[:300], n_bins=bins)
    second = contingency_tables(codes[300:], FACTORS[300:], n_bins=bins)
    want = contingency_tables(codes, FACTORS, n_bins=bins)
    np.testing.assert_array_equal((first + second).counts, want.counts)


def test_rows_of_weight_0_may_hold_anything():
    codes = torch.tensor(CODES)
    codes[:3] = torch.nan
    weight = np.append([0, 0, 0], np.ones(697))
    want = contingency_tables(CODES[3:], FACTORS[3:])
    found = tensor_tables(codes, FACTORS, sample_weight=weight)
    np.testing.assert_array_equal(found.counts, want.counts)


def test_codes_that_are_not_contiguous_and_need_gradients():
    codes = torch.tensor(CODES.T.copy(), requires_grad=True).T
    want = contingency_tables(CODES, FACTORS)
    np.testing.assert_array_equal(tensor_tables(codes, FACTORS.tolist()).counts, want.counts)


@pytest.mark.parametrize(
    ("codes", "factors", "error", "message"),
    [
        (CODES, FACTORS, TypeError, "codes must be a torch.Tensor with a .*; got ndarray"),
        (torch.tensor(FACTORS), FACTORS, TypeError, "floating-point dtype; got torch.int64"),
        (torch.ones(700), FACTORS, ValueError, r"codes must have shape \(n, D\); got \(700,\)"),
        (torch.ones(9, 2), FACTORS, ValueError, "one row per item each; got 9 and 700 rows"),
        (torch.full((700, 2), np.nan), FACTORS, ValueError, "codes must be finite; got nan at row"),
        (torch.ones(700, 2), FACTORS * 0, ValueError, "factors must take at least two values"),
        (torch.ones(700, 2), CODES, ValueError, "factors look .* in 'v0'.*, bin that column first"),
    ],
)
def test_errors(codes, factors, error, message):
    with pytest.raises(error, match=message):
        tensor_tables(codes, factors)
