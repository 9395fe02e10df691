"""Posterior: where it comes from, and what sampling promises."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Independent, Laplace, Normal

from strategies import draw_posterior
from tcdecomp import Posterior
from tcdecomp.posterior import log_normal
from tolerances import assert_close

Z, MU, LOGVAR = draw_posterior(seed=0, size=5, dim=3)


@given(st.integers(0, 2**31))
def test_log_normal_is_torchs_own(seed):
    z, mu, logvar = draw_posterior(seed, 5, 3)
    assert_close(log_normal(z, mu, logvar), Normal(mu, (0.5 * logvar).exp()).log_prob(z))


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: Independent(d, 1)])
def test_from_normal(wrap):
    posterior = Posterior.from_normal(wrap(Normal(MU, (0.5 * LOGVAR).exp())), Z)
    assert posterior.z is Z
    assert posterior.mu is MU
    assert_close(posterior.logvar, LOGVAR)
    drawn = Posterior.from_normal(wrap(Normal(MU, (0.5 * LOGVAR).exp())))
    assert not torch.equal(drawn.z, MU)


@pytest.mark.parametrize("distribution", [Laplace(MU, 1.0), Independent(Bernoulli(logits=MU), 1)])
def test_from_another_distribution(distribution):
    with pytest.raises(TypeError, match="distribution must be a torch Normal, or an Independent"):
        Posterior.from_normal(distribution)


def test_sampling_has_the_posteriors_moments_and_its_gradient():
    mu = torch.tensor([[1.0, -2.0]]).expand(20_000, 2).requires_grad_()
    logvar = torch.tensor([[0.0, -3.0]]).expand(20_000, 2).requires_grad_()
    z = Posterior.from_moments(mu, logvar, generator=torch.Generator().manual_seed(0)).z
    noise = (z - mu) / (0.5 * logvar).exp()
    assert noise.mean(0).abs().max() < 4 / math.sqrt(20_000)
    assert (noise.std(0) - 1).abs().max() < 4 / math.sqrt(2 * 20_000)
    grads = torch.autograd.grad(z.sum(), (mu, logvar))
    assert_close(grads[0], torch.ones(20_000, 2), torch.float32)
    assert_close(grads[1], (z - mu) / 2, torch.float32)


def test_a_generator_of_ones_own_leaves_the_global_one_alone():
    posterior = Posterior(Z, MU, LOGVAR)
    before = torch.get_rng_state()
    one = posterior.sample(generator=torch.Generator().manual_seed(3))
    two = posterior.sample(generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.z, two.z)
    posterior.sample()
    assert not torch.equal(torch.get_rng_state(), before)


def test_half_precision_is_sampled_in_float32():
    posterior = Posterior.from_moments(MU.bfloat16(), LOGVAR.bfloat16())
    assert posterior.z.dtype == torch.float32
    assert posterior.mu.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("dtypes", "want"),
    [
        ((torch.float16, torch.bfloat16, torch.float16), torch.float32),
        ((torch.float32, torch.float64, torch.bfloat16), torch.float64),
    ],
)
def test_working_precision(dtypes, want):
    posterior = Posterior(*(t.to(d) for t, d in zip((Z, MU, LOGVAR), dtypes, strict=True)))
    working = posterior.in_working_precision()
    assert {working.z.dtype, working.mu.dtype, working.logvar.dtype} == {want}


def test_detach_cuts_the_graph_and_keeps_the_values():
    posterior = Posterior(*(t.clone().requires_grad_() for t in (Z, MU, LOGVAR))).detach()
    assert not posterior.z.requires_grad
    assert not posterior.mu.requires_grad
    assert torch.equal(posterior.logvar, LOGVAR)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((Z * math.inf, MU, LOGVAR), "z must be finite; got "),
        (
            (Z, MU, LOGVAR - 2000),
            "logvar must be at least -1419.6 and at most 1419.6",
        ),
        (
            (Z.float(), MU.float(), LOGVAR.half() * 0 - 178),
            "at most 177.4 in torch.float32, for exp(logvar / 2) and its inverse to be finite; "
            "got -178.0",
        ),
        ((MU, MU, LOGVAR), "z must be a sample from N(mu, exp(logvar)); got z equal to mu"),
        ((MU.double(), MU.float(), LOGVAR), None),
    ],
)
def test_values(values, text):
    posterior = Posterior(*values)
    if text is None:  # rounded means are not the sample
        posterior.check_values()
    else:
        with pytest.raises(ValueError, match=re.escape(text)):
            posterior.check_values()


def test_moments_are_checked_before_anything_is_drawn():
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"^mu and logvar must share one shape"):
        Posterior.from_moments(MU, LOGVAR[:, :2])
    assert torch.equal(torch.get_rng_state(), before)
