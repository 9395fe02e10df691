"""tcdecomp_adapters.plain: modules that say themselves how they encode and where their KL is."""

import copy

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from tcdecomp import Posterior, TCDecomposition, attach, encode
from tcdecomp.attachment import Attachment
from tcdecomp.plugins import NoAdapterError
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
