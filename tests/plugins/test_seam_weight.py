"""The weight of the KL in a loss: measured by one backward, refused where there is not one."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Normal

from structures import DIM, PIXELS, images, sample, squared_error
from tcdecomp import Posterior, Seam, TCDecomposition, attach
from tcdecomp.plugins.seam.fit import Fit
from tcdecomp.plugins.seam.weight import FULL, QUICK, KLWeight

N = 1000
X = images()

REDUCTIONS = {
    "mean": (lambda kl: kl.sum(1).mean(), 1.0),
    "sum": (lambda kl: kl.sum(), 32.0),
    "mean over dimensions": (lambda kl: kl.mean(), 1 / DIM),
}


def kl_j(mu, logvar):
    return 0.5 * (mu**2 + logvar.exp() - 1 - logvar)


class VAE(nn.Module):
    """A VAE whose KL term is a function of the KL of each item and dimension."""

    def __init__(self, term=lambda kl: kl.sum(1).mean(), spread=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(PIXELS, 2 * DIM)
        self.decoder = nn.Sequential(nn.Linear(DIM, 8), nn.Tanh(), nn.Linear(8, PIXELS))
        with torch.no_grad():
            self.encoder.weight.mul_(spread)
        self.term = term

    def extra(self, z, mu, logvar):
        return 0.0

    def loss(self, x):
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        z = sample(mu, logvar)
        term = self.term(kl_j(mu, logvar)) + self.extra(z, mu, logvar)
        return squared_error(x, self.decoder(z)) + term


SEAM = Seam("encoder", "decoder", loss="loss")


def attached(model, criterion=None, seam=SEAM):
    return attach(model, criterion or TCDecomposition(beta=6), N, seam=seam)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("factor", [1e-6, 0.00025, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_measures_the_weight(reduction, factor, dtype):
    reduce, weight = REDUCTIONS[reduction]
    model = VAE(lambda kl: factor * reduce(kl)).to(dtype)
    handle = attached(model)
    model.loss(X.to(dtype))
    assert handle.kl_weight == pytest.approx(factor * weight, rel=1e-4)


@given(
    exponent=st.floats(-6, 3),
    scale=st.sampled_from(["logvar", "log_sd", "sd", "variance", "softplus"]),
    reduction=st.sampled_from(sorted(REDUCTIONS)),
    seed=st.integers(0, 99),
)
def test_measures_it_however_the_spread_is_written(exponent, scale, reduction, seed):
    reduce, weight = REDUCTIONS[reduction]
    factor = 10**exponent
    to_sd = {
        "logvar": lambda raw: (raw / 2).exp(),
        "log_sd": torch.exp,
        "sd": lambda raw: raw,
        "variance": torch.sqrt,
        "softplus": nn.functional.softplus,
    }[scale]

    class Encoder(nn.Linear):
        def forward(self, x):
            mu, raw = super().forward(x).chunk(2, dim=1)
            return mu, raw.exp() if scale in ("sd", "variance") else raw

    class Model(VAE):
        def loss(self, x):
            mu, raw = self.encoder(x)
            sd = to_sd(raw)
            z = mu + sd * torch.randn_like(mu)
            kl = torch.distributions.kl_divergence(Normal(mu, sd), Normal(0.0, 1.0))
            return squared_error(x, self.decoder(z)) + factor * reduce(kl)

    model = Model()
    torch.manual_seed(seed)
    model.encoder = Encoder(PIXELS, 2 * DIM)
    handle = attached(model, seam=Seam("encoder", "decoder", scale, "loss"))
    model.loss(X)
    assert handle.kl_weight == pytest.approx(factor * weight, rel=1e-4)


def test_half_precision_is_measured_to_its_rounding():
    model = VAE(lambda kl: 0.25 * kl.float().sum(1).mean(), spread=3.0).bfloat16()
    handle = attached(model)
    model.loss(X.bfloat16())
    assert handle.kl_weight == pytest.approx(0.25, rel=2e-2)


@pytest.mark.parametrize(
    ("term", "text"),
    [
        (lambda kl: kl.sum(1).mean(), "holds the KL, mean over the batch>"),
        (lambda kl: kl.sum(), "holds the KL, summed over the batch of 32>"),
        (lambda kl: kl.mean(), "holds the KL, mean over the batch and over the 3 dimensions>"),
        (lambda kl: 2.5e-4 * kl.sum(1).mean(), "holds 0.00025 x the KL, mean over the batch>"),
    ],
)
def test_says_it_in_words(term, text):
    model = VAE(term)
    handle = attached(model)
    assert "its loss holds a KL whose weight is not known yet>" in repr(handle)
    model.loss(X)
    assert repr(handle).endswith(text)


class FreeBits(VAE):
    def __init__(self, floor, **options):
        super().__init__(lambda kl: kl.mean(0).clamp(min=floor).sum(), **options)


class Floor(VAE):
    def __init__(self, floor, **options):
        super().__init__(lambda kl: kl.sum(1).mean().clamp(min=floor), **options)


class Capacity(VAE):
    def __init__(self, capacity, **options):
        super().__init__(lambda kl: 10 * (kl.sum(1).mean() - capacity).abs(), **options)


NOT_ONE = {
    "free bits below": lambda: FreeBits(0.5),
    "free bits above": lambda: FreeBits(0.5, spread=20.0),
    "floor below": lambda: Floor(3.0),
    "floor above": lambda: Floor(3.0, spread=20.0),
    "capacity below": lambda: Capacity(5.0),
    "capacity above": lambda: Capacity(5.0, spread=20.0),
    "squared": lambda: VAE(lambda kl: kl.sum(1).mean() ** 2),
    "adapted": lambda: VAE(lambda kl: kl.sum(1).mean() / kl.sum(1).mean().detach()),
}


@pytest.mark.parametrize("name", NOT_ONE)
def test_refuses_a_weight_that_changes_with_the_kl(name):
    model = NOT_ONE[name]()
    attached(model)
    with pytest.raises(ValueError, match=r"whatever it is, .* below 0; got a weight of .* nats"):
        model.loss(X)


def test_refuses_a_negative_weight_at_this_kl():
    model = Capacity(5.0)
    handle = attached(model, seam=Seam("encoder", "decoder"))
    with pytest.raises(ValueError, match=r"not below 0; got a weight of -10 at 0\.\d+ nats"):
        handle.loss(model.loss(X))


class OwnTC(VAE):
    def extra(self, z, mu, logvar):
        return 5 * TCDecomposition(alpha=0, gamma=0).forward(z, mu, logvar, N)


class MMD(VAE):
    def extra(self, z, mu, logvar):
        def kernel(a, b):
            return (-torch.cdist(a, b).square() / 2).exp().mean()

        prior = torch.randn_like(z)
        return kernel(z, z) + kernel(prior, prior) - 2 * kernel(z, prior)


class Critic(VAE):
    def __init__(self):
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(DIM, 8), nn.ReLU(), nn.Linear(8, 1))

    def extra(self, z, mu, logvar):
        return self.critic(z).mean()


class OtherPrior(VAE):
    def loss(self, x):
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        posterior = Normal(mu, (0.5 * logvar).exp())
        kl = torch.distributions.kl_divergence(posterior, Normal(1.0, 2.0)).sum(1).mean()
        return squared_error(x, self.decoder(posterior.rsample())) + kl


class Sampled(VAE):
    def loss(self, x):
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        posterior = Normal(mu, (0.5 * logvar).exp())
        z = posterior.rsample()
        kl = (posterior.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(1).mean()
        return squared_error(x, self.decoder(z)) + 0.5 * kl


@pytest.mark.parametrize("kind", [OwnTC, MMD, Critic, OtherPrior])
def test_refuses_what_is_not_the_kl(kind):
    model = kind()
    attached(model)
    with pytest.raises(ValueError, match=r"a multiple of the criterion's KL, .*; \d.*% of its"):
        model.loss(X)


def test_another_prior_may_be_the_criterions():
    model = OtherPrior()
    handle = attached(model, TCDecomposition(beta=6, prior=Normal(torch.ones(DIM), 2.0)))
    model.loss(X)
    assert handle.kl_weight == pytest.approx(1, rel=1e-4)


def test_a_sampled_kl_may_be_the_criterions():
    model = Sampled()
    attached(model)
    with pytest.raises(ValueError, match=r"from the sample z: TCDecomposition\(kl='sampl"):
        model.loss(X)
    model = Sampled()
    handle = attached(model, TCDecomposition(beta=6, kl="sampled"))
    model.loss(X)
    assert handle.kl_weight == pytest.approx(0.5, rel=1e-4)


class Annealed(VAE):
    def __init__(self, schedule):
        super().__init__()
        self.schedule, self.step = schedule, 0

    def loss(self, x):
        self.weight = self.schedule(self.step)
        self.step += 1
        self.term = lambda kl: self.weight * kl.sum(1).mean()
        return super().loss(x)


def test_an_annealed_weight_is_followed():
    model = Annealed(lambda step: min(1.0, 0.1 + 0.02 * step))
    handle = attached(model)
    for _ in range(80):
        model.loss(X)
        assert handle.kl_weight == pytest.approx(model.weight, rel=1e-3)
    assert model.step == 80


def test_a_late_change_is_seen_within_ten_steps():
    model = Annealed(lambda step: 1.0 if step < 35 else 0.5)
    handle = attached(model)
    weights = [(model.loss(X), handle.kl_weight)[1] for _ in range(60)]
    assert weights[:35] == pytest.approx([1.0] * 35, rel=1e-4)
    assert weights[35 + QUICK :] == pytest.approx([0.5] * 15, rel=1e-4)


def test_a_weight_of_0_is_told_once_and_measured_again():
    model, plain = Annealed(lambda step: float(step >= 13)), Annealed(lambda step: 0.0)
    handle = attached(model)

    def loss_of(module):
        torch.manual_seed(0)
        return module.loss(X)

    with pytest.warns(UserWarning, match="the loss holds no KL in this step") as record:
        losses = [loss_of(model) for _ in range(13)]
    assert len(record) == 1
    assert all(torch.equal(loss, loss_of(plain)) for loss in losses)
    assert handle.kl_weight == 0
    model.loss(X)
    assert handle.kl_weight == pytest.approx(1)


def test_the_sum_of_a_smaller_batch_has_a_smaller_weight():
    model = VAE(lambda kl: kl.sum())
    handle = attached(model)
    weights = []
    for step in range(40):
        model.loss(X[:20] if step % 16 == 15 else X)
        weights.append(handle.kl_weight)
    assert weights == pytest.approx([20 if s % 16 == 15 else 32 for s in range(40)], rel=1e-4)


def test_the_last_batches_of_a_warm_up_are_measured_again_after_it():
    """They have a size of their own, and never come at a tenth step."""
    model = Annealed(lambda step: min(1.0, (step + 1) / 60))
    handle = attached(model)
    for step in range(4 * 25):
        model.loss(X[:24] if step % 25 == 24 else X)
        assert handle.kl_weight == pytest.approx(model.weight, rel=1e-3)


def test_changes_smaller_than_the_error_add_up():
    weight = KLWeight()
    for step in range(500):
        true = 1.0 + 0.002 * step
        fit = Fit(1.0, true, error=0.05)
        rows = 24 if step % 25 == 24 else 32
        got = weight.measured((rows, DIM), lambda fit=fit: fit, None)
        assert got == pytest.approx(true, rel=0.08)  # the error, and ten steps


@pytest.mark.parametrize("stated", [0.25, lambda: 0.25, lambda step: 0.25 + 0 * step])
def test_a_stated_weight_is_checked(stated):
    right = VAE(lambda kl: 0.25 * kl.sum(1).mean())
    handle = attached(right, seam=Seam("encoder", "decoder", loss="loss", kl_weight=stated))
    right.loss(X)
    assert handle.kl_weight == 0.25
    wrong = VAE()
    attached(wrong, seam=Seam("encoder", "decoder", loss="loss", kl_weight=stated))
    with pytest.raises(ValueError, match=r"kl_weight must be .*, 1 for its .*; got 0.25. Leave"):
        wrong.loss(X)


def test_a_stated_schedule_is_used_in_every_step():
    schedule = lambda step: 0.1 + 0.01 * step  # noqa: E731
    model = Annealed(schedule)
    handle = attached(model, seam=Seam("encoder", "decoder", loss="loss", kl_weight=schedule))
    for step in range(2 * QUICK + 5):
        model.loss(X)
        assert handle.kl_weight == schedule(step)


def test_moments_equal_to_the_prior_tell_nothing_and_add_nothing():
    model = VAE()
    nn.init.zeros_(model.encoder.weight)
    nn.init.zeros_(model.encoder.bias)
    handle = attached(model)
    loss = model.loss(X)
    # The moved moments tell all the same.
    assert handle.kl_weight == pytest.approx(1, rel=1e-4)
    assert math.isfinite(loss.item())


def test_collapse_does_not_end_a_training():
    model = VAE(spread=1e-6)
    nn.init.normal_(model.encoder.bias, std=1e-6)
    handle = attached(model)
    for _ in range(3):
        model.loss(X)
    assert handle.kl_weight == pytest.approx(1, rel=1e-3)


def test_the_model_runs_again_once_in_a_hundred_steps():
    model = VAE()
    runs = []
    model.decoder.register_forward_hook(lambda *_: runs.append(1))
    attached(model)
    for _ in range(FULL):
        model.loss(X)
    assert len(runs) == FULL + 3


def closed(z, mu, logvar):
    return kl_j(mu, logvar).sum(1).mean()


def of_the_samples(z, mu, logvar):
    log_q = Normal(mu, (0.5 * logvar).exp()).log_prob(z)
    return (log_q - Normal(0.0, 1.0).log_prob(z)).sum(-1).mean()


@pytest.mark.parametrize("samples", [(), (2,)])
@pytest.mark.parametrize(
    ("kind", "term", "other"),
    [("closed", closed, of_the_samples), ("sampled", of_the_samples, closed)],
)
def test_a_kl_of_the_other_kind_is_named(kind, term, other, samples):
    torch.manual_seed(0)
    mu, logvar = (torch.randn(16, DIM, requires_grad=True) for _ in range(2))
    z = mu + (0.5 * logvar).exp() * torch.randn(*samples, 16, DIM)
    posterior, criterion = Posterior(z, mu, logvar), TCDecomposition(beta=6, kl=kind)

    def weight(kl):
        return KLWeight().of_posterior(z.sin().mean() + 0.25 * kl(*posterior), posterior, criterion)

    assert weight(term) == pytest.approx(0.25, rel=1e-4)
    remedy = {"closed": "sampled", "sampled": "closed"}[kind]
    with pytest.raises(ValueError, match=rf"TCDecomposition\(kl='{remedy}'\)"):
        weight(other)


def test_beside_a_posterior_without_a_graph_the_weight_is_1_with_a_warning():
    posterior = Posterior(torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(4, 2))
    loss = torch.ones((), requires_grad=True) * 2
    with pytest.warns(UserWarning, match="cannot be measured in this step, .* taken to be 1"):
        assert KLWeight().of_posterior(loss, posterior, TCDecomposition()) == 1
