"""What is wrong with a batch is told, and what is right is not."""

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal

from tcdecomp import Bracket, Posterior, TCDecomposition, decompose, decompose_dataset
from tcdecomp._checks import EVERY
from tcdecomp._evidence import doubt_of_logvar, doubt_of_rows, doubt_of_sample
from tolerances import assert_close


def batch(size=128, dim=10, seed=0, centre=-2.3, spread=0.1):
    """Return mu, logvar and noise."""
    g = torch.Generator().manual_seed(seed)
    mu = 0.95 * torch.randn(size, dim, generator=g)
    logvar = centre + spread * torch.randn(size, dim, generator=g)
    return mu, logvar, torch.randn(size, dim, generator=g)


def doubt(z, mu, logvar):
    return doubt_of_sample(Posterior(z, mu, logvar))


def drawn(mu, logvar):
    g = torch.Generator().manual_seed(1)
    return Posterior(mu, mu, logvar).sample(generator=g)


MU, LOGVAR, NOISE = batch()
STD = (0.5 * LOGVAR).exp()
Z = MU + STD * NOISE

# z, mu, what was passed as logvar; what is told; and the remedy, followed.
WRONG = {
    "log standard deviations": (
        (Z, MU, 0.5 * LOGVAR),
        "If logvar holds logarithms of standard deviations, pass 2 * logvar",
        lambda z, mu, given: (z, mu, 2 * given),
    ),
    "exp(logvar) as the standard deviation": (
        (MU + LOGVAR.exp() * NOISE, MU, LOGVAR),
        "otherwise draw z = mu + exp(0.5 * logvar) * noise",
        lambda z, mu, given: (mu + (0.5 * given).exp() * NOISE, mu, given),
    ),
    "standard deviations": (
        (Z, MU, STD),
        "logvar holds standard deviations. Pass 2 * logvar.log()",
        lambda z, mu, given: (z, mu, 2 * given.log()),
    ),
    "variances": (
        (Z, MU, STD.square()),
        "logvar holds variances, squares of a standard deviation. Pass logvar.log()",
        lambda z, mu, given: (z, mu, given.log()),
    ),
    "a scaled z": (
        (0.18215 * Z, MU, LOGVAR),
        "z is a sample that was multiplied by 0.182",
        lambda z, mu, given: (z, 0.18215 * mu, given + 2 * math.log(0.18215)),
    ),
    "a temperature": (
        (MU + 0.5 * STD * NOISE, MU, LOGVAR),
        "draw z without it: z = Posterior.from_moments(mu, logvar).z",
        lambda z, mu, given: drawn(mu, given),
    ),
    "z and mu scaled, logvar not": (
        (0.18 * Z, 0.18 * MU, LOGVAR),
        "If z and mu were multiplied by c, pass logvar + 2 * log(c), too",
        lambda z, mu, given: (z, mu, given + 2 * math.log(0.18)),
    ),
    "mu and logvar swapped": (
        (Z, LOGVAR, MU),
        "mu and logvar are swapped",
        lambda z, mu, given: (z, given, mu),
    ),
    "z of other rows": (
        (Z.roll(1, 0), MU, LOGVAR),
        "z is of other rows than mu and logvar",
        lambda z, mu, given: drawn(mu, given),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_z_that_is_no_sample_is_told_and_the_remedy_is_silent(case):
    given, remedy, follow = WRONG[case]
    text = doubt(*given)
    assert "z does not look like a sample" in text
    assert remedy in text
    assert doubt(*follow(*given)) is None


def test_few_active_latents_among_many_dead_ones_are_seen():
    """The mean of all squared residuals is 2.3 standard errors off; the likelihoods see it."""
    mu, logvar, noise = batch(64, 128, centre=0.0, spread=0.01)
    mu[:, 5:] *= 0.01
    logvar[:, :5] = -2.0
    assert "exp(logvar) is the standard deviation" in doubt(mu + logvar.exp() * noise, mu, logvar)
    assert doubt(mu + (0.5 * logvar).exp() * noise, mu, logvar) is None


@pytest.mark.parametrize("change", [lambda z: z.clamp(-1, 1), lambda z: z.abs()])
def test_one_latent_alone_is_named(change):
    z = Z.clone()
    z[:, 3] = change(4 * z[:, 3])
    assert "in latent 3" in doubt(z, MU, LOGVAR) or "more likely" in doubt(z, MU, LOGVAR)
    shifted = Z.clone()
    shifted[:, 3] += 1.2 * STD[:, 3]
    assert "in latent 3, (z - mu) / exp(0.5 * logvar) has mean 1." in doubt(shifted, MU, LOGVAR)


# Right use is silent


@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([1, 2, 3, 16, 200]),
    dim=st.sampled_from([1, 4, 30]),
    centre=st.sampled_from([-12.0, -3.0, 0.0, 1.0]),
    spread=st.sampled_from([0.0, 0.1, 2.0]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
)
def test_a_sample_is_silent(seed, size, dim, centre, spread, dtype):
    mu, logvar, noise = (t.to(dtype) for t in batch(size, dim, seed, centre, spread))
    if dtype.itemsize == 2:  # drawn in float32 from moments in half precision, and rounded
        z = (mu.float() + (0.5 * logvar.float()).exp() * noise.float()).to(dtype)
    else:
        z = mu + (0.5 * logvar).exp() * noise
    assert doubt(z, mu, logvar) is None


@pytest.mark.parametrize("seed", range(20))
def test_antithetic_noise_is_silent(seed):
    mu, logvar, noise = batch(256, 10, seed)
    noise[128:] = -noise[:128]
    assert doubt(mu + (0.5 * logvar).exp() * noise, mu, logvar) is None


def test_a_collapsed_posterior_is_silent():
    noise = torch.randn(512, 10, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(512, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decompose(noise, zero, zero, 10_000)
        Bracket().update(noise, 1e-4 * noise.roll(1), 1e-4 * noise.roll(2), 10_000)


def test_the_mean_in_a_precision_without_noise_is_silent():
    mu = 100 + torch.randn(64, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert doubt(mu, mu, torch.full_like(mu, -9.0)) is None


# Who is told, and how often


def test_a_criterion_tells_once_and_decompose_each_time():
    wrong = MU + LOGVAR.exp() * NOISE, MU, LOGVAR
    criterion = TCDecomposition(beta=6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            criterion(*wrong, 10_000)
    assert ["standard deviation" in str(warning.message) for warning in caught] == [True]
    assert caught[0].filename == __file__
    assert criterion.state_dict() == {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            decompose(*wrong, 10_000)
    assert len(caught) == 2
    assert caught[0].filename == __file__


def test_a_criterion_looks_again_later():
    criterion = TCDecomposition(beta=6)
    for _ in range(EVERY):
        criterion(Z, MU, LOGVAR, 10_000)
    with pytest.warns(UserWarning, match="standard deviation"):
        criterion(Z, MU, 0.5 * LOGVAR, 10_000)


def test_a_sample_without_a_gradient_is_told_once():
    mu, logvar = MU.clone().requires_grad_(), LOGVAR
    posterior = Normal(mu, (0.5 * logvar).exp())
    criterion = TCDecomposition(beta=6)
    with pytest.warns(UserWarning, match=r"z carries no gradient, but mu does: .* rsample\(\)"):
        criterion(posterior.sample(), mu, logvar, 1000)
    criterion(posterior.sample(), mu, logvar, 1000)  # silent, as all below
    TCDecomposition(beta=6)(posterior.rsample(), mu, logvar, 1000)
    TCDecomposition()(posterior.sample(), mu, logvar, 1000)  # the closed form alone
    TCDecomposition(beta=6)(posterior.rsample(), mu.detach(), logvar, 1000)
    decompose(posterior.sample(), mu, logvar, 1000)
    with torch.no_grad():
        TCDecomposition(beta=6)(posterior.sample(), mu, logvar, 1000)


def test_without_a_look_nothing_is_told():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decompose(Z, MU, 0.5 * LOGVAR, 10_000, validate=False)
        TCDecomposition(validate=False)(Z, MU, 0.5 * LOGVAR, 10_000)


# Log-variances without a z


def test_log_variances_above_zero_are_a_sign():
    softplus = torch.nn.functional.softplus(LOGVAR)
    assert "Does the encoder return the standard deviation" in doubt_of_logvar(softplus)
    assert doubt_of_logvar(2 * softplus.log()) is None
    assert doubt_of_logvar(LOGVAR) is None
    assert doubt_of_logvar(torch.full((2, 2), 0.1)) is None
    with pytest.warns(UserWarning, match="logvar has no value below 0"):
        decompose_dataset(MU, softplus, num_samples=100)


# Rows that repeat


def test_rows_that_repeat_are_told_and_items_silence_it():
    mu, logvar = MU.clone(), LOGVAR.clone()
    mu[77], logvar[77] = mu[5], logvar[5]
    text = doubt_of_rows(mu, logvar)
    assert "1 rows that repeat" in text
    assert "rows 5 and 77 are equal" in text
    assert "pass items=" in text
    z = mu + (0.5 * logvar).exp() * NOISE
    items = torch.arange(128)
    with pytest.warns(UserWarning, match="rows that repeat"):
        decompose(z, mu, logvar, 10_000)
    apart = decompose(z, mu, logvar, 10_000, items=items)
    items[77] = 5
    together = decompose(z, mu, logvar, 10_000, items=items)
    assert together.index_code_mi != apart.index_code_mi


def test_rows_that_differ_or_are_all_equal_are_silent():
    assert doubt_of_rows(MU, LOGVAR) is None
    assert doubt_of_rows(MU[:1].expand(9, -1), LOGVAR[:1].expand(9, -1)) is None
    assert doubt_of_rows(MU[:1].expand(9, -1), LOGVAR[:9]) is None


# Overflow beside finite input


@pytest.mark.parametrize("weights", [{}, {"beta": 6}, {"alpha": 0, "beta": 3, "gamma": 0}])
def test_an_exploded_log_variance_is_refused_by_name(weights):
    logvar = LOGVAR.clone()
    logvar[3, 2] = 95.0
    z = MU + (0.5 * logvar).exp() * NOISE
    with pytest.raises(ValueError, match=r"logvar.*row 3, column 2.*Clamp logvar.*float64"):
        TCDecomposition(**weights)(z, MU, logvar, 10_000)
    double = (t.double() for t in (z, MU, logvar))
    assert TCDecomposition(**weights)(*double, 10_000).isfinite()


def test_weights_of_zero_are_zero_with_gradients_of_zero():
    leaves = [t.clone().requires_grad_() for t in (MU, LOGVAR)]
    with torch.no_grad():
        leaves[1][3, 2] = 95.0
    z = leaves[0] + (0.5 * leaves[1]).exp() * NOISE
    loss = TCDecomposition(alpha=0, beta=0, gamma=0)(z, *leaves, 10_000)
    loss.backward()
    assert loss == 0
    assert all((leaf.grad == 0).all() for leaf in leaves)


# A prior of each item


@given(st.integers(0, 2**31))
def test_priors_that_differ_by_item(seed):
    g = torch.Generator().manual_seed(seed)
    mu, logvar, noise, loc, scale = torch.randn(5, 12, 3, generator=g, dtype=torch.float64)
    z = mu + (0.5 * logvar).exp() * noise
    prior = Normal(loc, scale.exp())
    terms = decompose(z, mu, logvar, 300, prior=prior, reduction="none", validate=False)
    plain = decompose(z, mu, logvar, 300, reduction="none", validate=False)
    assert_close(terms.index_code_mi, plain.index_code_mi)
    assert_close(terms.total_correlation, plain.total_correlation)
    log_ratio = Normal(0.0, 1.0).log_prob(z) - prior.log_prob(z)
    assert_close(terms.dimension_wise_kl, plain.dimension_wise_kl + log_ratio.sum(1))
    posterior = Normal(mu, (0.5 * logvar).exp())
    assert_close(terms.kl, torch.distributions.kl_divergence(posterior, prior).sum(1))
    labels = torch.arange(12) % 2
    sizes = {0: 150, 1: 150}
    given_label = decompose(
        z, mu, logvar, sizes, prior=prior, condition=labels, reduction="none", validate=False
    )
    rows = labels == 1
    part = decompose(
        z[rows],
        mu[rows],
        logvar[rows],
        150,
        prior=Normal(loc[rows], scale[rows].exp()),
        reduction="none",
        validate=False,
    )
    assert_close(given_label.dimension_wise_kl[rows], part.dimension_wise_kl)


def test_a_negated_z_is_told():
    mu, logvar = MU.double(), torch.full_like(MU, -42.0, dtype=torch.float64)
    assert "z does not look like a sample" in doubt(-mu, mu, logvar)


def test_the_default_dtype_changes_nothing():
    want = decompose(Z, MU, LOGVAR, 10_000)
    torch.set_default_dtype(torch.float64)
    try:
        got = decompose(Z, MU, LOGVAR, 10_000)
        leaf = MU.clone().requires_grad_()
        loss = TCDecomposition(beta=6)(leaf + STD * NOISE, leaf, LOGVAR, 10_000)
        loss.backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert loss.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
