"""Posteriors of other families, against loops over scipy's densities and over all outcomes."""

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import distributed
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Dirichlet,
    Distribution,
    Independent,
    Laplace,
    LogNormal,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    OneHotCategoricalStraightThrough,
    Poisson,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
    StudentT,
    TransformedDistribution,
    Uniform,
)
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.transforms import AffineTransform, ComposeTransform, SigmoidTransform

import reference
from strategies import batches, draw_posterior
from tcdecomp import Posterior, TCDecomposition, Terms, decompose
from tcdecomp.dataset.groups import split_tc
from tcdecomp.minibatch.bank import PosteriorBank
from tcdecomp.minibatch.families import decompose_family
from tcdecomp.minibatch.latents import saturates
from tcdecomp.minibatch.sites import decompose_sites
from tolerances import assert_close

ESTIMATORS = ("mss", "mss-jackknife", "mws", "inclusive", lambda others, size: (0.3, 0.1))
M, D, K, N = 6, 3, 4, 50


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal(mu, logvar):
    return Normal(mu, (0.5 * logvar).exp())


# The Gaussian family is the one that decompose serves


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(batch=batches(min_size=3))
def test_normal_is_decompose(estimator, batch):
    z, mu, logvar, size = batch
    got = decompose_family(z, normal(mu, logvar), size, estimator=estimator)
    assert_close(torch.stack(got), torch.stack(decompose(*batch, estimator=estimator)))


def test_several_samples_call_a_learned_prior_once():
    posterior, calls = Normal(draw(M, D), 0.5), []

    def prior():
        calls.append(1)
        return Normal(draw(D, seed=1), 1.0)

    z = posterior.sample((K,))
    got = decompose_family(z, posterior, N, prior=prior)
    assert len(calls) == 1
    results = [torch.stack(decompose_family(one, posterior, N, prior=prior)) for one in z]
    assert_close(torch.stack(got), torch.stack(results).mean(0))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kl", ["closed", "sampled"])
def test_options_are_those_of_decompose(reduction, kl):
    z, mu, logvar = draw_posterior(0, M, D)
    options = {"reduction": reduction, "kl": kl, "prior": Laplace(draw(D), 1.0)}
    got = decompose_family(z, Independent(normal(mu, logvar), 1), N, **options)
    want = decompose(z, mu, logvar, N, **options)
    assert isinstance(got, Terms)
    assert_close(torch.stack(got[:3]), torch.stack(want[:3]))
    assert (got.kl is None) == (want.kl is None) == (kl == "sampled")
    if got.kl is not None:
        assert_close(got.kl, want.kl)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_of_normal_are_those_of_decompose(estimator):
    inputs = [t.requires_grad_() for t in draw_posterior(0, M, D)]
    criterion = TCDecomposition(alpha=0.5, beta=6, gamma=2)
    z, mu, logvar = inputs
    terms = (
        decompose_family(z, normal(mu, logvar), N, estimator=estimator),
        decompose(*inputs, N, estimator=estimator),
    )
    got, want = (torch.autograd.grad(criterion.weigh(each), inputs) for each in terms)
    for gradient, expected in zip(got, want, strict=True):
        assert_close(gradient, expected)


@pytest.mark.parametrize("size", [1, 2])
def test_small_batches(size):
    z, mu, logvar = draw_posterior(0, size, 2)
    for estimator in ("mss", "mss-jackknife") if size == 1 else ("mss",):
        got = decompose_family(z, normal(mu, logvar), size, estimator=estimator)
        assert_close(torch.stack(got), torch.stack(decompose(z, mu, logvar, size)))


# Other families: name -> (posterior, its sample, prior, density of point i under k, of the prior)


def binary_concrete(x, temperature, logit):
    """Maddison, Mnih, Teh (2017), appendix C.3.2, eq. 24."""
    alpha, t = math.exp(logit), temperature
    odds = alpha * x**-t + (1 - x) ** -t
    return t * alpha * x ** (-t - 1) * (1 - x) ** (-t - 1) / odds**2


def logit_concrete(x, temperature, logit):
    """The same paper, appendix B.1.1: a logistic variable, moved and divided by t."""
    return stats.logistic.pdf(x, logit / temperature, 1 / temperature)


def concrete(x, temperature, logits):
    """Maddison, Mnih, Teh (2017), eq. 10."""
    t, alpha = temperature, np.exp(logits)
    product = np.prod(alpha * x ** (-t - 1)) / np.sum(alpha * x**-t) ** len(x)
    return math.factorial(len(x) - 1) * t ** (len(x) - 1) * product


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


