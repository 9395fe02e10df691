"""Terms over a whole data set: against brute force, closed forms, and their own standard errors."""

import math
import re

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm
from torch.distributions import Laplace, MultivariateNormal, Normal, StudentT

from strategies import draw_posterior, grids, separated
from tcdecomp import Posterior, decompose, decompose_dataset
from tcdecomp._processes import Division
from tcdecomp.dataset.marginals import NEAR, Marginals
from tolerances import assert_close

TERMS = ("index_code_mi", "total_correlation", "dimension_wise_kl")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def data_set(seed, size, dim):
    _, mu, logvar = draw_posterior(seed, size, dim)
    return mu, logvar


@pytest.mark.parametrize("prior", [None, Normal(0.5, 2.0)])
def test_agrees_with_brute_force(prior):
    """Against decompose at M = N, averaged over many draws of z for every item."""
    mu, logvar = data_set(0, 50, 3)
    posterior, g = Posterior(mu, mu, logvar), generator(1)
    draws = torch.stack(
        [
            torch.stack(decompose(posterior.sample(generator=g).z, mu, logvar, 50, prior=prior)[:3])
            for _ in range(400)
        ]
    )
    want, error = draws.mean(0), draws.std(0) / math.sqrt(400)
    result = decompose_dataset(mu, logvar, num_samples=20_000, generator=g, prior=prior)
    for i in range(3):
        spread = math.hypot(error[i], result.standard_error[i])
        assert abs(result.terms[i] - want[i]) < 4 * spread


def test_standard_errors_are_what_repetition_shows():
    mu, logvar = data_set(1, 80, 3)
    results = [
        decompose_dataset(mu, logvar, num_samples=200, generator=generator(seed))
        for seed in range(200)
    ]
    for name in TERMS[:2]:
        values = torch.stack([getattr(r.terms, name) for r in results])
        told = torch.stack([getattr(r.standard_error, name) for r in results]).mean()
        assert 0.6 < values.std() / told < 1.25  # below 1: drawing without replacement helps
        exact = decompose_dataset(mu, logvar, num_samples=40_000, generator=generator(999)).terms
        assert abs(values.mean() - getattr(exact, name)) < 4 * values.std() / math.sqrt(200) + 2e-3


def with_an_outlier():
    """One item far from all others, which a sample of a fraction of the items rarely draws."""
    mu, logvar = data_set(2, 400, 3)
    mu[0] *= 50
    return mu, torch.full_like(logvar, -2.0)


def with_rare_sharp_items():
    mu, logvar = data_set(3, 400, 2)
    logvar = torch.zeros_like(logvar)
    logvar[:12] = -8.0
    return mu, logvar


@pytest.mark.parametrize("make", [with_an_outlier, with_rare_sharp_items])
def test_rare_items_do_not_upset_the_terms_nor_their_errors(make):
    mu, logvar = make()
    exact = decompose_dataset(mu, logvar, num_samples=100_000, generator=generator(9)).terms
    results = [
        decompose_dataset(mu, logvar, num_samples=150, generator=generator(seed))
        for seed in range(100)
    ]
    off = torch.stack([r.terms.total_correlation - exact.total_correlation for r in results])
    told = torch.stack([r.standard_error.total_correlation for r in results])
    assert off.abs().max() < 0.5
    assert (off.abs() < 2.5 * told).double().mean() > 0.85


@given(seed=st.integers(0, 2**31), size=st.integers(1, 30), dim=st.integers(1, 4))
def test_terms_sum_to_the_closed_form_kl(seed, size, dim):
    mu, logvar = data_set(seed, size, dim)
    terms, error, count = decompose_dataset(mu, logvar, num_samples=128, generator=generator(seed))
    assert_close(terms.sampled_kl, terms.kl)
    assert_close(terms.kl, decompose(mu + 1, mu, logvar, size, validate=False).kl)
    assert error.kl == 0
    assert count == 128


@given(seed=st.integers(0, 2**31), size=st.integers(1, 30))
def test_the_dimension_wise_kl_is_exact(seed, size):
    mu, logvar = data_set(seed, size, 2)
    one, two = (
        decompose_dataset(mu, logvar, num_samples=100, generator=generator(s)) for s in (1, 2)
    )
    assert abs(one.terms.dimension_wise_kl - two.terms.dimension_wise_kl) < 1e-8
    assert one.standard_error.dimension_wise_kl < 1e-8


@given(problem=separated())
def test_far_apart_posteriors(problem):
    _, mu, logvar, dim = problem
    terms, error, _ = decompose_dataset(mu, logvar, num_samples=100, generator=generator())
    assert abs(terms.index_code_mi - math.log(len(mu))) < 1e-7
    assert abs(terms.total_correlation - (dim - 1) * math.log(len(mu))) < 1e-7
    assert error.index_code_mi < 1e-7


