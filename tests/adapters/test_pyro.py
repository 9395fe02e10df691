"""tcdecomp_adapters.pyro: attach to the ELBO of an SVI."""

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer, poutine
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.nn import PyroModule
from pyro.optim import SGD
from torch import nn
from torch.distributions import Normal

import reference
from tcdecomp import TCDecomposition, attach, encode
from tcdecomp.plugins import NoAdapterError
from tcdecomp.plugins.attachment import Attachment
from tcdecomp.testing import check_attach, check_encode
from tolerances import assert_close

N = 40
DATA = torch.rand(N, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
X = DATA[:8]
PRIOR = dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1)


@pytest.fixture(autouse=True)
def _fresh_store():
    """Clear pyro's parameters, which are global, and leave torch's random numbers as they were."""
    with torch.random.fork_rng():
        yield
    pyro.clear_param_store()


class VAE:
    """Model and guide as pyro's users write them: functions of the batch.

    ``plate`` takes the batch and opens the plate; ``weight`` anneals the KL.
    """

    def __init__(self, plate=None, weight=1.0, prior=PRIOR):
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(6, 4).double(), nn.Linear(2, 6).double()
        with torch.no_grad():  # posteriors apart from each other, so that the terms are not near 0
            self.encoder.weight[:2] *= 10
            self.encoder.bias[2:] -= 4
        self.plate = plate or (lambda x: pyro.plate("data", len(x)))
        self.weight, self.prior = weight, prior

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with self.plate(x):
            with poutine.scale(scale=self.weight):
                z = pyro.sample("z", self.prior)
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        with self.plate(x), poutine.scale(scale=self.weight):
            pyro.sample("z", self.posterior(mu, (0.5 * logvar).exp()))

    def posterior(self, mu, scale):
        return dist.Normal(mu, scale).to_event(1)

    def loss(self, elbo, x=X):
        pyro.set_rng_seed(1)
        return elbo.differentiable_loss(self.model, self.guide, x)

    def gradient(self, loss):
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    def excess(self, criterion, size=N, x=X):
        """Return the sum of the rows' excess, by hand, at the z that pyro draws."""
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        pyro.set_rng_seed(1)
        z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
        return len(x) * criterion.excess_of(z, mu, logvar, size)


def subsampled(x):
    return pyro.plate("data", N, subsample=x)


@pytest.mark.parametrize("plate", [None, subsampled])
def test_attach_holds_to_the_contract(plate):
    vae = VAE(plate)
    check_attach(
        TraceMeanField_ELBO(),
        lambda elbo: elbo.differentiable_loss(vae.model, vae.guide, X),
        N,
        kl_weight=N if plate else len(X),
        stated=plate is subsampled,
    )


@pytest.mark.parametrize("plate", [None, subsampled])
@pytest.mark.parametrize("weight", [1.0, torch.tensor(0.25), torch.tensor([0.5])])
@pytest.mark.parametrize("weights", [{}, {"beta": 6}, {"alpha": 0, "beta": 3, "gamma": 2}])
def test_loss_and_gradient_have_the_rows_excess_at_pyros_scale(plate, weight, weights):
    vae, criterion = VAE(plate, weight), TCDecomposition(**weights)
    plain = vae.loss(TraceMeanField_ELBO())
    elbo = TraceMeanField_ELBO()
    attach(elbo, criterion, N)
    loss = vae.loss(elbo)
    by_hand = float(weight) * (N / len(X) if plate else 1) * vae.excess(criterion)
    assert_close(loss, plain + by_hand)
    assert loss.shape == ()
    assert (by_hand.abs() > 1) == bool(weights)
    assert_close(vae.gradient(loss), vae.gradient(plain + by_hand))


def test_the_excess_is_the_papers_total_correlation():
    vae, elbo = VAE(subsampled), TraceMeanField_ELBO()
    plain = vae.loss(elbo)
    mu, logvar = vae.encoder(X).chunk(2, dim=1)
    pyro.set_rng_seed(1)
    z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
    _, tc, _ = reference.terms(z.tolist(), mu.tolist(), logvar.tolist(), N, reference.mss_row)
    attach(elbo, TCDecomposition(beta=6))
    assert_close(vae.loss(elbo), plain + N / len(X) * 5 * sum(tc))


def svi_losses(elbo, plate=None, steps=10):
    """Return the losses of some steps over random batches, and the parameters after them."""
    pyro.clear_param_store()
    vae = VAE(plate)
    svi = SVI(vae.model, vae.guide, SGD({"lr": 1e-4}), loss=elbo)
    pyro.set_rng_seed(2)
    losses = [svi.step(DATA[torch.randperm(N)[:8]]) for _ in range(steps)]
    parameters = [*vae.encoder.parameters(), *vae.decoder.parameters()]
    return torch.tensor(losses), torch.cat([p.detach().flatten() for p in parameters])