def families():
    loc, scale, logits = draw(M, D), draw(M, D, seed=1).exp() / 2, draw(M, D, K, seed=2)
    t = torch.tensor(0.7, dtype=torch.float64)
    half, flat = torch.tensor(0.4, dtype=torch.float64), torch.zeros(K, dtype=torch.float64)
    a, s, v = (x.numpy() for x in (loc, scale, logits))
    torch.manual_seed(0)
    return {
        "Laplace": (
            Laplace(loc, scale),
            Laplace(loc.new_tensor([0.0, 1.0, 2.0]), 2.0),
            lambda x, k, j: stats.laplace.pdf(x, a[k, j], s[k, j]),
            lambda x, j: stats.laplace.pdf(x, [0.0, 1.0, 2.0][j], 2.0),
        ),
        "Laplace under the standard normal": (
            Laplace(loc, scale),
            None,
            lambda x, k, j: stats.laplace.pdf(x, a[k, j], s[k, j]),
            lambda x, j: stats.norm.pdf(x),
        ),
        "StudentT": (
            StudentT(3 + scale, loc, scale),
            StudentT(4.0 * torch.ones((), dtype=torch.float64)),
            lambda x, k, j: stats.t.pdf(x, 3 + s[k, j], a[k, j], s[k, j]),
            lambda x, j: stats.t.pdf(x, 4),
        ),
        "LogNormal": (
            LogNormal(loc, scale),
            LogNormal(loc.new_zeros(()), 1.0),
            lambda x, k, j: stats.lognorm.pdf(x, s[k, j], 0, math.exp(a[k, j])),
            lambda x, j: stats.lognorm.pdf(x, 1),
        ),
        "RelaxedBernoulli": (
            RelaxedBernoulli(t, logits=loc),
            RelaxedBernoulli(t, probs=half),
            lambda x, k, j: binary_concrete(x, 0.7, a[k, j]),
            lambda x, j: binary_concrete(x, 0.7, math.log(0.4 / 0.6)),
        ),
        "LogitRelaxedBernoulli": (
            LogitRelaxedBernoulli(t, logits=loc),
            LogitRelaxedBernoulli(t, probs=half),
            lambda x, k, j: logit_concrete(x, 0.7, a[k, j]),
            lambda x, j: logit_concrete(x, 0.7, math.log(0.4 / 0.6)),
        ),
        "RelaxedOneHotCategorical": (
            RelaxedOneHotCategorical(t, logits=logits),
            RelaxedOneHotCategorical(t, logits=flat),
            lambda x, k, j: concrete(x, 0.7, v[k, j]),
            lambda x, j: concrete(x, 0.7, np.zeros(K)),
        ),
        "Bernoulli": (
            Bernoulli(logits=loc),
            Bernoulli(half),
            lambda x, k, j: stats.bernoulli.pmf(x, 1 / (1 + math.exp(-a[k, j]))),
            lambda x, j: stats.bernoulli.pmf(x, 0.4),
        ),
        "Categorical": (
            Categorical(logits=logits),
            Categorical(logits=flat),
            lambda x, k, j: softmax(v[k, j])[int(x)],
            lambda x, j: 1 / K,
        ),
        "OneHotCategorical": (
            OneHotCategorical(logits=logits),
            OneHotCategorical(logits=flat),
            lambda x, k, j: softmax(v[k, j]) @ x,
            lambda x, j: 1 / K,
        ),
    }


FAMILIES = families()
CLOSED = {"Laplace under the standard normal", "LogNormal", "Bernoulli", "Categorical"} | {
    "Laplace",
    "OneHotCategorical",
}


def sample(name, seed=0):
    torch.manual_seed(seed)
    return FAMILIES[name][0].sample()


def looped(z, row, density, prior_density):
    """Return per-item (MI, TC, DWKL), as the reference does for Gaussians."""
    terms = []
    for i, point in enumerate(z.numpy()):
        at = [[density(x, k, j) for j, x in enumerate(point)] for k in range(len(z))]
        weighted = list(zip(row(i, len(z), N), at, strict=True))
        log_qz = math.log(math.fsum(w * math.prod(own) for w, own in weighted))
        log_qz_j = [math.log(math.fsum(w * own[j] for w, own in weighted)) for j in range(D)]
        log_pz = math.fsum(math.log(prior_density(x, j)) for j, x in enumerate(point))
        product = math.fsum(log_qz_j)
        terms.append((math.log(math.prod(at[i])) - log_qz, log_qz - product, product - log_pz))
    return list(map(list, zip(*terms, strict=True)))


@pytest.mark.parametrize("estimator", reference.ROWS)
@pytest.mark.parametrize("name", FAMILIES)
def test_terms_follow_their_definition(name, estimator):
    posterior, prior, *densities = FAMILIES[name]
    z = sample(name)
    options = {"estimator": estimator, "kl": "sampled", "reduction": "none"}
    got = decompose_family(z, posterior, N, prior=prior, **options)
    assert_close(torch.stack(got[:3]), looped(z, reference.ROWS[estimator], *densities))


@pytest.mark.parametrize("name", sorted(CLOSED))
def test_closed_form_kl_is_the_mean_of_the_sampled(name):
    posterior, prior, *_ = FAMILIES[name]
    terms = decompose_family(sample(name), posterior, N, prior=prior, reduction="none")
    torch.manual_seed(0)
    z = posterior.sample((20_000,))
    prior = prior or Normal(0.0, 1.0)
    sampled = (posterior.log_prob(z) - prior.log_prob(z)).sum(-1)
    error = sampled.std(0) / math.sqrt(len(sampled))
    assert ((terms.kl - sampled.mean(0)).abs() < 4 * error).all()


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - CLOSED))
def test_without_a_closed_form_the_error_says_what_does_without(name):
    posterior, prior, *_ = FAMILIES[name]
    with pytest.raises(ValueError, match=r"prior must have a closed-form KL .* kl=\"sampled\""):
        decompose_family(sample(name), posterior, N, prior=prior)


