"""tcdecomp_adapters.plain: modules that say themselves how they encode and where their KL is."""

import copy

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from tcdecomp import Posterior, TCDecomposition, attach, encode
from tcdecomp.plugins import NoAdapterError
from tcdecomp.plugins.attachment import Attachment
from tcdecomp.testing import check_attach, check_encode

X = torch.rand(32, 6, generator=torch.Generator().manual_seed(0))
N = 100


class VAE(nn.Module):
    """As its author would write it, without a thought of tcdecomp."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)

    def encode(self, x):
        return self.encoder(x).chunk(2, dim=1)

    def kl_loss(self, z, mu, logvar):
        return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1).mean()

    def loss(self, x):
        mu, logvar = self.encode(x)
        z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
        return (self.decoder(z) - x).square().sum(1).mean() + self.kl_loss(z, mu, logvar)


class WithNormal(VAE):
    def encode(self, x):
        mu, logvar = super().encode(x)
        return Independent(Normal(mu, (0.5 * logvar).exp()), 1)


class WithPosterior(VAE):
    def encode(self, x):
        return Posterior.from_moments(*super().encode(x))


@pytest.mark.parametrize("kind", [VAE, WithNormal, WithPosterior])
def test_encode_holds_to_the_contract(kind):
    check_encode(kind(), X)


def test_attach_holds_to_the_contract():
    check_attach(VAE(), lambda model: model.loss(X), N)


def test_a_submodule_is_a_seam_too():
    class KL(nn.Module):
        def forward(self, z, mu, logvar):
            return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1).mean()

    model = VAE()
    model.kl_loss = KL()
    check_attach(model, lambda model: model.loss(X), N)


def test_a_module_without_encode_is_not_the_adapters():
    with pytest.raises(NoAdapterError, match=r"\(2\) give the model, .* a method encode\(batch\)"):
        encode(nn.Linear(6, 4), X)


def test_an_encode_that_is_no_method_is_not_the_adapters():
    model = VAE()
    model.encode = "utf-8"
    with pytest.raises(NoAdapterError):
        encode(model, X)


def test_an_encode_that_forgets_to_return_is_an_error():
    model = VAE()
    model.encode = lambda x: None
    with pytest.raises(TypeError, match=r"VAE.encode must return a posterior; got None"):
        encode(model, X)


def test_a_module_without_the_seam_is_told_of_the_loop():
    with pytest.raises(NoAdapterError, match=r"\(1\) call criterion\(z, mu, logvar, dataset_size"):
        attach(nn.Linear(6, 4), TCDecomposition(), N)


@pytest.mark.parametrize(
    "kl_loss",
    [lambda self, mu, logvar: mu.sum(), lambda self, mu, logvar, z: mu.sum(), lambda *args: 0],
)
def test_a_seam_with_other_arguments_is_refused(kl_loss):
    model = type("Other", (VAE,), {"kl_loss": kl_loss})()
    with pytest.raises(TypeError, match=r"Other.kl_loss must take \(z, mu, logvar\), .*; got \("):
        attach(model, TCDecomposition(), N)
    assert Attachment.of(model) is None


def trained(model, steps=30):
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    torch.manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(X).backward()
        optimizer.step()
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


def test_training_attached_is_training_with_the_criterion():
    criterion = TCDecomposition(beta=6)
    by_hand = VAE()
    by_hand.kl_loss = lambda z, mu, logvar: criterion(z, mu, logvar, N)
    model = VAE()
    with attach(model, criterion, N):
        assert torch.equal(trained(model), trained(by_hand))
    assert not torch.equal(trained(VAE()), trained(by_hand))


def test_a_replica_of_data_parallel_has_the_loss_of_its_own_rows():
    model = VAE()
    handle = attach(model, TCDecomposition(beta=6), N)
    losses = []
    for module in (model, model._replicate_for_data_parallel()):
        torch.manual_seed(1)
        losses.append(module.loss(X[:16]))
    assert torch.equal(*losses)
    assert handle.terms() is not None
    handle.detach()
    assert "kl_loss" not in vars(model._replicate_for_data_parallel())


def test_a_deep_copy_trains_with_its_own_learned_prior():
    class Prior(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.ones(2))

        def forward(self):
            return Normal(self.loc, 1.0)

    model = VAE()
    attach(model, TCDecomposition(beta=6, prior=Prior()), N)
    other = copy.deepcopy(model)
    trained(other)
    assert Attachment.of(model).criterion.prior.loc.tolist() == [1, 1]
    assert Attachment.of(other).criterion.prior.loc.tolist() != [1, 1]


# The model's own term, compared with the KL


def kl_per_dimension(mu, logvar):
    return 0.5 * (mu**2 + logvar.exp() - 1 - logvar)


def monte_carlo(z, mu, logvar):
    posterior, prior = Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)
    return (posterior.log_prob(z) - prior.log_prob(z)).sum(1).mean()


OTHERS = {
    "sum over the batch": (lambda z, mu, logvar: kl_per_dimension(mu, logvar).sum(), "32"),
    "mean over dimensions": (lambda z, mu, logvar: kl_per_dimension(mu, logvar).mean(), "0.5"),
    "beta-VAE's": (lambda z, mu, logvar: 4 * kl_per_dimension(mu, logvar).sum(1).mean(), "4"),
    "sampled, twice": (lambda *batch: 2 * monte_carlo(*batch), r"[12]\.\d+"),
    "nothing": (lambda z, mu, logvar: 0.0, None),
    "negative": (lambda z, mu, logvar: -kl_per_dimension(mu, logvar).sum(1).mean(), None),
    "not a number": (lambda z, mu, logvar: mu.sum() * float("nan"), None),
}


def with_term(kl_loss):
    model = VAE()
    model.kl_loss = kl_loss
    # Long weights make the KL of the first batch large enough to be told from sampling noise.
    with torch.no_grad():
        model.encoder.weight.mul_(10)
    return model


@pytest.mark.parametrize(("kl_loss", "times"), OTHERS.values(), ids=OTHERS)
def test_a_term_that_is_not_the_kl_is_warned_of_once(kl_loss, times):
    model = with_term(lambda z, mu, logvar: kl_loss(z, mu, logvar))
    kl = kl_per_dimension(*model.encode(X)).sum(1).mean()
    attach(model, TCDecomposition(beta=6), N)
    advice = f" .*multiply its weights by {times}, or" if times else "$"  # no weights mend it
    message = rf"VAE.kl_loss gave \S+ for a batch whose KL is {kl:.4g} nats per item; .*\.{advice}"
    with pytest.warns(UserWarning, match=message) as caught:
        model.loss(X)
    assert caught[0].filename == __file__
    model.loss(X)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_term_that_is_the_kl_is_not_warned_of(reduction):
    reduced = {"mean": torch.mean, "sum": torch.sum, "none": lambda kl: kl}[reduction]
    model = with_term(lambda z, mu, logvar: reduced(kl_per_dimension(mu, logvar).sum(1)))
    attach(model, TCDecomposition(beta=6, reduction=reduction), N)
    model.loss(X)


def test_a_sampled_kl_is_not_warned_of():
    model = with_term(monte_carlo)
    attach(model, TCDecomposition(beta=6), N)
    model.loss(X)


def test_a_term_of_another_shape_is_warned_of():
    model = with_term(lambda z, mu, logvar: kl_per_dimension(mu, logvar).sum(1))
    attach(model, TCDecomposition(), N)
    message = r"VAE.kl_loss gave shape \(32,\); the criterion .* gives \(\) with reduction='mean'"
    with pytest.warns(UserWarning, match=message):
        model.loss(X)


def raising(z, mu, logvar):
    raise RuntimeError("not without a trainer")


@pytest.mark.parametrize(
    ("kl_loss", "error"),
    [
        (raising, "RuntimeError: not without a trainer"),
        (lambda z, mu, logvar: {"kl": mu.sum()}, "RuntimeError: Could not infer dtype of dict"),
    ],
)
def test_a_term_that_cannot_be_compared_is_warned_of_and_replaced(kl_loss, error):
    model = with_term(lambda z, mu, logvar: kl_loss(z, mu, logvar))
    handle = attach(model, TCDecomposition(beta=6), N)
    message = f"VAE.kl_loss could not be compared with the KL: {error}"
    with pytest.warns(UserWarning, match=message) as caught:
        model.loss(X)
    assert caught[0].filename == __file__
    model.loss(X)
    assert handle.terms() is not None


@pytest.mark.parametrize("options", [{"prior": Normal(1.0, 2.0)}, {"validate": False}])
def test_with_a_prior_or_unchecked_nothing_is_compared(options):
    model = with_term(OTHERS["sum over the batch"][0])
    attach(model, TCDecomposition(**options), N)
    model.loss(X)


def test_a_batch_without_kl_leaves_the_comparison_to_the_next():
    model = with_term(OTHERS["sum over the batch"][0])
    attach(model, TCDecomposition(), N)
    zero = torch.zeros(32, 2)
    assert model.kl_loss(torch.randn(32, 2), zero, zero) == 0
    with pytest.warns(UserWarning, match="multiply its weights by 32"):
        model.loss(X)


def test_nothing_is_compared_under_compile():
    model = with_term(OTHERS["sum over the batch"][0])
    attach(model, TCDecomposition(), N)
    compiled = torch.compile(model.loss, backend="eager", fullgraph=True)
    with torch.no_grad():
        compiled(X)


def test_the_comparison_leaves_random_numbers_and_gradients_alone():
    grad_modes = []

    def noisy(z, mu, logvar):
        grad_modes.append(torch.is_grad_enabled())
        return kl_per_dimension(mu, logvar).sum(1).mean() + 0 * torch.randn(())

    model = with_term(noisy)
    attach(model, TCDecomposition(), N)
    torch.manual_seed(0)
    model.loss(X).backward()
    after = torch.get_rng_state()
    torch.manual_seed(0)
    torch.randn(32, 2)
    assert torch.equal(after, torch.get_rng_state())
    assert grad_modes == [False]


def test_a_single_row_is_compared_where_the_criterion_takes_it():
    model = with_term(OTHERS["mean over dimensions"][0])
    attach(model, TCDecomposition(beta=6, estimator="inclusive"), N)
    with pytest.warns(UserWarning, match=r"multiply its weights by 0\.5"):
        model.loss(X[:1])
