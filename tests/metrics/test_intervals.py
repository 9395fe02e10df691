"""Confidence intervals: over rows, over models, and how often they hold the truth."""

import math
import statistics

import numpy as np
import pytest

from tcdecomp import mig_score
from tcdecomp.metrics import (
    factor_vae_score,
    infomec_score,
    interval_of_mean,
    mcc_score,
    score_interval,
)

CORRECTED = {"correction": "miller-madow"}


def problem(n, seed, noise=0.6):
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, 4, (n, 2))
    return factors + noise * rng.standard_normal((n, 2)), factors


def test_the_interval_holds_the_score_of_many_rows():
    truth = mig_score(*problem(400_000, 0))
    held = 0
    for seed in range(1, 41):
        options = CORRECTED | {"n_resamples": 30, "random_state": 0}
        interval = score_interval(mig_score, *problem(600, seed), **options)
        held += interval.low <= truth <= interval.high
    assert held >= 34  # 34 or more of 40 have a probability of 0.986 at a coverage of 0.95


@pytest.mark.parametrize("n", [4001, 90_000])
def test_the_standard_error_of_a_correlation(n):
    """(1 - rho^2) / sqrt(n), by theory, for normal columns."""
    rng = np.random.default_rng(0)
    v = rng.standard_normal((n, 1))
    z = 0.8 * v + 0.6 * rng.standard_normal((n, 1))
    interval = score_interval(mcc_score, z, v, n_resamples=400, random_state=0)
    assert interval.standard_error == pytest.approx(0.36 / math.sqrt(n), rel=0.15)
    assert interval.value == pytest.approx(mcc_score(z, v))
    width = interval.high - interval.low
    assert width == pytest.approx(2 * 1.959964 * interval.standard_error, rel=1e-6)


def test_the_confidence_widens_the_interval():
    codes, factors = problem(500, 0)
    widths = []
    for confidence in (0.5, 0.95, 0.99):
        options = CORRECTED | {"confidence": confidence, "random_state": 0}
        interval = score_interval(mig_score, codes, factors, n_resamples=20, **options)
        widths.append(interval.high - interval.low)
    assert widths == sorted(widths)


def test_scores_of_several_parts_and_of_chance():
    codes, factors = problem(400, 0)
    parts = score_interval(infomec_score, codes, factors, n_resamples=3, random_state=0)
    assert set(parts) == {"modularity", "explicitness", "compactness"}
    options = {"n_resamples": 3, "n_train": 200, "n_test": 200}
    first, again = (
        score_interval(factor_vae_score, codes, factors, random_state=5, **options)
        for _ in range(2)
    )
    np.testing.assert_allclose(first, again, rtol=0, atol=1e-12)


def test_weights_stay_with_their_rows():
    codes, factors = problem(800, 0)
    junk = np.random.default_rng(1).permutation(factors)
    both, weight = np.vstack([codes, codes]), np.repeat([1, 0], 800)
    interval = score_interval(
        mig_score,
        both,
        np.vstack([factors, junk]),
        sample_weight=weight,
        random_state=0,
        **CORRECTED,
    )
    assert interval.value == pytest.approx(mig_score(codes, factors, **CORRECTED))
    assert interval.standard_error < 0.03


def test_parts_that_lack_a_rare_value_are_drawn_again():
    codes, factors = problem(400, 0)
    rare = np.column_stack([factors, np.arange(400) == 7])
    interval = score_interval(mig_score, codes, rare, random_state=0, **CORRECTED)
    assert interval.value == pytest.approx(mig_score(codes, rare, **CORRECTED))
    assert 0 < interval.standard_error < 0.2

    def mean(codes, factors):
        mig_score(codes, factors, **CORRECTED)
        return np.mean(codes.arrays[0])

    interval = score_interval(mean, codes, rare, n_resamples=400, random_state=0)
    error = codes[:, 0].std(ddof=1) / 20
    assert interval.standard_error == pytest.approx(error, rel=0.15)


def test_a_score_that_few_parts_have_has_no_interval():
    codes, _ = problem(400, 0)
    rare = np.arange(400)[:, None] == np.arange(5)  # all five are in one of 32 halves
    with pytest.warns(UserWarning, match=r"parts of 200 rows have the score.* got one in 'v"):
        interval = score_interval(mig_score, codes, rare, n_resamples=20, random_state=0)
    assert interval.value == pytest.approx(mig_score(codes, rare))
    assert np.isnan(interval[1:]).all()


def test_the_mean_of_models():
    values = [0.5, 0.7, 0.6]
    interval = interval_of_mean(values, confidence=0.9)
    error = statistics.stdev(values) / math.sqrt(3)
    assert interval.value == pytest.approx(0.6)
    assert interval.standard_error == pytest.approx(error)
    assert interval.high - interval.value == pytest.approx(2.919986 * error, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z, v: score_interval(mig_score, z, v, confidence=1), "confidence must be between"),
        (lambda z, v: score_interval(mig_score, z, v, confidence=95), "confidence .* got 95"),
        (
            lambda z, v: score_interval(mig_score, z, v, n_resamples=1),
            "n_resamples must be an int >=",
        ),
        (lambda z, v: score_interval(mig_score, z, v[:-1]), "one row per item each"),
        (
            lambda z, v: score_interval(mig_score, z, v, sample_weight=[1]),
            "sample_weight must have",
        ),
        (lambda z, v: interval_of_mean([0.5]), r"values must be at least two .* shape \(1,\)"),
        (lambda z, v: interval_of_mean([0.5, math.nan]), "values must be at least two finite"),
        (lambda z, v: interval_of_mean([0.5, 0.6], confidence=0), "confidence must be between"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(*problem(100, 0))


def test_the_score_is_a_function():
    with pytest.raises(TypeError, match=r"score must be a function, such as .*; got 'mig'"):
        score_interval("mig", *problem(600, 0))