# Discrete latents: everything by enumeration


def test_discrete_terms_of_a_whole_data_set_are_exact():
    """With all items in the batch, the expectation over z is the information itself."""
    items, dim, classes = 4, 2, 3
    logits = draw(items, dim, classes)
    q_j = np.array([[softmax(row) for row in item] for item in logits.numpy()])
    q = np.einsum("na,nb->nab", q_j[:, 0], q_j[:, 1])
    expected = np.zeros(3)
    for value in itertools.product(range(classes), repeat=dim):
        z = torch.tensor(value).expand(items, dim)
        uniform = Categorical(logits=torch.zeros(classes, dtype=torch.float64))
        terms = decompose_family(
            z, Categorical(logits=logits), items, prior=uniform, reduction="none"
        )
        expected += torch.stack(terms[:3]).numpy() @ q[(slice(None), *value)] / items

    def entropy(p):
        return -(p * np.log(p)).sum()

    conditional = np.mean([entropy(item) for item in q])
    marginals = entropy(q_j.mean(0)[0]) + entropy(q_j.mean(0)[1])
    joint = entropy(q.mean(0))
    truth = joint - conditional, marginals - joint, dim * math.log(classes) - marginals
    assert_close(expected.tolist(), list(truth))


def test_mss_is_unbiased_over_all_batches():
    size, batch = 6, 3
    probs = draw(size, 2).sigmoid()
    z = Bernoulli(probs).sample()
    prior = Bernoulli(torch.tensor(0.5, dtype=torch.float64))
    for item in range(size):
        estimates = []
        for rows in map(list, reference.batches_with(item, size, batch)):
            terms = decompose_family(
                z[rows], Bernoulli(probs[rows]), size, prior=prior, reduction="none"
            )
            own = math.prod(stats.bernoulli.pmf(z[item].numpy(), probs[item].numpy()))
            estimates.append(own * math.exp(-terms.index_code_mi[rows.index(item)]))
        exact = stats.bernoulli.pmf(z[item].numpy(), probs.numpy()).prod(1).mean()
        assert_close(math.fsum(estimates) / len(estimates), float(exact))


# Laws


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", FAMILIES)
def test_terms_sum_to_the_sampled_kl(name, estimator):
    posterior, prior, *_ = FAMILIES[name]
    z = sample(name)
    options = {"estimator": estimator, "kl": "sampled", "reduction": "none"}
    terms = decompose_family(z, posterior, N, prior=prior, **options)
    log_prior = (prior or Normal(0.0, 1.0)).log_prob(z)
    assert_close(terms.sampled_kl, (posterior.log_prob(z) - log_prior).sum(1))


@given(st.permutations(range(M)), st.permutations(range(D)))
def test_the_order_of_items_and_of_latents_changes_nothing(items, latents):
    loc, scale = draw(M, D), draw(M, D, seed=1).exp()
    z = Laplace(loc, scale).sample()
    moved = [t[list(items)][:, list(latents)] for t in (z, loc, scale)]
    got = decompose_family(moved[0], Laplace(*moved[1:]), N, reduction="none")
    want = decompose_family(z, Laplace(loc, scale), N, reduction="none")
    assert_close(torch.stack(got), torch.stack(want)[:, list(items)])


@given(batches(min_size=3, max_dim=4), st.integers(0, 3))
def test_parts_are_the_concatenation_of_their_latents(batch, cut):
    z, mu, logvar, size = batch
    cuts = [slice(0, cut), slice(cut, None)] if 0 < cut < z.shape[1] else [slice(None)]
    parts = [normal(mu[:, part], logvar[:, part]) for part in cuts]
    got = decompose_family([z[:, part] for part in cuts], parts, size)
    assert_close(torch.stack(got), torch.stack(decompose(*batch)))


def test_logits_have_the_terms_of_what_they_are_the_logits_of():
    """The terms do not change under a function of each latent that can be undone."""
    loc, (t, even) = draw(M, D), torch.tensor([0.7, 0.4], dtype=torch.float64)
    logit, flat = LogitRelaxedBernoulli(t, logits=loc), LogitRelaxedBernoulli(t, probs=even)
    z = logit.sample()
    options = {"kl": "sampled"}
    want = decompose_family(z, logit, N, prior=flat, **options)
    bounded, prior = RelaxedBernoulli(t, logits=loc), RelaxedBernoulli(t, probs=even)
    got = decompose_family(z.sigmoid(), bounded, N, prior=prior, **options)
    assert_close(torch.stack(got[:3]), torch.stack(want[:3]))


def test_a_rounded_sample_is_refused():
    posterior = RelaxedBernoulli(torch.tensor(0.1), logits=torch.zeros(M, D))
    for value in (-200.0, 200.0):
        z = torch.full((M, D), 0.5)
        z[1, 0] = SigmoidTransform()(torch.tensor(value))
        with pytest.raises(ValueError, match="z must not be rounded to the bounds of posterior"):
            decompose_family(z, posterior, N, prior=Beta(2.0, 2.0), kl="sampled")


def test_a_prior_of_more_categories_is_refused():
    posterior = Categorical(logits=torch.zeros(M, D, 4))
    prior = Categorical(logits=torch.zeros(5))
    with pytest.raises(ValueError, match="prior must fit posterior: "):
        decompose_family(posterior.sample(), posterior, N, prior=prior)


