"""tcdecomp_adapters.plain: modules that say themselves how they encode and where their KL is."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from tcdecomp import Posterior, TCDecomposition, attach, encode
from tcdecomp.plugins import NoAdapterError
from tcdecomp.plugins.attachment import Attachment
from tcdecomp.testing import check_attach, check_encode
from versions import compiles

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
    with pytest.raises(NoAdapterError, match=r"\(3\) give the model, .* a method encode\(batch\)"):
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
    with pytest.raises(NoAdapterError, match=r"\(2\) call criterion\(z, mu, logvar, dataset_size"):
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


def kl(mu, logvar):
    return kl_per_dimension(mu, logvar).sum(1)


def monte_carlo(z, mu, logvar):
    posterior, prior = Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)
    return (posterior.log_prob(z) - prior.log_prob(z)).sum(1)


def with_term(kl_loss):
    model = VAE()
    model.kl_loss = lambda z, mu, logvar: kl_loss(z, mu, logvar)
    # Long weights make the KL of the first batch large enough to be told from sampling noise.
    with torch.no_grad():
        model.encoder.weight.mul_(10)
    return model


# A term, and the options with which the criterion has its scale.
SCALES = {
    "sum over the batch": (lambda z, *q: kl(*q).sum(), {"reduction": "sum"}),
    "values for each row": (lambda z, *q: kl(*q), {"reduction": "none"}),
    "mean over dimensions": (
        lambda z, *q: kl_per_dimension(*q).mean(),
        {"alpha": 0.5, "beta": 0.5, "gamma": 0.5},
    ),
    "sum over the batch, mean over dimensions": (
        lambda z, *q: kl_per_dimension(*q).sum() / 2,
        {"reduction": "sum", "alpha": 0.5, "beta": 0.5, "gamma": 0.5},
    ),
    "a kld_weight": (
        lambda z, *q: 0.00025 * kl(*q).mean(),
        {"alpha": 0.00025, "beta": 0.00025, "gamma": 0.00025},
    ),
    "beta-VAE's": (lambda z, *q: 4 * kl(*q).mean(), {"alpha": 4, "beta": 4, "gamma": 4}),
}


@pytest.mark.parametrize(("term", "wanted"), SCALES.values(), ids=SCALES)
def test_a_term_on_another_scale_is_warned_of_once_by_a_remedy_that_works(term, wanted):
    model = with_term(term)
    handle = attach(model, TCDecomposition(), N)
    with pytest.warns(UserWarning, match=r"VAE.kl_loss gave .* give the criterion ") as caught:
        model.loss(X)
    assert caught[0].filename == __file__
    model.loss(X)  # once
    advice = str(caught[0].message).partition("give the criterion ")[2]
    options = eval(f"dict({advice})")
    assert options == wanted
    handle.detach()
    criterion = TCDecomposition(**options)
    attach(model, criterion, N)
    model.loss(X)  # warnings are errors
    mu, logvar = model.encode(X)
    batch = mu + (0.5 * logvar).exp() * torch.randn_like(mu), mu, logvar
    torch.testing.assert_close(criterion(*batch, N), term(*batch))


RIGHT = {
    "mean": (lambda z, *q: kl(*q).mean(), {"beta": 6}),
    "sum": (lambda z, *q: kl(*q).sum(), {"beta": 6, "reduction": "sum"}),
    "none": (lambda z, *q: kl(*q), {"beta": 6, "reduction": "none"}),
    "sampled": (lambda *batch: monte_carlo(*batch).mean(), {"beta": 6}),
    "a beta-VAE's, with its beta on the TC": (lambda z, *q: 6 * kl(*q).mean(), {"beta": 6}),
    "to the standard normal, beside a prior": (
        lambda z, *q: kl(*q).mean(),
        {"prior": Normal(1.0, 2.0)},
    ),
    "to the same prior": (lambda *batch: to_prior(*batch).mean(), {"prior": Normal(1.0, 2.0)}),
    "to a third prior": (lambda *batch: 3.3 * to_prior(*batch).mean(), {"prior": Normal(1.0, 1.0)}),
    "unchecked": (lambda z, *q: kl(*q).sum(), {"validate": False}),
}


def to_prior(z, mu, logvar):
    return kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(1.0, 2.0)).sum(1)


@pytest.mark.parametrize(("term", "options"), RIGHT.values(), ids=RIGHT)
def test_a_term_on_the_criterions_scale_is_not_warned_of(term, options):
    model = with_term(term)
    attach(model, TCDecomposition(**options), N)
    model.loss(X)


@pytest.mark.parametrize(
    ("term", "prior"), [(to_prior, Normal(1.0, 2.0)), (monte_carlo, None)], ids=["prior", "sampled"]
)
def test_a_sum_is_noticed_beside_a_prior_or_noise(term, prior):
    model = with_term(lambda *batch: term(*batch).sum())
    attach(model, TCDecomposition(prior=prior), N)
    with pytest.warns(UserWarning, match='give the criterion reduction="sum"$'):
        model.loss(X)


@pytest.mark.parametrize(
    "term",
    [lambda z, mu, logvar: 0.0, lambda z, *q: -kl(*q).mean(), lambda z, mu, _: mu.sum() * math.nan],
    ids=["nothing", "negative", "not a number"],
)
def test_a_term_that_no_options_match_is_warned_of_without_advice(term):
    model = with_term(term)
    attach(model, TCDecomposition(beta=6), N)
    with pytest.warns(UserWarning, match=r"gave \S+ where the criterion .* gives \S+, weighted$"):
        model.loss(X)


def test_a_term_of_an_odd_shape_is_warned_of():
    model = with_term(lambda z, mu, logvar: kl_per_dimension(mu, logvar))
    attach(model, TCDecomposition(), N)
    with pytest.warns(UserWarning, match=r"VAE.kl_loss gave shape \(32, 2\), and the criterion"):
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


def test_a_batch_without_kl_leaves_the_comparison_to_the_next():
    model = with_term(SCALES["sum over the batch"][0])
    attach(model, TCDecomposition(), N)
    zero = torch.zeros(32, 2)
    assert model.kl_loss(torch.randn(32, 2), zero, zero) == 0
    with pytest.warns(UserWarning, match='give the criterion reduction="sum"$'):
        model.loss(X)


@compiles
def test_nothing_is_compared_under_compile():
    model = with_term(SCALES["sum over the batch"][0])
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


def test_a_single_row_leaves_a_sum_to_the_next_batch():
    model = with_term(SCALES["sum over the batch"][0])
    attach(model, TCDecomposition(beta=6, estimator="inclusive"), N)
    model.loss(X[:1])
    with pytest.warns(UserWarning, match='give the criterion reduction="sum"$'):
        model.loss(X)
