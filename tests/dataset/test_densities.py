"""Densities at samples: the regression on controls, and what is kept of the samples."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strategies import draw_posterior
from tcdecomp._processes import Division
from tcdecomp.dataset.densities import Regression
from tcdecomp.dataset.sampling import sample_densities
from tolerances import assert_close


def draws(seed, samples=50, count=2):
    """Return values, and controls on which they depend and whose sample means are not 0."""
    rng = np.random.default_rng(seed)
    controls = rng.normal(0.5, 1.0, (samples, count))
    return controls @ rng.normal(size=count) + rng.normal(size=samples) + 3, controls


@given(seed=st.integers(0, 2**31), count=st.integers(1, 3))
def test_it_is_the_intercept_of_least_squares_and_its_standard_error(seed, count):
    """By the normal equations: the intercept is the value where all controls are 0."""
    values, controls = draws(seed, count=count)
    design = np.column_stack([np.ones(len(values)), controls])
    gram = design.T @ design
    coefficients = np.linalg.solve(gram, design.T @ values)
    variance = ((values - design @ coefficients) ** 2).sum() / (len(values) - 1 - count)
    mean, error = Regression(torch.tensor(controls)).mean(torch.tensor(values))
    assert_close(mean, coefficients[0])
    assert_close(error, math.sqrt(variance * np.linalg.inv(gram)[0, 0]))


def test_means_are_linear_in_the_values():
    values, controls = map(torch.tensor, draws(0))
    mean = Regression(controls).mean
    assert_close(
        mean(values + 2 * controls[:, 0] ** 2)[0],
        mean(values)[0] + 2 * mean(controls[:, 0] ** 2)[0],
    )


@pytest.mark.parametrize("factor", [0.0, 1.0, -3.0])
def test_controls_may_coincide(factor):
    values, controls = map(torch.tensor, draws(1, count=1))
    twice = Regression(torch.cat([controls, factor * controls], 1)).mean(values)
    once = Regression(controls).mean(values)
    assert_close(twice[0], once[0])
    assert_close(twice[1], once[1] * math.sqrt((50 - 2) / (50 - 3)))


def test_samples_of_single_dimensions_are_not_kept():
    _, mu, logvar = draw_posterior(0, 5, 3)
    options = {"samples": 100, "generator": None, "prior": None}
    _, one, two = sample_densities(mu, logvar, [[0], [1, 2]], **options, division=Division())
    assert one.joint.untyped_storage().nbytes() == one.joint.element_size()
    assert two.joint.untyped_storage().nbytes() >= 100 * two.joint.element_size()