def test_only_the_last_sigmoid_rounds():
    base = Normal(torch.zeros(M, D), 1.0)
    for transforms, refused in (
        ([SigmoidTransform(), AffineTransform(0.0, 10.0)], False),
        ([SigmoidTransform(), SigmoidTransform().inv], False),
        ([ComposeTransform([AffineTransform(0.0, 1.0), SigmoidTransform()])], True),
    ):
        distribution = TransformedDistribution(base, transforms)
        assert saturates(torch.full((M, D), 1.0), distribution) == refused


def test_parts_of_several_families():
    """Independent of each other given x, so that log-densities add, and the KL with them."""
    names = ("Laplace", "Bernoulli", "RelaxedOneHotCategorical")
    z = [sample(name) for name in names]
    posteriors, priors = zip(*(FAMILIES[name][:2] for name in names), strict=True)
    options = {"kl": "sampled", "reduction": "none"}
    got = decompose_family(z, posteriors, N, prior=priors, **options)

    at = [
        [[[FAMILIES[n][2](x, k, j) for j, x in enumerate(p)] for k in range(M)] for p in v.numpy()]
        for n, v in zip(names, z, strict=True)
    ]
    density = np.concatenate(at, -1)  # point, component, latent
    weights = np.full((M, M), (N - 1) / (N * (M - 1)))
    np.fill_diagonal(weights, 1 / N)
    log_qz = np.log((weights * density.prod(-1)).sum(1))
    log_product = np.log((weights[..., None] * density).sum(1)).sum(1)
    own = np.log(density.prod(-1).diagonal())
    assert_close(got.index_code_mi, (own - log_qz).tolist())
    assert_close(got.total_correlation, (log_qz - log_product).tolist())
    parts = [
        decompose_family(x, q, N, prior=p, **options).sampled_kl
        for q, x, p in zip(posteriors, z, priors, strict=True)
    ]
    assert_close(got.sampled_kl, sum(parts))


def test_closed_form_kl_of_parts_adds():
    names = ("Laplace", "Bernoulli")
    z = [sample(name) for name in names]
    posteriors, priors = zip(*(FAMILIES[name][:2] for name in names), strict=True)
    whole = decompose_family(z, posteriors, N, prior=priors)
    parts = [
        decompose_family(x, q, N, prior=p).kl for q, x, p in zip(posteriors, z, priors, strict=True)
    ]
    assert_close(whole.kl, sum(parts))


# One latent that is a vector: what does not factorise


def test_under_a_joint_prior_a_vector_latent_has_mi_and_aggregate_kl():
    z, mu, logvar = draw_posterior(0, M, D)
    factor = torch.eye(D, dtype=z.dtype) + 0.3 * draw(D, D).tril()
    prior = MultivariateNormal(draw(D), scale_tril=factor)
    vectors = Independent(normal(mu[:, None], logvar[:, None]), 1)
    got = decompose_family(z[:, None], vectors, N, prior=prior, kl="sampled", reduction="none")
    factorised = decompose(z, mu, logvar, N, reduction="none")
    assert_close(got.index_code_mi, factorised.index_code_mi)
    assert_close(got.total_correlation, torch.zeros(M))
    covariance = (factor @ factor.T).numpy()
    log_pz = stats.multivariate_normal.logpdf(z.numpy(), prior.loc.numpy(), covariance)
    log_qz = stats.norm.logpdf(z.numpy(), mu.numpy(), (0.5 * logvar).exp().numpy()).sum(1)
    log_qz -= factorised.index_code_mi.numpy()
    assert_close(got.aggregate_kl, (log_qz - log_pz).tolist())


def test_a_posterior_with_full_covariance_is_one_latent():
    mu, factor = draw(M, 1, D), torch.eye(D, dtype=torch.float64) + 0.3 * draw(M, 1, D, D).tril()
    posterior = MultivariateNormal(mu, scale_tril=factor)
    z = posterior.sample()
    prior = MultivariateNormal(torch.zeros(D, dtype=mu.dtype), torch.eye(D, dtype=mu.dtype))
    terms = decompose_family(z, posterior, M, prior=prior, reduction="none")
    density = [
        [
            stats.multivariate_normal.pdf(x[0], m[0], (f[0] @ f[0].T))
            for m, f in zip(mu.numpy(), factor.numpy(), strict=True)
        ]
        for x in z.numpy()
    ]
    mi = np.log(np.diagonal(density)) - np.log(np.mean(density, 1))
    assert_close(terms.index_code_mi, mi.tolist())
    assert_close(terms.total_correlation, torch.zeros(M))
    assert terms.kl.shape == (M,)


# Gradients

DIFFERENTIABLE = {
    "Laplace": lambda a, b: Laplace(a, b.exp()),
    "StudentT": lambda a, b: StudentT(4 + b.exp(), a, b.exp()),
    "RelaxedBernoulli": lambda a, b: RelaxedBernoulli(a.new_tensor(0.7), logits=a + b),
    "LogitRelaxedBernoulli": lambda a, b: LogitRelaxedBernoulli(a.new_tensor(0.7), logits=a + b),
    "LogNormal": lambda a, b: LogNormal(a, b.exp()),
    "mixture": lambda a, b: MixtureSameFamily(
        Categorical(logits=torch.stack([a, b], -1)),
        Normal(torch.stack([a, -a], -1), torch.stack([b, b], -1).exp()),
    ),
}
PRIORS = {"RelaxedBernoulli": Beta(2.0, 2.0), "LogNormal": LogNormal(0.0, 1.0)}


