"""The estimator "mss-jackknife", against its formula in Python floats."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given

import reference
from strategies import batches, draw_posterior
from tcdecomp import TCDecomposition, decompose
from tcdecomp.kernels.components import Components
from tcdecomp.minibatch import jackknife
from tcdecomp.minibatch.mixture import Mixture
from tolerances import assert_close


def log_densities(z, mu, logvar, dataset_size):
    mixture = Mixture(Components(mu, logvar), len(mu) - 1, dataset_size, "auto")
    return jackknife.log_densities(mixture, z)


def mixture(z, mu, logvar, dataset_size):
    """Return log q(z) of each row and log q(z_j), by the formula of the module's docstring."""
    rows = []
    for i, point in enumerate(z):
        views = [(point, mu, logvar)]
        views += [
            ([x], [[m[j]] for m in mu], [[v[j]] for v in logvar]) for j, x in enumerate(point)
        ]
        rows.append([log_density(i, *view, dataset_size) for view in views])
    joint, *marginals = map(list, zip(*rows, strict=True))
    return joint, list(map(list, zip(*marginals, strict=True)))


def log_density(i, point, mu, logvar, dataset_size):
    densities = [reference.density(point, m, v) for m, v in zip(mu, logvar, strict=True)]
    own, others = densities[i], densities[:i] + densities[i + 1 :]
    m, n = len(others), dataset_size - 1

    def estimate(kept):
        return math.log((own + n / len(kept) * math.fsum(kept)) / dataset_size)

    full = estimate(others)
    if m == n:
        return full
    without = [estimate(others[:k] + others[k + 1 :]) for k in range(m)]
    a = m * (n - m + 1) / n
    return a * full - (a - 1) * math.fsum(without) / m


@given(batches(min_size=3))
def test_values(batch):
    z, mu, logvar, size = batch
    got = log_densities(z, mu, logvar, size)
    want = mixture(z.tolist(), mu.tolist(), logvar.tolist(), size)
    for actual, expected in zip(got, want, strict=True):
        assert_close(actual, expected)


@given(batches(min_size=3))
def test_all_items_make_it_exact(batch):
    z, mu, logvar, _ = batch
    got = decompose(z, mu, logvar, len(z), estimator="mss-jackknife")
    assert_close(torch.stack(got), torch.stack(decompose(z, mu, logvar, len(z))))


@given(batches(min_size=3))
def test_terms_sum_to_the_sampled_kl(batch):
    terms = decompose(*batch, estimator="mss-jackknife")
    assert_close(terms.sampled_kl, decompose(*batch).sampled_kl)


def test_the_bias_of_the_logarithm_shrinks():
    """Over every batch of 4 out of 9 items, at one point of each item."""
    z, mu, logvar = draw_posterior(3, 9, 2)
    exact = decompose(z, mu, logvar, 9, reduction="none").index_code_mi
    errors = dict.fromkeys(("mss", "mss-jackknife"), 0.0)
    for estimator in errors:
        total, count = torch.zeros(9, dtype=z.dtype), torch.zeros(9, dtype=z.dtype)
        for rows in map(list, combinations(range(9), 4)):
            batch = z[rows], mu[rows], logvar[rows]
            terms = decompose(*batch, 9, estimator=estimator, reduction="none")
            total[rows] += terms.index_code_mi
            count[rows] += 1
        errors[estimator] = (total / count - exact).abs().mean().item()
    assert errors["mss-jackknife"] < 0.4 * errors["mss"]


def test_gradients():
    inputs = [t.requires_grad_() for t in draw_posterior(0, 5, 3)]
    for size in (5, 6, 100):
        criterion = TCDecomposition(alpha=0.5, beta=6, estimator="mss-jackknife")
        torch.autograd.gradcheck(lambda *batch, n=size: criterion(*batch, n), inputs)  # noqa: B023


def test_rows_in_parts_give_the_same(monkeypatch):
    inputs = [t.requires_grad_() for t in draw_posterior(0, 11, 3)]
    criterion = TCDecomposition(beta=6, estimator="mss-jackknife")
    whole = criterion(*inputs, 100)
    gradients = torch.autograd.grad(whole, inputs)
    monkeypatch.setattr(jackknife, "TILE", 2 * 11 * 4)
    parts = criterion(*inputs, 100)
    assert_close(parts, whole)
    for got, want in zip(torch.autograd.grad(parts, inputs), gradients, strict=True):
        assert_close(got, want)


def test_memory_is_linear_in_the_batch(monkeypatch):
    """What autograd keeps between forward and backward has no M x M tensor."""
    monkeypatch.setattr(jackknife, "TILE", 2**10)
    z, mu, logvar = (t.requires_grad_() for t in draw_posterior(0, 200, 2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, id):
        log_densities(z, mu, logvar, 1000)
    assert 0 < max(kept) <= 200 * 3


@pytest.mark.parametrize("kernel", ["auto", "dense"])
def test_transforms_of_torch_func(kernel, monkeypatch):
    if kernel == "dense":
        monkeypatch.setattr(jackknife, "TILE", 1)
    z, mu, logvar = draw_posterior(0, 6, 2)
    z.requires_grad_()  # a z without a gradient draws a warning
    criterion = TCDecomposition(beta=6, estimator="mss-jackknife", kernel=kernel)
    got = torch.func.grad(lambda moved: criterion(z, moved, logvar, 100))(mu)
    mu.requires_grad_()
    (want,) = torch.autograd.grad(criterion(z, mu, logvar, 100), mu)
    assert_close(got, want)


def test_float32_stands_one_other_that_outweighs_the_rest():
    """Subtracting the largest other from the sum would leave nothing of the rest."""
    mu = torch.tensor([[0.0], [0.01], [7.0], [8.0], [9.0]])
    logvar = torch.full((5, 1), -1.0)
    single = log_densities(mu + 0.02, mu, logvar, 100)
    exact = log_densities(*(t.double() for t in (mu + 0.02, mu, logvar)), 100)
    for got, want in zip(single, exact, strict=True):
        assert_close(got, want, torch.float32)


def test_float32_keeps_its_digits_in_a_large_batch():
    """The m-fold of an estimate and the sum of m others differ by less than their rounding."""
    single = draw_posterior(0, 1024, 3, torch.float32)
    got, want = (log_densities(*batch, 100_000) for batch in (single, [t.double() for t in single]))
    for actual, expected in zip(got, want, strict=True):
        assert_close(actual, expected, torch.float32)


def test_nan_passes_through():
    z, mu, logvar = draw_posterior(0, 5, 2)
    mu[3, 0] = math.nan
    joint, marginals = log_densities(z, mu, logvar, 100)
    assert joint.isnan().all()
    assert marginals[:, 0].isnan().all()
    assert marginals[:, 1].isfinite().all()


@pytest.mark.parametrize("weights", [{}, {"beta": 6}])
def test_two_rows_are_refused(weights):
    batch = draw_posterior(0, 2, 2)
    with pytest.raises(ValueError, match=r"M >= 3 rows for estimator 'mss-jackknife' .*got M = 2"):
        TCDecomposition(estimator="mss-jackknife", **weights)(*batch, 100)
