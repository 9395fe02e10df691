"""Every kernel against loops over the definition of the log-sums."""

import math

import pytest
import torch

import reference
from strategies import draw_posterior
from tcdecomp.kernels import log_sums
from tcdecomp.kernels.components import Components
from tolerances import assert_close


def looped(z, items, components):
    """Return (own, others, own_j, others_j) as nested lists, by the definition."""
    mus, logvars = components.mu.tolist(), components.logvar.tolist()

    def log_sum(i, keep, columns):
        densities = [
            reference.density(*([row[j] for j in columns] for row in (z[i].tolist(), mu, logvar)))
            for mu, logvar, item in zip(mus, logvars, components.items.tolist(), strict=True)
            if (item == items[i]) == keep
        ]
        return math.log(math.fsum(densities)) if densities else -math.inf

    points, dims = range(len(z)), range(z.shape[1])
    return (
        [log_sum(i, True, dims) for i in points],
        [log_sum(i, False, dims) for i in points],
        [[log_sum(i, True, [j]) for j in dims] for i in points],
        [[log_sum(i, False, [j]) for j in dims] for i in points],
    )


CASES = {
    "batch": ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
    "other components, some items twice": ([7, 1, 7], [1, 1, 7, 5, 7, 9]),
    "an item without components": ([3, 4], [4, 5, 6]),
    "no others": ([2, 2], [2, 2, 2]),
    "one": ([0], [0]),
}


@pytest.mark.parametrize("kernel", ["dense", "blocked"])
@pytest.mark.parametrize("case", CASES)
def test_log_sums_follow_their_definition(case, kernel):
    items, ids = map(torch.tensor, CASES[case])
    z, *_ = draw_posterior(seed=1, size=len(items), dim=3)
    _, mu, logvar = draw_posterior(seed=2, size=len(ids), dim=3)
    components = Components(mu, logvar, ids)
    for got, want in zip(
        log_sums(z, components, items, kernel=kernel), looped(z, items, components), strict=True
    ):
        assert_close(got, want)


@pytest.mark.parametrize("kernel", ["dense", "blocked"])
def test_without_ids_the_first_components_are_the_points_own(kernel):
    z, *_ = draw_posterior(seed=1, size=3, dim=2)
    _, mu, logvar = draw_posterior(seed=2, size=5, dim=2)
    components = Components(mu, logvar, torch.arange(5))
    for got, want in zip(
        log_sums(z, Components(mu, logvar), kernel=kernel),
        looped(z, torch.arange(3), components),
        strict=True,
    ):
        assert_close(got, want)