@pytest.mark.parametrize("estimator", ["mss", "mss-jackknife"])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients(name, estimator):
    a, b = draw(4, 2).requires_grad_(), draw(4, 2, seed=1).requires_grad_()
    torch.manual_seed(0)
    z = DIFFERENTIABLE[name](a, b).sample().requires_grad_()

    def terms(z, a, b):
        options = {"prior": PRIORS.get(name), "kl": "sampled", "estimator": estimator}
        return decompose_family(z, DIFFERENTIABLE[name](a, b), 9, **options)[:3]

    torch.autograd.gradcheck(terms, (z, a, b))


@pytest.mark.parametrize(
    "name", ["Laplace", "StudentT", "RelaxedBernoulli", "LogitRelaxedBernoulli"]
)
def test_a_reparameterised_sample_is_trained(name):
    a = draw(4, 2).requires_grad_()
    posterior = DIFFERENTIABLE[name](a, draw(4, 2, seed=1))
    options = {"prior": PRIORS.get(name), "kl": "sampled"}
    terms = decompose_family(posterior.rsample(), posterior, 9, **options)
    TCDecomposition(beta=6).weigh(terms).backward()
    assert a.grad.isfinite().all()
    assert a.grad.abs().min() > 0


def test_a_learned_prior_is_trained():
    posterior, *_ = FAMILIES["Bernoulli"]
    logit = torch.zeros(D, dtype=torch.float64, requires_grad=True)
    terms = decompose_family(
        sample("Bernoulli"), posterior, N, prior=lambda: Bernoulli(logits=logit)
    )
    (gradient,) = torch.autograd.grad(terms.dimension_wise_kl, logit)
    assert_close(gradient, 0.5 - sample("Bernoulli").mean(0))


UNTRAINED = {
    "Bernoulli": (lambda a: Bernoulli(logits=a), Bernoulli(0.5)),
    "straight through": (
        lambda a: OneHotCategoricalStraightThrough(logits=a[..., None].expand(4, 2, 3)),
        OneHotCategorical(torch.ones(3)),
    ),
    "sample() for rsample()": (lambda a: Laplace(a, 1.0), Laplace(0.0, 1.0)),
}


@pytest.mark.parametrize("case", UNTRAINED)
def test_a_gradient_that_would_lack_a_part_is_refused(case):
    make, prior = UNTRAINED[case]
    posterior = make(draw(4, 2).requires_grad_())
    z = posterior.rsample() if case == "straight through" else posterior.sample()
    with pytest.raises(ValueError, match=r"z must be continuous and drawn by rsample\(\) where a"):
        decompose_family(z, posterior, 9, prior=prior)
    with torch.no_grad():
        assert decompose_family(z, posterior, 9, prior=prior).index_code_mi.isfinite()


# Precision


def test_half_precision_of_z_and_autocast_change_nothing():
    posterior, prior = Laplace(draw(M, D).float(), 0.5), Laplace(0.0, 1.0)
    z = posterior.sample().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = decompose_family(z, posterior, N, prior=prior)
    want = decompose_family(z.float(), posterior, N, prior=prior)
    assert got.index_code_mi.dtype == torch.float32
    assert torch.equal(torch.stack(got), torch.stack(want))


def test_autocast_is_off_where_it_would_lower_something():
    """A low-rank Gaussian's log_prob, and a prior that a layer makes, are products of matrices."""
    torch.manual_seed(0)
    posterior = LowRankMultivariateNormal(
        torch.randn(M, 1, D), torch.randn(M, 1, D, 2), torch.rand(M, 1, D) + 0.1
    )
    layer, z = torch.nn.Linear(2, 2 * D), posterior.sample()

    def prior():
        loc, scale = layer(torch.ones(2)).chunk(2)
        return Independent(Normal(loc, scale.exp()), 1)

    want = decompose_family(z, posterior, N, prior=prior, kl="sampled")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = decompose_family(z, posterior, N, prior=prior, kl="sampled")
    assert torch.equal(torch.stack(got[:3]), torch.stack(want[:3]))


def test_float32_agrees_with_float64():
    posterior, _, *_ = FAMILIES["Laplace"]
    z = sample("Laplace")
    single = Laplace(posterior.loc.float(), posterior.scale.float())
    double = Laplace(single.loc.double(), single.scale.double())
    got = decompose_family(z.float(), single, N)
    assert got.kl.dtype == torch.float32
    want = decompose_family(z.float().double(), double, N)
    assert_close(torch.stack(got), torch.stack(want), torch.float32)


def test_a_nan_that_nobody_looks_at_comes_out():
    loc = draw(M, D)
    loc[2, 1] = math.nan
    posterior = Laplace(loc, 1.0, validate_args=False)
    for estimator in ("mss", "mss-jackknife", "inclusive"):
        options = {"estimator": estimator, "validate": False, "reduction": "none"}
        terms = decompose_family(draw(M, D, seed=1), posterior, N, **options)
        assert terms.index_code_mi.isnan().all()
        assert terms.total_correlation.isnan().all()
        assert terms.dimension_wise_kl.isnan().all()