@pytest.mark.parametrize("plate", [None, subsampled])
def test_svi_with_weights_of_1_trains_as_without(plate):
    elbo = TraceMeanField_ELBO()
    losses, parameters = svi_losses(elbo, plate)
    with attach(elbo, TCDecomposition(), N):
        same_losses, same = svi_losses(elbo, plate)
    assert_close(same_losses, losses)
    assert_close(same, parameters)
    with attach(elbo, TCDecomposition(beta=6), N):
        _, other = svi_losses(elbo, plate)
    assert (other - parameters).abs().max() > 1e-3
    assert_close(svi_losses(elbo, plate)[1], parameters)


def test_equal_weights_of_4_train_as_a_beta_vae():
    class Annealed(VAE):
        def __init__(self, plate):
            super().__init__(plate, weight=4.0)

    def parameters_of(vae, elbo):
        pyro.clear_param_store()
        svi = SVI(vae.model, vae.guide, SGD({"lr": 1e-4}), loss=elbo)
        pyro.set_rng_seed(2)
        losses = [svi.step(DATA[:8]) for _ in range(5)]
        return torch.cat([torch.tensor(losses), vae.encoder.weight.detach().flatten()])

    elbo = TraceMeanField_ELBO()
    attach(elbo, TCDecomposition(alpha=4, beta=4, gamma=4), N)
    expected = parameters_of(Annealed(None), TraceMeanField_ELBO())
    assert_close(parameters_of(VAE(), elbo), expected)


def test_attach_reaches_an_svi_made_before_and_a_module_of_the_elbo():
    elbo, criterion, vae = TraceMeanField_ELBO(), TCDecomposition(beta=6), VAE()
    svi = SVI(vae.model, vae.guide, SGD({"lr": 0}), loss=elbo)
    pyro.set_rng_seed(1)
    plain = svi.evaluate_loss(X)
    attach(elbo, criterion, N)
    for loss in (svi.evaluate_loss, svi.step):
        pyro.set_rng_seed(1)
        assert_close(loss(X), plain + vae.excess(criterion).item())
    module = elbo(_module(vae.model), _module(vae.guide))
    pyro.set_rng_seed(1)
    assert_close(module(X), plain + vae.excess(criterion))


def _module(function):
    module = nn.Module()
    module.forward = function
    return module


def test_particles_are_averaged():
    vae, criterion = VAE(), TCDecomposition(beta=6)
    elbo = TraceMeanField_ELBO(num_particles=2)
    plain = vae.loss(elbo)
    attach(elbo, criterion, N)
    mu, logvar = vae.encoder(X).chunk(2, dim=1)
    pyro.set_rng_seed(1)
    draws = [mu + (0.5 * logvar).exp() * torch.randn_like(mu) for _ in range(2)]
    excess = sum(criterion.excess_of(z, mu, logvar, N) for z in draws) / 2
    assert_close(vae.loss(elbo), plain + len(X) * excess)


# N


def test_a_plate_that_subsamples_states_n():
    vae, criterion, elbo = VAE(subsampled), TCDecomposition(beta=6), TraceMeanField_ELBO()
    plain = vae.loss(elbo)
    handle = attach(elbo, criterion)
    assert_close(vae.loss(elbo), plain + N / len(X) * vae.excess(criterion))
    assert handle.terms().total_correlation > 0


def test_another_n_than_the_plates_is_refused():
    elbo = TraceMeanField_ELBO()
    attach(elbo, TCDecomposition(), N + 1)
    with pytest.raises(ValueError, match=r"left out of .* for its training set, 40; got 41"):
        VAE(subsampled).loss(elbo)


def test_a_plate_of_the_batch_does_not_state_n():
    elbo = TraceMeanField_ELBO()
    attach(elbo, TCDecomposition())
    with pytest.raises(ValueError, match=r"dataset_size must be given to attach, since TraceMean"):
        VAE().loss(elbo)


# What is refused


@pytest.mark.parametrize(
    "model",
    [
        infer.Trace_ELBO(),
        infer.TraceGraph_ELBO(),
        infer.JitTraceMeanField_ELBO(),
        infer.RenyiELBO(num_particles=2),
        SVI(VAE().model, VAE().guide, SGD({"lr": 0}), loss=TraceMeanField_ELBO()),
        TraceMeanField_ELBO()(nn.Identity(), nn.Identity()),
    ],
    ids=lambda model: type(model).__name__,
)
def test_attach_wants_the_elbo_with_the_closed_form_kl(model):
    with pytest.raises(TypeError, match=rf"model must be the TraceM.*; got {type(model).__name__}"):
        attach(model, TCDecomposition(), N)
    assert Attachment.of(model) is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"prior": Normal(0.0, 2.0)}, r"criterion must have prior=None with pyro"),
        ({"reduction": "sum"}, r"criterion must have reduction=\"mean\" with pyro; got 'sum'"),
    ],
)
def test_attach_wants_the_models_prior_and_a_mean(options, text):
    elbo = TraceMeanField_ELBO()
    with pytest.raises(ValueError, match=text):
        attach(elbo, TCDecomposition(**options), N)
    assert Attachment.of(elbo) is None


