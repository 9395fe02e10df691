"""Laws of the mutual information gap, and problems whose answer is known."""

from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import mutual_info_score

from tcdecomp.metrics import mig_score, mutual_info_gap

pytestmark = pytest.mark.filterwarnings("ignore:codes vary", "ignore:codes hold whole")

assert_close = partial(np.testing.assert_allclose, rtol=0, atol=1e-11)

FINITE = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
TIED = st.integers(-8, 8).map(lambda whole: whole / 8)
OPTIONS = st.fixed_dictionaries(
    {"n_bins": st.integers(2, 9), "strategy": st.sampled_from(["uniform", "quantile"])}
)


@st.composite
def problems(draw):
    """Codes (n, D), with ties or without, and factors (n, K) of at least two values each."""
    n, n_latents, n_factors = (
        draw(st.integers(2, 40)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 3)),
    )
    codes = draw(arrays(float, (n, n_latents), elements=draw(st.sampled_from([FINITE, TIED]))))
    factors = draw(arrays(int, (n, n_factors), elements=st.integers(0, 4)))
    factors[0], factors[1] = 0, 1
    return codes, factors


@given(problems(), OPTIONS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(problem, options, random):
    codes, factors = problem
    order = random.sample(range(len(codes)), len(codes))
    before = mutual_info_gap(codes, factors, **options)
    after = mutual_info_gap(codes[order], factors[order], **options)
    assert_close(after.mutual_info, before.mutual_info)
    assert_close(after.score, before.score)


@given(problems(), OPTIONS, st.randoms(use_true_random=False))
def test_the_order_of_columns_does_not_matter(problem, options, random):
    codes, factors = problem
    rows = random.sample(range(codes.shape[1]), codes.shape[1])
    columns = random.sample(range(factors.shape[1]), factors.shape[1])
    before = mutual_info_gap(codes, factors, **options)
    after = mutual_info_gap(codes[:, rows], factors[:, columns], **options)
    assert_close(after.mutual_info, before.mutual_info[np.ix_(rows, columns)])
    assert_close(after.gaps, before.gaps[columns])


@given(problems(), OPTIONS, st.permutations(["a", "b", "", "B", "bb"]))
def test_the_names_of_classes_do_not_matter(problem, options, labels):
    codes, factors = problem
    before = mutual_info_gap(codes, factors, **options)
    after = mutual_info_gap(codes, np.array(labels)[factors], **options)
    assert_close(after.mutual_info, before.mutual_info)
    assert_close(after.gaps, before.gaps)


@given(problems(), st.integers(2, 9), st.integers(-60, 60))
def test_the_scale_of_codes_does_not_matter(problem, n_bins, exponent):
    codes, factors = problem
    before = mutual_info_gap(codes, factors, n_bins=n_bins)
    after = mutual_info_gap(codes * 2.0**exponent, factors, n_bins=n_bins)
    assert_close(after.mutual_info, before.mutual_info)


@given(problems(), st.sampled_from([2, 4, 8, 16]), st.integers(-10, 10), st.integers(-99, 99))
def test_the_origin_of_codes_does_not_matter(problem, n_bins, exponent, origin):
    # Codes on a dyadic grid with range 16, so that every edge is exact before and after.
    _, factors = problem
    codes = np.arange(len(factors))[:, None] * [1, 3, 7] % 17
    codes[0], codes[1] = 0, 16
    before = mutual_info_gap(codes, factors, n_bins=n_bins)
    after = mutual_info_gap((codes + origin) * 2.0**exponent, factors, n_bins=n_bins)
    assert_close(after.mutual_info, before.mutual_info)


@given(problems(), OPTIONS)
def test_a_latent_given_twice_closes_its_gaps(problem, options):
    codes, factors = problem
    before = mutual_info_gap(codes, factors, **options)
    best = before.best_latent[0]
    after = mutual_info_gap(np.column_stack([codes, codes[:, best]]), factors, **options)
    closed = before.best_latent == best
    assert_close(after.gaps[closed], 0)
    assert_close(after.mutual_info[:-1], before.mutual_info)


@given(problems(), OPTIONS)
def test_a_latent_without_information_changes_nothing(problem, options):
    codes, factors = problem
    before = mutual_info_gap(codes, factors, **options)
    after = mutual_info_gap(np.column_stack([codes, np.ones(len(codes))]), factors, **options)
    assert_close(after.gaps, before.gaps)


@given(problems(), OPTIONS)
def test_gaps_lie_between_0_and_1(problem, options):
    codes, factors = problem
    gap = mutual_info_gap(codes, factors, **options)
    assert (gap.mutual_info >= 0).all()
    assert (gap.mutual_info <= gap.factor_entropy + 1e-12).all()
    assert (gap.gaps >= 0).all()
    assert (gap.gaps <= 1 + 1e-12).all()
    assert -1e-12 <= gap.score <= 1 + 1e-12


@given(problems(), OPTIONS, st.booleans(), st.data())
def test_a_whole_weight_counts_as_that_many_rows(problem, options, discrete, data):
    codes, factors = problem
    weight = data.draw(arrays(int, len(codes), elements=st.integers(0, 5)))
    weight[:2] += 1
    options |= {"discrete_factors": discrete or options["strategy"] == "quantile"}
    repeated = mutual_info_gap(codes.repeat(weight, 0), factors.repeat(weight, 0), **options)
    weighted = mutual_info_gap(codes, factors, sample_weight=weight, **options)
    assert_close(weighted.mutual_info, repeated.mutual_info)
    assert_close(weighted.factor_entropy, repeated.factor_entropy)
    assert_close(weighted.score, repeated.score)


@given(problems(), OPTIONS, st.data())
def test_only_the_ratios_of_weights_matter(problem, options, data):
    codes, factors = problem
    weight = data.draw(arrays(float, len(codes), elements=st.integers(1, 5)))
    before = mutual_info_gap(codes, factors, sample_weight=weight, **options)
    after = mutual_info_gap(codes, factors, sample_weight=weight * 1024, **options)
    assert_close(after.mutual_info, before.mutual_info)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=60), st.permutations(range(7)), st.data())
def test_a_code_that_is_a_function_of_the_factor(values, order, data):
    """I(f(v); v) = H(f(v)), however f permutes and merges the values."""
    v = np.array(values)
    merged = data.draw(st.integers(1, 3))
    z = np.array(order)[v] // merged
    assume(len(set(values)) > 1)
    assume(z.min() == 0)
    assume(z.max() == 6 // merged)
    gap = mutual_info_gap(z[:, None], v, n_bins=6 // merged + 1)
    assert gap.mutual_info[0, 0] == pytest.approx(mutual_info_score(z, z), rel=1e-12)
    assert gap.factor_entropy[0] == pytest.approx(mutual_info_score(v, v), rel=1e-12)
    assert mig_score(z[:, None], v, n_bins=6 // merged + 1) == pytest.approx(
        mutual_info_score(z, z) / mutual_info_score(v, v), rel=1e-12
    )