def test_the_mean_is_a_sample_where_nobody_can_tell():
    loc = torch.full((M, D), 1000.0) + torch.arange(M)[:, None]
    assert decompose_family(loc, Laplace(loc, 1e-6), N).total_correlation.isfinite()
    decompose_family(loc, Laplace(loc, 1.0), N, validate=False)


# Errors


class Silent(Distribution):
    """It does not broadcast, and says nothing of itself."""

    def __init__(self):
        super().__init__((M, D), validate_args=False)

    def log_prob(self, value):
        return torch.zeros(M, D)


GAUSS, Z = Normal(draw(M, D), 1.0), draw(M, D, seed=1)
COIN, FACES = Bernoulli(logits=draw(M, D)), (draw(M, D, seed=1) > 0).double()
UNIT = draw(M, D, seed=1).sigmoid()
CASES = {
    "no distribution": (
        (Z, Z),
        {},
        TypeError,
        "posterior must be a torch Distribution; got Tensor",
    ),
    "hierarchical": (
        ([GAUSS, lambda z1: Normal(z1, 1.0)], [Z, Z]),
        {},
        TypeError,
        "posterior[1] must be a torch Distribution; got function. A part that depends on another's "
        "sample, q(z2|x, z1), is not served: parts are independent of each other given x",
    ),
    "joint posterior": (
        (MultivariateNormal(draw(M, D), torch.eye(D).double()), Z),
        {},
        ValueError,
        "posterior must factorise over D latents, with batch shape (M, D) and M, D >= 1; got "
        "MultivariateNormal with batch shape (6,) and event shape (3,)",
    ),
    "samples": ((Normal(draw(2, M, D), 1.0), Z), {}, ValueError, "got Normal with batch shape (2,"),
    "spatial": (
        (Independent(Normal(draw(M, 2, 3, 3), 1.0), 3), Z),
        {},
        ValueError,
        "got Independent with batch shape (6,) and event shape (2, 3, 3)",
    ),
    "empty": ((Normal(draw(0, D), 1.0), Z[:0]), {}, ValueError, "M, D >= 1; got Normal with batch"),
    "z list": ((GAUSS, [Z]), {}, TypeError, "z must be a torch.Tensor; got list"),
    "z shape": (
        (GAUSS, Z[:, :2]),
        {},
        ValueError,
        "z must have shape (6, 3), as a sample of posterior has; got (6, 2)",
    ),
    "z device": (
        (GAUSS, Z.to("meta")),
        {},
        ValueError,
        "posterior must be on the device of z, meta; got cpu",
    ),
    "part's device": (
        ([GAUSS, Normal(Z.to("meta"), Z.to("meta"), validate_args=False)], [Z, Z.to("meta")]),
        {},
        ValueError,
        "z[1] must be on the device of z, cpu; got meta",
    ),
    "half precision": (
        (Laplace(draw(M, D).half(), 1.0), Z),
        {},
        ValueError,
        "posterior must have parameters of float32 or float64; got torch.float16",
    ),
    "half precision inside": (
        (RelaxedBernoulli(torch.tensor(0.5), logits=draw(M, D).bfloat16()), UNIT),
        {"prior": Beta(1.0, 1.0)},
        ValueError,
        "posterior must have parameters of float32 or float64; got torch.bfloat16",
    ),
    "parts of z": (
        ([GAUSS, GAUSS], [Z]),
        {},
        ValueError,
        "posterior and z must be sequences of as many parts, at least one; got 2 and 1",
    ),
    "z of parts": (([GAUSS], Z), {}, ValueError, "posterior and z must be sequences of as many"),
    "priors of parts": (
        ([GAUSS, GAUSS], [Z, Z]),
        {"prior": Normal(0.0, 1.0)},
        ValueError,
        "posterior and prior must be sequences of as many parts, at least one; got 2 and Normal",
    ),
    "no parts": (([], []), {}, ValueError, "at least one; got 0 and 0"),
    "rows of parts": (
        ([GAUSS, Normal(draw(4, 2), 1.0)], [Z, Z[:4, :2]]),
        {},
        ValueError,
        "posterior[1] must have M = 6 rows, as posterior[0] has; got 4",
    ),
    "no prior": (
        (COIN, FACES),
        {},
        ValueError,
        "prior must be given for a Bernoulli posterior; None is the standard normal",
    ),
    "no prior of a part": (
        ([GAUSS, COIN], [Z, FACES]),
        {"prior": [None, None]},
        ValueError,
        "prior[1] must be given for a Bernoulli posterior",
    ),
    "no prior of vectors": (
        (OneHotCategorical(torch.ones(M, D, K)), torch.eye(K)[:D].expand(M, D, K)),
        {},
        ValueError,
        "prior must be given for a OneHotCategorical posterior",
    ),
    "prior type": ((GAUSS, Z), {"prior": "normal"}, TypeError, "prior must be None (standard norm"),
    "prior call": ((GAUSS, Z), {"prior": lambda: 3}, TypeError, "return a torch Distribution when"),
    "joint prior": (
        (GAUSS, Z),
        {"prior": MultivariateNormal(torch.zeros(D), torch.eye(D))},
        ValueError,
        "prior must factorise over the D = 3 latents of posterior, with batch shape (3,) or () and "
        "event shape (); got MultivariateNormal with batch shape () and event shape (3,). Under a "
        "prior that does not factorise there are MI and KL(q(z)||p(z)) only",
    ),
    "prior per item": (
        (GAUSS, Z),
        {"prior": Normal(draw(M, D), 1.0)},
        ValueError,
        "got Normal with batch shape (6, 3)",
    ),
    "a density for a mass": (
        (COIN, FACES),
        {"prior": Normal(0.0, 1.0)},
        ValueError,
        "prior must have a density, or a mass, wherever posterior has; got Normal for Bernoulli",
    ),
    "a mass for a density": (
        (GAUSS, Z),
        {"prior": Poisson(1.0)},
        ValueError,
        "got Poisson for Normal",
    ),
    "half the line": ((GAUSS, Z), {"prior": LogNormal(0.0, 1.0)}, ValueError, "got LogNormal for"),
    "an interval": (
        (GAUSS, Z),
        {"prior": Uniform(-9.0, 9.0)},
        ValueError,
        "got Uniform for Normal",
    ),
    "fewer classes": (
        (Categorical(torch.ones(M, D, 4)), torch.zeros(M, D)),
        {"prior": Categorical(torch.ones(3))},
        ValueError,
        "got Categorical for Categorical",
    ),
    "value outside of the prior": (
        (Categorical(torch.ones(M, D, 4)), torch.full((M, D), 3)),
        {"prior": Bernoulli(0.5), "kl": "sampled"},
        ValueError,
        "z must lie in the support of prior, a Bernoulli",
    ),
    "outside": (
        (Beta(draw(M, D).exp(), 1.0), Z),
        {"prior": Beta(1.0, 1.0)},
        ValueError,
        "z must lie in the support of posterior, a Beta",
    ),
    "no one support": (
        (Uniform(draw(M, D), 9.0), draw(M, D) + 0.01),
        {"prior": Normal(0.0, 1.0)},
        ValueError,
        "posterior must have one support for all items; got Uniform, whose parameters bound it",
    ),
    "mean": (
        (GAUSS, GAUSS.loc),
        {},
        ValueError,
        "z must be a sample of posterior; got its mean, as a VAE in eval mode returns it",
    ),
    "mean of a part": (
        ([GAUSS, Laplace(Z, 1.0)], [Z, Z]),
        {},
        ValueError,
        "z[1] must be a sample of posterior[1]; got its mean",
    ),
    "infinite": (
        (GAUSS, Z / 0),
        {},
        ValueError,
        "the log-density of z under posterior must be finite; got -inf at row 0, column 0",
    ),
    "nan": (
        (Laplace(Z * math.nan, 1.0, validate_args=False), Z),
        {},
        ValueError,
        "the log-density of z under posterior must be finite; got nan at row 0, column 0",
    ),
    "nan of the prior": (
        (GAUSS, Z),
        {"prior": Normal(math.nan, 1.0, validate_args=False)},
        ValueError,
        "the log-density of z under prior must be finite; got nan at row 0, column 0",
    ),
    "no broadcasting": (
        (Silent(), Z),
        {"prior": Normal(0.0, 1.0)},
        ValueError,
        "posterior.log_prob must broadcast (M, 1, D) values to shape (M, M, D); got (6, 3) from",
    ),
    "N small": (
        (GAUSS, Z),
        {"dataset_size": 5},
        ValueError,
        "at least the batch size M = 6; got 5",
    ),
    "N float": ((GAUSS, Z), {"dataset_size": 5.0}, TypeError, "dataset_size must be an int"),
    "one row": ((Normal(Z[:1] + 1, 1.0), Z[:1]), {}, ValueError, "must have M >= 2 rows for est"),
    "estimator": ((GAUSS, Z), {"estimator": "mmm"}, ValueError, "estimator must be one of 'mss'"),
    "kl": ((GAUSS, Z), {"kl": "open"}, ValueError, "kl must be one of 'closed', 'sampled'"),
    "reduction": ((GAUSS, Z), {"reduction": "max"}, ValueError, "reduction must be one of 'mean'"),
}