class TwoLatents(VAE):
    def model(self, x):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        super().model(x)

    def guide(self, x):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        super().guide(x)


class NoLatent(VAE):
    def model(self, x):
        pyro.sample("x", dist.Normal(x, 1.0).to_event(2), obs=x)

    def guide(self, x):
        pass


class WithoutPlate(VAE):
    def model(self, x):
        z = pyro.sample("z", self.prior.expand([len(x)]).to_event(1))
        pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(2), obs=x)

    def guide(self, x):
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        pyro.sample("z", dist.Normal(mu, (0.5 * logvar).exp()).to_event(2))


class Masked(VAE):
    def model(self, x):
        with poutine.mask(mask=torch.arange(len(x)) > 0):
            super().model(x)

    def guide(self, x):
        with poutine.mask(mask=torch.arange(len(x)) > 0):
            super().guide(x)


class Laplace(VAE):
    def posterior(self, mu, scale):
        return dist.Laplace(mu, scale).to_event(1)


class Spatial(VAE):
    def __init__(self):
        super().__init__(prior=dist.Normal(torch.zeros(1, 2), 1.0).to_event(2))

    def posterior(self, mu, scale):
        return dist.Normal(mu[:, None], scale[:, None]).to_event(2)

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", self.prior)
            pyro.sample("x", dist.Normal(self.decoder(z[:, 0]), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("vae", "text"),
    [
        (TwoLatents(), r"the guide must have one latent site; got \['w', 'z'\]"),
        (NoLatent(), r"the guide must have one latent site; got \[\]"),
        (WithoutPlate(), r"site 'z' of the guide must .*2 event dim.* plates \[\]"),
        (Spatial(), r"site 'z' of the guide must .*; got 2 event dimensions"),
        (Masked(), r"site 'z' of the guide must .*, with one scale .* and no mask"),
        (
            VAE(weight=torch.linspace(0.1, 1, 8)),
            r"site 'z' of the guide must .*, with one scale for all rows",
        ),
        (Laplace(), r"site 'z' of the guide must be Normal\(mu.*; got Laplace"),
        (
            VAE(prior=dist.Normal(torch.zeros(2), 2.0).to_event(1)),
            r"site 'z' of the model must be Normal\(0, 1\).to_event\(1\), .* another mean or scale",
        ),
        (
            VAE(prior=dist.Normal(torch.ones(2), 1.0).to_event(1)),
            r"site 'z' of the model must be Normal\(0, 1\).to_event\(1\)",
        ),
        (
            VAE(prior=dist.Laplace(torch.zeros(2), 1.0).to_event(1)),
            r"site 'z' of the model must be Normal\(0, 1\).*; got Laplace",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, VAE) else "",
)
def test_what_the_excess_does_not_hold_for_is_refused_in_the_step(vae, text):
    elbo = TraceMeanField_ELBO()
    attach(elbo, TCDecomposition(), N)
    with pytest.raises(ValueError, match=text):
        vae.loss(elbo)


def test_vectorized_particles_are_refused():
    elbo = TraceMeanField_ELBO(num_particles=2, vectorize_particles=True)
    attach(elbo, TCDecomposition(), N)
    with pytest.raises(ValueError, match=r"in the plates \['num_particles_vectorized', 'data'\]"):
        VAE().loss(elbo)


# The handle


def test_terms_are_those_of_the_last_batch_in_nats_per_item():
    vae, criterion, elbo = VAE(subsampled), TCDecomposition(beta=6), TraceMeanField_ELBO()
    handle = attach(elbo, criterion)
    assert handle.terms() is None
    vae.loss(elbo)
    mu, logvar = vae.encoder(X).chunk(2, dim=1)
    assert_close(handle.terms().kl, sum(reference.kl(mu.tolist(), logvar.tolist())) / len(X))
    assert_close(criterion.excess(handle.terms()) * len(X), vae.excess(criterion))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda elbo: pickle.loads(pickle.dumps(elbo))])
def test_a_copy_carries_an_attachment_of_its_own(copied):
    vae, elbo = VAE(), TraceMeanField_ELBO()
    plain = vae.loss(elbo)
    attach(elbo, TCDecomposition(beta=6), N)
    other = copied(elbo)
    Attachment.of(elbo).detach()
    assert_close(vae.loss(elbo), plain)
    assert_close(vae.loss(other), plain + vae.excess(TCDecomposition(beta=6)))


# Modules of pyro


class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(6, 4)

    def encode(self, x):
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        return dist.Normal(mu, (0.5 * logvar).exp()).to_event(1)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.encode(x))


def test_a_pyro_module_with_encode_is_served_as_a_plain_module():
    check_encode(Guide(), X.float())
    assert encode(Guide(), X.float()).mu.shape == (8, 2)


def test_a_pyro_module_is_not_attached_to():
    with pytest.raises(NoAdapterError, match=r"tcdecomp_attach for a model of type .*Guide"):
        attach(Guide(), TCDecomposition(), N)
