"""Total correlation against an estimator of another kind, by nearest neighbours (infomeasure).

It knows samples alone, no densities. With 10,000 samples of up to 5 dimensions, its own error is
about 0.01 nats.
"""

import math

import pytest
import torch

from tcdecomp import Posterior, decompose_dataset

infomeasure = pytest.importorskip("infomeasure")


def chain(g, dim):
    """Each dimension depends on the one before."""
    mu = torch.randn(10_000, dim, generator=g)
    for j in range(1, dim):
        mu[:, j] = 0.8 * mu[:, j - 1] + 0.6 * mu[:, j]
    return mu, torch.full_like(mu, -1.0)


def ring(g, collapsed):
    """Two dimensions without correlation that depend on each other, and collapsed ones."""
    angle = 2 * math.pi * torch.rand(10_000, generator=g)
    mu = torch.stack([angle.cos(), angle.sin()], 1)
    logvar = torch.tensor([-3.0, -3.0] + [0.0] * collapsed).expand(10_000, -1)
    return torch.cat([1.5 * mu, torch.zeros(10_000, collapsed)], 1), logvar


def copies(g, dim):
    mu = torch.randn(10_000, 1, generator=g).expand(-1, dim)
    return mu, torch.full((10_000, dim), -1.0)


def independent(g, dim):
    return torch.randn(10_000, dim, generator=g), torch.full((10_000, dim), -2.0)


CASES = [(chain, 2), (chain, 5), (ring, 0), (ring, 2), (copies, 3), (independent, 4)]


@pytest.mark.parametrize(("make", "number"), CASES)
def test_total_correlation_is_that_of_samples_alone(make, number):
    g = torch.Generator().manual_seed(0)
    mu, logvar = make(g, number)
    terms, error, _ = decompose_dataset(mu, logvar, num_samples=4000, generator=g)
    z = Posterior(mu, mu, logvar).sample(generator=g).z.double().numpy()
    want = infomeasure.mutual_information(*z.T, approach="ksg", k=4)
    assert abs(terms.total_correlation.item() - want) < 0.04 + 3 * error.total_correlation.item()
    assert (terms.total_correlation > 0.05) == (make is not independent)