@pytest.mark.parametrize("case", CASES)
def test_errors(case):
    arguments, options, error, text = CASES[case]
    options = {"dataset_size": N, **options}
    with pytest.raises(error, match=re.escape(text)):
        decompose_family(*reversed(arguments), options.pop("dataset_size"), **options)


def test_a_prior_on_the_same_bounded_support_is_taken():
    posterior = Beta(draw(M, D).exp(), 1.0)
    low, high = torch.zeros(D, dtype=torch.float64), torch.ones(D, dtype=torch.float64)
    got = decompose_family(UNIT, posterior, N, prior=Uniform(low, high))
    want = decompose_family(UNIT, posterior, N, prior=Beta(low + 1, high))
    assert_close(torch.stack(got), torch.stack(want))


def test_vectors_of_the_simplex():
    posterior, prior = Dirichlet(draw(M, D, K).exp()), Dirichlet(torch.ones(K).double())
    terms = decompose_family(posterior.sample(), posterior, N, prior=prior, reduction="none")
    assert terms.kl.shape == (M,)
    assert_close(terms.kl, torch.distributions.kl_divergence(posterior, prior).sum(1))


# The tables of the page

PAGE = (Path(__file__).parents[2] / "docs" / "gallery" / "families.md").read_text()


def table(first):
    """Return the rows, as lists of cells, of the table whose header begins with these cells."""
    lines = iter(PAGE.splitlines())
    cells = next(row for row in map(cut, lines) if row[: len(first)] == first)
    next(lines)
    return [cells, *itertools.takewhile(lambda row: len(row) > 1, map(cut, lines))]