@given(problem=grids())
def test_full_grid_has_no_total_correlation(problem):
    _, mu, logvar = problem
    terms, _, _ = decompose_dataset(mu, logvar, num_samples=100, generator=generator())
    assert abs(terms.total_correlation) < 1e-7


@example(seed=128, size=2)  # two modes, between which log q bends sharply
@given(seed=st.integers(0, 2**31), size=st.integers(1, 6))
def test_quadrature_of_marginals_is_scipys(seed, size):
    mu, logvar = data_set(seed, size, 1)
    centres, std = mu[:, 0].numpy(), (0.5 * logvar[:, 0]).exp().numpy()

    def integrand(x):
        density = norm.pdf(x, centres, std).mean()
        return density * math.log(density) if density > 0 else 0.0

    low, high = (centres - 9 * std).min(), (centres + 9 * std).max()
    want, _ = quad(integrand, low, high, points=sorted(centres), limit=500, epsabs=1e-10)
    assert abs(Marginals(mu, logvar, Division()).mean_logs.item() - want) < 1e-8


def bimodal(mu, logvar):
    mu[::2] += 40
    return mu, logvar - 2


def half_collapsed(mu, logvar):
    mu[::2], logvar[::2] = 1e-3 * mu[::2], 0.0
    return mu, logvar


