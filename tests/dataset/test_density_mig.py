"""The MIG of posterior densities: against integrals, closed forms and laws."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

import data
from data.mig_cases import make_case
from tcdecomp import density_mig_score, mig_score, mutual_info_gap
from tcdecomp.dataset import DensityTables, density_mutual_info_gap
from tcdecomp.metrics import mig_sup_score, modularity_score

REFERENCE = json.loads((Path(data.__file__).parent / "score_reference.json").read_text("utf-8"))
DENSITIES = {name: case["density"] for name, case in REFERENCE.items() if "density" in case}
NEAR = {"rtol": 0, "atol": 1e-8}


def draw(seed, n=30, latents=3, cards=(2, 3), spread=4.0):
    """Return posteriors of very different widths, and factors in an unbalanced grid with holes."""
    rng = np.random.default_rng(seed)
    factors = np.stack([rng.integers(0, c, n) * rng.integers(0, 2, n) for c in cards], 1)
    factors[0], factors[1] = 0, 1
    mu = rng.normal(size=(n, latents)) + factors[:, :1]
    logvar = -rng.random((n, latents)) * spread
    return torch.tensor(mu), torch.tensor(logvar), factors


def information(mu, std, values, weight):
    """Return I(z; v) as the difference of entropies, by adaptive quadrature."""

    def entropy(rows):
        share = weight[rows] / weight[rows].sum()

        def integrand(z):
            q = share @ norm.pdf(z, mu[rows], std[rows])
            return -q * math.log(q) if q > 0 else 0.0

        ends = mu.min() - 9 * std.max(), mu.max() + 9 * std.max()
        return quad(integrand, *ends, points=np.unique(mu), limit=2000, epsabs=1e-11)[0]

    whole = np.ones(len(mu), bool)
    parts = [(weight[values == v].sum() / weight.sum(), values == v) for v in np.unique(values)]
    return entropy(whole) - sum(p * entropy(rows) for p, rows in parts)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("spread", [0.0, 1.5, 6.0])
def test_information_is_the_integral_of_the_definition(spread, weighted):
    mu, logvar, factors = draw(0, n=20, latents=2, spread=spread)
    weight = np.arange(20.0) % 4 if weighted else np.ones(20)
    gap = density_mutual_info_gap(mu, logvar, factors, sample_weight=weight)
    std = (0.5 * logvar).exp().numpy()
    for j in range(2):
        for k in range(2):
            want = information(mu.numpy()[:, j], std[:, j], factors[:, k], weight)
            assert gap.mutual_info[j, k] == pytest.approx(want, rel=0, abs=1e-8)


@pytest.mark.parametrize("name", DENSITIES)
def test_values_of_an_implementation_apart(name):
    case, expected = make_case(name), DENSITIES[name]
    low, high = expected["deviations"]
    deviations = low + (high - low) * case["draws"]
    if expected["dead"]:
        deviations[:, case["factors"].shape[1] :] = 1
    moments = torch.tensor(case["codes"]), torch.tensor(2 * np.log(deviations))
    gap = density_mutual_info_gap(*moments, case["factors"])
    np.testing.assert_allclose(gap.gaps, expected["gaps"], **NEAR)
    np.testing.assert_allclose(gap.mutual_info.T, expected["mutual_info"], **NEAR)
    assert gap.score == pytest.approx(expected["mig"], abs=1e-8)


def test_the_information_of_a_binary_factor_in_closed_form():
    """Of N(-1, 1) and N(1, 1): log 2 less E[log(1 + exp(-2 z))] at z from N(1, 1)."""
    mu, factors = torch.tensor([[-1.0], [1.0]]), [0, 1]
    gap = density_mutual_info_gap(mu, torch.zeros(2, 1), factors)
    lost = quad(lambda z: norm.pdf(z - 1) * math.log1p(math.exp(-2 * z)), -9, 11)[0]
    assert gap.mutual_info[0, 0] == pytest.approx(math.log(2) - lost, abs=1e-8)


def test_latents_without_information_and_latents_that_know_a_factor():
    factors = np.stack(np.unravel_index(np.arange(12), (3, 4)), 1)
    known = torch.tensor(factors * 1.0)
    mu = torch.cat([known, torch.zeros(12, 1), torch.full((12, 1), 1e6)], 1)
    logvar = torch.tensor([-6.0, -6.0, 0.0, -20.0]).expand(12, 4)
    gap = density_mutual_info_gap(mu, logvar, factors)
    want = np.zeros((4, 2))
    want[0, 0], want[1, 1] = math.log(3), math.log(4)
    np.testing.assert_allclose(gap.mutual_info, want, **NEAR)
    assert gap.score == pytest.approx(1, abs=1e-8)
    np.testing.assert_array_equal(gap.ceilings, 1)


def test_collapsed_latents_do_not_blur_the_score():
    """A collapsed latent whose means differ a little looks like a good second latent in bins."""
    factors = np.stack(np.unravel_index(np.arange(3000) % 60, (3, 4, 5)), 1)
    g = torch.Generator().manual_seed(0)
    mu = torch.tensor(factors * 1.0)
    noise = torch.randn(3000, 2, generator=g, dtype=torch.float64)
    mu = torch.cat([mu, 1e-3 * (mu[:, :2] + noise)], 1)
    logvar = torch.tensor([-5.0, -5.0, -5.0, 0.0, 0.0]).expand(3000, 5)
    assert density_mig_score(mu, logvar, factors) > 0.999
    assert mig_score(mu, factors) < 0.9


@given(seed=st.integers(0, 2**31), scale=st.floats(-9, 9), sign=st.sampled_from([1, -1]))
def test_an_affine_map_of_a_latent_changes_nothing(seed, scale, sign):
    mu, logvar, factors = draw(seed)
    want = density_mutual_info_gap(mu, logvar, factors).mutual_info
    mu[:, 0] = sign * math.exp(scale) * (mu[:, 0] + 0.3)
    logvar[:, 0] += 2 * scale
    np.testing.assert_allclose(
        density_mutual_info_gap(mu, logvar, factors).mutual_info, want, **NEAR
    )


@given(seed=st.integers(0, 2**31))
def test_rows_latents_and_factors_may_be_permuted(seed):
    mu, logvar, factors = draw(seed)
    rng = np.random.default_rng(seed)
    rows, latents, columns = rng.permutation(30), rng.permutation(3), rng.permutation(2)
    want = density_mutual_info_gap(mu, logvar, factors)
    moments = (t[rows][:, latents] for t in (mu, logvar))
    got = density_mutual_info_gap(*moments, factors[rows][:, columns])
    np.testing.assert_allclose(got.mutual_info, want.mutual_info[latents][:, columns], **NEAR)
    np.testing.assert_allclose(got.factor_entropy, want.factor_entropy[columns], **NEAR)


@given(seed=st.integers(0, 2**31))
def test_a_weight_counts_as_equal_rows(seed):
    mu, logvar, factors = draw(seed)
    weight = np.random.default_rng(seed).integers(1, 4, 30)
    times = torch.tensor(weight)
    repeated = (t.repeat_interleave(times, 0) for t in (mu, logvar, torch.tensor(factors)))
    want = density_mutual_info_gap(*repeated)
    got = density_mutual_info_gap(mu, logvar, factors, sample_weight=weight / 7)
    np.testing.assert_allclose(got.mutual_info, want.mutual_info, **NEAR)
    assert got.score == pytest.approx(want.score, abs=1e-7)


@given(seed=st.integers(0, 2**31), cut=st.integers(1, 29))
def test_tables_of_parts_add_up(seed, cut):
    mu, logvar, factors = draw(seed)
    want = density_mutual_info_gap(mu, logvar, factors).mutual_info
    one, two, both = DensityTables(), DensityTables(), DensityTables()
    for tables, rows in ((one, slice(cut)), (two, slice(cut, None))):
        tables.update(mu[rows], logvar[rows], factors[rows])
        both.update(mu[rows], logvar[rows], factors[rows])
    for tables in (both, one + two, two + one, DensityTables() + both, both + DensityTables()):
        np.testing.assert_allclose(mutual_info_gap(tables.tables()).mutual_info, want, **NEAR)


def test_adding_does_not_change_the_parts():
    mu, logvar, factors = draw(0)
    parts = [DensityTables(), DensityTables()]
    for tables, rows in zip(parts, (slice(9), slice(9, None)), strict=True):
        tables.update(mu[rows], logvar[rows], factors[rows])
    before = parts[0].tables().total
    whole = parts[0] + parts[1]
    whole.update(mu, logvar, factors)
    assert parts[0].tables().total == before == pytest.approx(9)
    assert whole.tables().total == pytest.approx(60)


@pytest.mark.parametrize("first", [True, False])
def test_a_sum_with_empty_tables_does_not_share_theirs(first):
    mu, logvar, factors = draw(0)
    full, empty = DensityTables(), DensityTables()
    full.update(mu, logvar, factors)
    before = full.tables().counts
    both = full + empty if first else empty + full
    both.update(torch.zeros_like(mu), logvar, factors)
    np.testing.assert_array_equal(full.tables().counts, before)
    assert both.tables().total == pytest.approx(60)
    with pytest.raises(ValueError, match="must have items"):
        empty.tables()


def test_labels_of_any_kind_and_names_of_a_frame():
    mu, logvar, factors = draw(0)
    frame = pd.DataFrame({"shape": factors[:, 0], "size": np.array(["s", "m", "l"])[factors[:, 1]]})
    gap = density_mutual_info_gap(mu, logvar, frame)
    assert gap.factor_names == ("shape", "size")
    want = density_mutual_info_gap(mu, logvar, factors)
    np.testing.assert_allclose(gap.mutual_info, want.mutual_info, **NEAR)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_any_dtype_gives_what_its_values_give(dtype):
    mu, logvar, factors = draw(0)
    mu, logvar = mu.to(dtype).requires_grad_(), logvar.to(dtype)
    want = density_mutual_info_gap(mu.double(), logvar.double(), factors).mutual_info
    np.testing.assert_array_equal(density_mutual_info_gap(mu, logvar, factors).mutual_info, want)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tables_stay_on_the_device_of_the_first_batch():
    mu, logvar, factors = draw(0)
    tables = DensityTables()
    for device in ("cuda", "cpu"):
        tables.update(mu.to(device), logvar.to(device), factors)
    want = density_mutual_info_gap(mu, logvar, factors).mutual_info
    np.testing.assert_allclose(mutual_info_gap(tables.tables()).mutual_info, want, **NEAR)
    assert tables._lattices.table.is_cuda


def test_other_scores_of_the_same_tables():
    factors = np.stack(np.unravel_index(np.arange(12), (3, 4)), 1)
    tables = DensityTables()
    tables.update(torch.tensor(factors * 1.0), torch.full((12, 2), -8.0), factors)
    assert mig_sup_score(tables.tables()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("jitter", [0, 1e-4])
def test_dead_latents_count_as_dead_in_every_score(jitter):
    """Latents that are N(0, 1) for every item, to rounding or to far less than the error."""
    g = torch.Generator().manual_seed(0)
    factors = torch.randint(0, 5, (3000, 2), generator=g)
    noise = jitter * torch.randn(3000, 3, generator=g, dtype=torch.float64)
    mu = torch.cat([factors.double(), noise], 1)
    logvar = torch.tensor([-6.0, -6.0, 0.0, 0.0, 0.0]).expand(3000, 5)
    tables = DensityTables()
    tables.update(mu, logvar, factors)
    live = DensityTables()
    live.update(mu[:, :2], logvar[:, :2], factors)
    found, want = tables.tables(), live.tables()
    assert not mutual_info_gap(found).mutual_info[2:].any()
    for score in (modularity_score, mig_sup_score):
        assert score(found) == pytest.approx(0.4 * score(want), abs=1e-6)
        assert score(found, dead_latents="ignore") == pytest.approx(score(want), abs=1e-6)


def test_a_batch_of_few_rows_may_have_a_new_value_in_each():
    """What looks like a row number or a continuous factor in a batch is judged by all rows."""
    tables = DensityTables()
    positions = torch.linspace(0, 1, 30, dtype=torch.float64)
    for rows in torch.arange(600).split(30):
        tables.update(positions[rows % 30, None], torch.full((30, 1), -9.0), positions[rows % 30])
    assert mutual_info_gap(tables.tables()).factor_entropy[0] == pytest.approx(math.log(30))


def test_standard_deviations_without_bound_are_refused_with_a_remedy():
    mu, logvar, factors = draw(0, cards=(2, 9))
    sharp = logvar.clone()
    sharp[:, 1] = -40.0
    with pytest.raises(ValueError, match=r"latent 1 has means over a range of .*GiB") as raised:
        density_mig_score(mu, sharp, factors)
    low = float(re.search(r"clamp\(min=(.*?)\)", str(raised.value))[1])
    gap = density_mutual_info_gap(mu, sharp.clamp(min=low), factors)
    np.testing.assert_allclose(gap.mutual_info[1], gap.factor_entropy, atol=1e-3)


@pytest.mark.parametrize("logvar", [-70.0, -75.0, -200.0])
@pytest.mark.parametrize("start", [0.0, 1.0, -4.0])
def test_standard_deviations_too_small_for_float64_are_refused_with_a_remedy(start, logvar):
    factors = torch.arange(40) % 4
    mu, logvar = factors.double()[:, None] + start, torch.full((40, 1), logvar).double()
    with pytest.raises(ValueError, match="logvar must not be so small beside") as raised:
        density_mig_score(mu, logvar, factors)
    low = float(re.search(r"clamp\(min=(.*?)\)", str(raised.value))[1])
    assert density_mig_score(mu, logvar.clamp(min=low), factors) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("rows_before", [0, 15])
def test_a_refused_batch_leaves_nothing_behind(rows_before):
    mu, logvar, factors = draw(0)
    want, got = DensityTables(), DensityTables()
    rest = slice(rows_before, None)
    for tables in (want, got):
        if rows_before:
            tables.update(mu[:rows_before], logvar[:rows_before], factors[:rows_before])
    with pytest.raises(ValueError, match="GiB"):
        got.update(mu, torch.full_like(logvar, -50), factors + 7)
    for tables in (want, got):
        tables.update(mu[rest], logvar[rest], factors[rest])
    assert got.tables().sizes == want.tables().sizes == (2, 3)
    np.testing.assert_array_equal(got.tables().counts, want.tables().counts)


MU, LOGVAR, FACTORS = draw(1)
RIGHT = {"mu": MU, "logvar": LOGVAR, "factors": FACTORS, "sample_weight": None}
WRONG = {
    "numpy": ({"mu": MU.numpy()}, TypeError, "mu must be a torch.Tensor; got ndarray"),
    "shapes": ({"logvar": LOGVAR[:5]}, ValueError, "mu and logvar must share one shape (M, D)"),
    "nan": ({"mu": MU * math.nan}, ValueError, "mu must be finite; got nan at row 0, column 0"),
    "inf": ({"logvar": -LOGVAR / 0}, ValueError, "logvar must be finite; got"),
    "rows": ({"factors": FACTORS[:9]}, ValueError, "one row per item each; got 30 and 9 rows"),
    "single": ({"factors": FACTORS[:, 0] * 0}, ValueError, "at least two values"),
    "missing": ({"factors": [None, *[1] * 29]}, ValueError, "factors must have no NaN"),
    "continuous": ({"factors": MU[:, 0]}, ValueError, "factors look continuous in 'v0'"),
    "row number": ({"factors": range(30)}, ValueError, "a different value in every row"),
    "weights": ({"sample_weight": [-1] * 30}, ValueError, "sample_weight must be finite and not"),
    "weights' shape": ({"sample_weight": [1]}, ValueError, "sample_weight must have shape (30,)"),
    "group": ({"process_group": 1}, TypeError, "process_group must be None"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_named(name):
    change, error, text = WRONG[name]
    with pytest.raises(error, match=re.escape(text)):
        density_mig_score(**{**RIGHT, **change})


def test_tables_that_do_not_match_are_named():
    with pytest.raises(ValueError, match="must have items; call update first"):
        DensityTables().tables()
    one, two = DensityTables(), DensityTables()
    one.update(MU, LOGVAR, FACTORS)
    two.update(MU[:, :2], LOGVAR[:, :2], FACTORS)
    with pytest.raises(ValueError, match="equally many latents"):
        one + two
    with pytest.raises(ValueError, match="as in earlier batches"):
        one.update(MU[:, :2], LOGVAR[:, :2], FACTORS)
    with pytest.raises(TypeError):
        one + 1


def test_log_variances_that_look_like_deviations_are_doubted_once():
    tables = DensityTables()
    with pytest.warns(UserWarning, match="logvar has no value below 0"):
        tables.update(MU, -LOGVAR, FACTORS)
    tables.update(MU, -LOGVAR, FACTORS)  # warnings are errors