def cut(line):
    return [cell.strip() for cell in line.split("|")[1:-1]]


@pytest.fixture(scope="module")
def _alone():
    """A group of one process."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def bank(process_group=None):
    held = PosteriorBank(4, process_group=process_group)
    held.push(Posterior(*draw_posterior(1, 4, D)), torch.arange(M, M + 4))
    return held


LABELS = torch.tensor([0, 1] * (M // 2))
FEATURES = {
    "jackknife": lambda: {"estimator": "mss-jackknife"},
    "bank": lambda: {"bank": bank(), "items": torch.arange(M)},
    "processes": lambda: {"process_group": "world"},
    "condition": lambda: {"condition": LABELS, "dataset_size": {0: N, 1: N}},
}
CALLS = {
    "plain": lambda z, mu, logvar, size, **options: [
        decompose(z, mu, logvar, size, **options),
        TCDecomposition(
            beta=6, **{k: v for k, v in options.items() if k not in ("bank", "items", "condition")}
        )(
            z,
            mu,
            logvar,
            size,
            **{k: v for k, v in options.items() if k in ("bank", "items", "condition")},
        ),
    ],
    "groups": lambda *batch, **options: split_tc(*batch, {"a": [0, 2], "b": [1]}, **options),
    "families": lambda z, mu, logvar, size, **options: decompose_family(
        z, normal(mu, logvar), size, **options
    ),
    "sites": lambda *batch, **options: decompose_sites(
        *(t.unflatten(0, (-1, 2)).mT for t in batch[:3]), batch[3], channels_last=False, **options
    ),
}


def together(*names):
    """Ask for all of them at once."""
    options = {}
    for name in names:
        options |= FEATURES[name]() if name in FEATURES else {}
    if {"bank", "process_group"} <= options.keys():
        options["bank"] = bank("world")
    kinds = [name for name in names if name in CALLS]
    call = CALLS[kinds.pop(0) if kinds else "plain"]
    batch = draw_posterior(0, M, D)
    if "sites" in kinds:  # the other function gets the sites' latents
        batch = tuple(t[..., None] for t in batch)
    if kinds == ["families"]:  # split_tc gets a distribution
        batch = normal(*batch[1:]), *batch[1:]
    return call(*batch, options.pop("dataset_size", N), **options)


def pairs():
    header, *lines = table(["", "jackknife"])
    names = header[1:]
    assert [line[0] for line in lines] == names[:-1]
    return [
        (line[0], name, line[1 + i])
        for row, line in enumerate(lines)
        for i, name in enumerate(names)
        if i > row or line[1 + i]
    ]


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize(("one", "other", "answer"), pairs())
def test_what_goes_together(one, other, answer):
    if answer == "yes":
        assert together(one, other)
    else:
        assert answer == "no"
        with pytest.raises((TypeError, ValueError), match=NAMED.get((one, other), NAMED[other])):
            together(one, other)


# What an error names, by the later of the two, or by both.
NAMED = {
    "bank": "'bank'|(bank|items) must be None where a condition is given",
    "condition": "(bank|items|process_group) must be None where a condition is given",
    "groups": "unexpected keyword argument '(bank|items)'",
    "families": "unexpected keyword argument '(bank|items|process_group|condition)'",
    "sites": "unexpected keyword argument '(bank|items|process_group|condition)'",
    ("jackknife", "sites"): "estimator must not be 'mss-jackknife' where an item has several rows",
    ("groups", "families"): "z must be a torch.Tensor; got Normal",
    ("groups", "sites"): r"must share one shape \(M, D\)",
    ("families", "sites"): r"posterior must factorise over D latents, .* batch shape \(6, 3, 1\)",
}


@pytest.mark.usefixtures("_alone")
def test_what_goes_together_in_pairs_goes_together_in_threes():
    yes = {frozenset(pair[:2]) for pair in pairs() if pair[2] == "yes"}
    names = sorted({name for pair in yes for name in pair})
    threes = [
        three
        for three in itertools.combinations(names, 3)
        if all(frozenset(pair) in yes for pair in itertools.combinations(three, 2))
    ]
    assert ("bank", "jackknife", "processes") in threes
    for three in threes:
        assert together(*three)


@pytest.mark.parametrize("row", table(["posterior", "one latent is"])[1:], ids=lambda row: row[0])
def test_the_table_of_families(row):
    name, _, priors, closed, trained = row
    name = name.strip("`")
    posterior, prior, *_ = FAMILIES[name]
    assert ("None" in priors) == (posterior.support is Laplace.support)
    assert (closed == "yes") == (name in CLOSED)
    continuous = not posterior.support.is_discrete
    # has_rsample is False for one that has it.
    drawn = posterior.has_rsample or name == "LogitRelaxedBernoulli"
    assert trained == ("yes" if continuous and drawn else "values only")
    assert prior is None or name in ("StudentT", *re.findall(r"`(\w+)`", priors))