SHAPES = {
    "alike": lambda mu, logvar: (mu, torch.full_like(logvar, -2.0)),
    "mixed": lambda mu, logvar: (mu, torch.linspace(-9, 1, 2 * len(mu)).view(mu.shape).to(mu)),
    "sharp": lambda mu, logvar: (mu, logvar - 9),
    "constant": lambda mu, logvar: (torch.zeros_like(mu), torch.zeros_like(logvar)),
    "half collapsed": half_collapsed,
    "bimodal": bimodal,
    "outlier": lambda mu, logvar: (mu * (1 + 99 * (mu == mu[100])), logvar - 2),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tabulated_marginals_are_those_of_the_mixture(shape, dtype):
    mu, logvar = SHAPES[shape](*data_set(5, 3000, 2))
    mu, logvar = mu.to(dtype), logvar.to(dtype)
    items = torch.arange(len(mu))
    z = Posterior(mu, mu, logvar).sample(generator=generator()).z
    z[:40] = mu[:40] + torch.linspace(-9, 9, 40)[:, None] * (0.5 * logvar[:40]).exp()
    logs = norm_logs(z[:, None], mu, logvar).logsumexp(1) - math.log(len(mu))
    off = (Marginals(mu, logvar, Division()).log_densities(z, items) - logs).abs()
    assert off[40:].quantile(0.99) < (1e-8 if dtype == torch.float64 else 2e-5)
    assert off.max() < 1e-4


def norm_logs(z, mu, logvar):
    return Normal(mu.double(), (0.5 * logvar.double()).exp()).log_prob(z.double())


def test_samples_far_from_their_means_are_summed_exactly():
    """Of a lone posterior, from a table to 1e-4 up to the limit, and exactly beyond."""
    mu, logvar = torch.zeros(1, 1).double(), torch.tensor([[math.log(1.99)]]).double()
    steps = torch.tensor([1.0, 4.0, NEAR - 1e-6, NEAR + 1e-6, 30.0])
    z = steps.double()[:, None] * (0.5 * logvar).exp()
    found = Marginals(mu, logvar, Division()).log_densities(z, torch.zeros(5, dtype=torch.long))
    off = (found - norm_logs(z, mu, logvar)).abs()[:, 0]
    assert off[0] < 1e-9
    assert 1e-9 < off[2] < 1e-4
    assert off[3:].max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logvar", [-30.0, -34.0, -44.0])
def test_standard_deviations_near_the_distance_of_floats(logvar, dtype):
    """If z rounded to mu, log q(z) would be too high by D/2 nats, with a standard error of 0."""
    mu = 20 + 3 * torch.randn(200, 2, generator=generator())
    moments = mu.to(dtype), torch.full((200, 2), logvar, dtype=dtype)
    terms, error, _ = decompose_dataset(*moments, num_samples=6000, generator=generator())
    far = 5 * error.index_code_mi + 1e-3
    assert abs(terms.index_code_mi - math.log(200)) < far < 0.1
    assert_close(terms.sampled_kl, terms.kl)


@pytest.mark.parametrize("logvar", [-66.0, -120.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_standard_deviations_below_the_distance_of_floats_are_refused(logvar, dtype):
    mu = (20 + 3 * torch.randn(50, 2, generator=generator())).to(dtype)
    logvar = torch.full((50, 2), logvar, dtype=dtype)
    text = f"logvar {logvar[0, 0].item():.4g} beside mu {mu[0, 0].item():.4g} at row 0, column 0"
    with pytest.raises(ValueError, match=re.escape(text)) as raised:
        decompose_dataset(mu, logvar, num_samples=100)
    low = float(re.search(r"clamp\(min=(.*?)\)", str(raised.value))[1])
    terms, _, _ = decompose_dataset(mu, logvar.clamp(min=low), num_samples=2000)
    assert abs(terms.index_code_mi - math.log(50)) < 0.1


def test_the_refusal_says_which_items_and_without_them_it_works():
    mu, logvar = data_set(3, 60, 2)
    mu[[7, 41]], logvar[[7, 41], 1] = 1e6, -40.0
    with pytest.raises(ValueError, match=r"2 such items of 60: rows 7, 41. Leave them out, or"):
        decompose_dataset(mu, logvar, num_samples=100)
    rest = torch.tensor([n not in (7, 41) for n in range(60)])
    assert decompose_dataset(mu[rest], logvar[rest], num_samples=100).terms.kl > 0
    logvar[:12, 1] = -80.0
    with pytest.raises(ValueError, match=r"13 such items .* 6, 7, and others. Leave"):
        decompose_dataset(mu, logvar, num_samples=100)


def test_nothing_is_printed_as_less_than_nothing():
    result = decompose_dataset(torch.zeros(200, 2), torch.zeros(200, 2), num_samples=100)
    assert result.terms.index_code_mi < 0  # by rounding
    assert "-" not in str(result).replace("+-", "")
    assert "-" not in str(result.terms)


def test_without_one_grid_for_all_the_marginals_are_sampled():
    mu, logvar = data_set(3, 60, 2)
    logvar[0] = -60.0
    assert Marginals(mu, logvar, Division()).mean_logs is None
    terms, error, _ = decompose_dataset(mu, logvar, num_samples=6000, generator=generator())
    assert error.dimension_wise_kl > 0
    assert_close(terms.sampled_kl, terms.kl)
    posterior, g = Posterior(mu, mu, logvar), generator(1)
    want = torch.stack(
        [decompose(posterior.sample(generator=g).z, mu, logvar, 60)[2] for _ in range(200)]
    )
    spread = math.hypot(want.std() / math.sqrt(200), error.dimension_wise_kl)
    assert abs(terms.dimension_wise_kl - want.mean()) < 4 * spread


def test_half_precision_and_gradients_of_the_input_do_no_harm():
    mu, logvar = (t.bfloat16().requires_grad_() for t in data_set(4, 50, 2))
    result = decompose_dataset(mu, logvar, num_samples=128, generator=generator())
    want = decompose_dataset(
        mu.detach().float(), logvar.detach().float(), num_samples=128, generator=generator()
    )
    for got, expected in zip(result.terms, want.terms, strict=True):
        assert_close(got, expected)
    assert not result.terms.kl.requires_grad


def test_a_generator_of_ones_own_leaves_the_global_one_alone():
    mu, logvar = data_set(5, 20, 2)
    before = torch.get_rng_state()
    one, two = (
        decompose_dataset(mu, logvar, num_samples=100, generator=generator(3)) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    for got, expected in zip(one.terms, two.terms, strict=True):
        assert_close(got, expected)


def test_printing_shows_a_table():
    result = decompose_dataset(*data_set(6, 20, 2), num_samples=100, generator=generator())
    lines = str(result).splitlines()
    assert lines[0].split() == ["nats", "+-"]
    assert [line.split()[0] for line in lines[1:]] == [*TERMS, "kl"]
    assert float(lines[4].split()[1]) == pytest.approx(result.terms.kl.item(), abs=1e-4)


MU, LOGVAR = data_set(7, 8, 3)
CALLS = {
    "array": ((MU.numpy(), LOGVAR), {}, TypeError, "mu must be a torch.Tensor; got ndarray"),
    "seed": (
        (MU, LOGVAR),
        {"generator": 0},
        TypeError,
        "generator must be a torch.Generator; got int",
    ),
    "shapes": (
        (MU, LOGVAR[:, :2]),
        {},
        ValueError,
        "mu and logvar must share one shape (M, D); got (8, 3), (8, 2)",
    ),
    "nan": ((MU * math.nan, LOGVAR), {}, ValueError, "mu must be finite; got nan at row 0"),
    "infinite": ((MU, LOGVAR + math.inf), {}, ValueError, "logvar must be finite; got inf"),
    "few": (
        (MU, LOGVAR),
        {"num_samples": 99},
        ValueError,
        "num_samples must be an int >= 100; got 99",
    ),
    "float": (
        (MU, LOGVAR),
        {"num_samples": 1e4},
        TypeError,
        "num_samples must be an int >= 100",
    ),
    "bool": (
        (MU, LOGVAR),
        {"num_samples": True},
        TypeError,
        "num_samples must be an int >= 100",
    ),
    "joint prior": (
        (MU, LOGVAR),
        {"prior": MultivariateNormal(torch.zeros(3), torch.eye(3))},
        ValueError,
        "prior must factorise over the D = 3",
    ),
    "prior without a closed form": (
        (MU, LOGVAR),
        {"prior": StudentT(3.0)},
        ValueError,
        "StudentT has none",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_errors(case):
    arguments, options, error, text = CALLS[case]
    with pytest.raises(error, match=re.escape(text)):
        decompose_dataset(*arguments, **options)


def test_another_prior_changes_only_what_it_enters():
    standard, laplace = (
        decompose_dataset(MU, LOGVAR, num_samples=128, generator=generator(), prior=prior).terms
        for prior in (None, Laplace(torch.zeros(3).double(), 1.0))
    )
    assert abs(standard.index_code_mi - laplace.index_code_mi) < 0.1
    assert abs(standard.kl - laplace.kl) > 0.01


def test_a_condition_decomposes_the_items_of_each_label():
    mu, logvar = data_set(3, 90, 2)
    labels = torch.arange(90) % 3 // 2  # 60 of label 0, 30 of label 1
    got = decompose_dataset(mu, logvar, condition=labels, num_samples=3000, generator=generator())
    shares, parts = (2 / 3, 1 / 3), []
    for label in (0, 1):
        rows = labels == label
        parts.append(decompose_dataset(mu[rows], logvar[rows], num_samples=20_000).terms)
    want = torch.stack([s * torch.stack(list(p)) for s, p in zip(shares, parts, strict=True)]).sum(
        0
    )
    assert_close(got.terms.kl, want[3])
    assert_close(got.terms.dimension_wise_kl, want[2])
    error = got.standard_error.total_correlation
    assert (got.terms.total_correlation - want[1]).abs() < 6 * error
    assert_close(got.terms.sampled_kl, got.terms.kl)
    assert got.num_samples == 3000


@pytest.mark.parametrize("family", [Normal, Laplace])
def test_a_condition_and_a_prior_of_each_item(family):
    mu, logvar = data_set(3, 90, 2)
    labels, scale = torch.arange(90) % 3 // 2, torch.full((2,), 0.7).double()
    prior = family(0.5 * mu, scale)
    got = decompose_dataset(mu, logvar, condition=labels, prior=lambda: prior, num_samples=300)
    plain = decompose_dataset(mu, logvar, condition=labels, num_samples=300)
    posterior = Normal(mu, (0.5 * logvar).exp())
    kl = torch.distributions.kl_divergence(posterior, family(0.5 * mu, scale.expand(90, 2)))
    assert_close(got.terms.kl, kl.sum(1).mean())
    shift = got.terms.dimension_wise_kl - plain.terms.dimension_wise_kl
    assert_close(shift, got.terms.kl - plain.terms.kl)


def test_a_prior_of_each_item_that_has_no_rows_is_refused_with_a_condition():
    class Odd(Normal):
        def __init__(self, both):
            super().__init__(*both)

    with pytest.raises(ValueError, match=r"must be made of its parameters.* got Odd"):
        decompose_dataset(MU, LOGVAR, condition=torch.arange(8) % 2, prior=Odd((MU, 1 + MU**2)))


def test_a_prior_of_each_item_changes_the_third_term_alone():
    mu, logvar = data_set(3, 60, 2)
    prior = Normal(0.5 * mu, torch.full_like(mu, 0.7))
    got = decompose_dataset(mu, logvar, prior=prior, num_samples=5000, generator=generator())
    plain = decompose_dataset(mu, logvar, num_samples=5000, generator=generator())
    kl = torch.distributions.kl_divergence(Normal(mu, (0.5 * logvar).exp()), prior).sum(1).mean()
    assert_close(got.terms.kl, kl)
    assert_close(got.terms.sampled_kl, kl)
    difference = got.terms.total_correlation - plain.terms.total_correlation
    assert difference.abs() < 6 * got.standard_error.total_correlation
    shift = (kl - plain.terms.kl) - (got.terms.dimension_wise_kl - plain.terms.dimension_wise_kl)
    assert_close(shift, torch.zeros(()))
