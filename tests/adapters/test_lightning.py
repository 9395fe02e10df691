"""TCVAE, and the end-to-end promises, for both of Lightning's packages."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Laplace, Normal, kl_divergence

from lightning_models import (
    DIM,
    PIXELS,
    SIZE,
    WARNINGS,
    Encoder,
    data,
    loader,
    outsiders,
    vae,
    weights,
)
from tcdecomp import TCDecomposition, attach, encode
from tcdecomp.testing import check_encode

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]

X, FACTORS = data(16).tensors


class Prior(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.ones(DIM))

    def forward(self):
        return Normal(self.loc, 1.0)


def fit(pl, model, *loaders, **options):
    torch.manual_seed(1)
    trainer = pl.Trainer(**options)
    trainer.fit(model, loader(shuffle=True), *loaders)
    return trainer


# The promise: one line


def test_an_outsiders_module_trains_with_one_changed_line(pl):
    criterion = TCDecomposition(beta=6)

    class Changed(outsiders(pl)):
        def kl(self, z, mu, logvar):
            return criterion(z, mu, logvar, SIZE)

    by_line, by_attach, plain = Changed(), outsiders(pl)(), outsiders(pl)()
    attach(by_attach, TCDecomposition(beta=6), SIZE)
    for model in (by_line, by_attach, plain):
        fit(pl, model)
    torch.testing.assert_close(weights(by_attach), weights(by_line))
    assert not torch.allclose(weights(plain), weights(by_line))


def test_the_ready_vae_is_the_outsiders(pl):
    ready, written = vae(pl, TCDecomposition(), lr=0.01), outsiders(pl)()
    for model in (ready, written):
        fit(pl, model)
    torch.testing.assert_close(weights(ready), weights(written))


# TCVAE


@pytest.mark.parametrize("batch", [X, [X, FACTORS], (X,)], ids=["tensor", "pair", "single"])
def test_encode_holds_to_the_contract(pl, batch):
    check_encode(vae(pl, TCDecomposition()), batch)


@pytest.mark.parametrize("wrapper", [partial(torch.compile, backend="eager"), nn.DataParallel])
def test_encode_finds_a_wrapped_one(pl, wrapper):
    model = vae(pl, TCDecomposition())
    torch.testing.assert_close(encode(wrapper(model), X).mu, model.encoder(X)[0])


def test_it_trains_and_logs(pl):
    model = vae(pl, TCDecomposition(beta=6))
    before = weights(model)
    metrics = fit(pl, model, loader()).callback_metrics
    assert set(metrics) == {
        "train/loss",
        "train/reconstruction",
        "val/loss",
        "val/reconstruction",
    }
    assert not torch.equal(weights(model), before)
    assert not model.posterior.mu.requires_grad


@pytest.mark.parametrize(
    ("likelihood", "distribution"),
    [("bernoulli", lambda out: Bernoulli(logits=out)), ("gaussian", lambda out: Normal(out, 1.0))],
)
def test_reconstruction_loss_is_the_negative_log_likelihood(pl, likelihood, distribution):
    model = vae(pl, TCDecomposition(), likelihood=likelihood)
    z, x = torch.randn(16, DIM), X.round()
    expected = -distribution(model.decoder(z)).log_prob(x).sum(1).mean()
    torch.testing.assert_close(model.reconstruction_loss(z, x), expected)


@pytest.mark.parametrize("prior", [None, Prior()])
@pytest.mark.parametrize("rows", [1, 16])
def test_validation_loss_is_the_negative_elbo_whatever_the_weights_and_sizes(pl, prior, rows):
    model = vae(pl, TCDecomposition(alpha=0, beta=6, gamma=3, prior=prior))
    model.dataset_size = 8
    logged = {}
    model.log_dict = lambda values, **options: logged.update(values)
    state = torch.get_rng_state()
    for _ in range(2):
        model.validation_step((X[:rows],), 3)
        assert torch.equal(torch.get_rng_state(), state)
        p, target = model.posterior, Normal(0.0, 1.0) if prior is None else prior()
        kl = kl_divergence(Normal(p.mu, (0.5 * p.logvar).exp()), target).sum(1).mean()
        elbo = model.reconstruction_loss(p.z, X[:rows]) + kl
        torch.testing.assert_close(logged["val/loss"], elbo)
        torch.testing.assert_close(logged["val/loss"] - logged["val/reconstruction"], kl)


def test_a_prior_without_closed_form_is_validated_by_samples(pl):
    criterion = TCDecomposition(beta=2, kl="sampled", prior=Laplace(0.0, 1.0))
    metrics = fit(pl, vae(pl, criterion), loader(17)).callback_metrics
    assert metrics["val/loss"] > metrics["val/reconstruction"]


def test_validation_changes_nothing_in_training(pl):
    with_it, without = vae(pl, TCDecomposition(beta=6)), vae(pl, TCDecomposition(beta=6))
    fit(pl, with_it, loader(), max_epochs=2)
    fit(pl, without, max_epochs=2)
    assert torch.equal(weights(with_it), weights(without))


def test_all_of_it_runs_in_half_precision(pl):
    model = vae(pl, TCDecomposition(beta=6))
    callbacks = [pl.TCMonitor()]
    trainer = fit(pl, model, loader(), precision="bf16-true", callbacks=callbacks)
    assert model.decoder.weight.dtype == torch.bfloat16
    assert model.posterior.z.dtype == torch.float32
    assert all(value.isfinite() for value in trainer.callback_metrics.values())


@pytest.mark.parametrize("prior", [None, Prior])
def test_a_checkpoint_holds_numbers_and_names_and_loads_by_default(pl, prior, tmp_path):
    model = vae(pl, TCDecomposition(beta=6, prior=prior and prior()), lr=0.01)
    fit(pl, model).save_checkpoint(tmp_path / "last.ckpt")
    hparams = torch.load(tmp_path / "last.ckpt", weights_only=True)["hyper_parameters"]
    assert hparams == {"dataset_size": SIZE, "likelihood": "bernoulli", "lr": 0.01}
    loaded = pl.TCVAE.load_from_checkpoint(
        tmp_path / "last.ckpt",
        encoder=Encoder(),
        decoder=nn.Linear(DIM, PIXELS),
        criterion=TCDecomposition(beta=6, prior=prior and prior()),
    )
    assert torch.equal(weights(loaded), weights(model))
    assert (loaded.dataset_size, loaded.lr) == (SIZE, 0.01)


def test_training_resumes_where_it_stopped(pl, tmp_path):
    model = vae(pl, TCDecomposition(beta=6))
    fit(pl, model).save_checkpoint(tmp_path / "last.ckpt")
    resumed = vae(pl, TCDecomposition(beta=6))
    trainer = pl.Trainer(max_epochs=2, callbacks=[pl.TCMonitor()])
    trainer.fit(resumed, loader(), ckpt_path=tmp_path / "last.ckpt")
    assert trainer.global_step == 2 * SIZE // 16
    assert torch.isfinite(trainer.callback_metrics["train/total_correlation"])


def test_copies_and_pickles_of_a_trained_one_encode_alike(pl):
    model = vae(pl, TCDecomposition(beta=6))
    fit(pl, model, loader())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(encode(other, X).mu, encode(model, X).mu)
        fit(pl, other)


def made(pl, encoder=None, decoder=None, criterion=None, size=SIZE, **options):
    criterion = TCDecomposition() if criterion is None else criterion
    decoder = decoder or nn.Linear(DIM, PIXELS)
    return pl.TCVAE(encoder or Encoder(), decoder, criterion, size, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"criterion": nn.MSELoss()}, TypeError, "criterion must be a TCDecomposition; got MSEL"),
        (
            {"criterion": TCDecomposition(reduction="sum")},
            ValueError,
            "criterion must have reduction=\"mean\" with Lightning; got 'sum'",
        ),
        (
            {"likelihood": "poisson"},
            ValueError,
            "likelihood must be one of 'bernoulli', 'gaussian'; got 'poisson'",
        ),
        ({"size": 10.5}, TypeError, "dataset_size must be an int >= 1; got 10.5"),
        ({"size": True}, TypeError, "dataset_size must be an int >= 1; got True"),
        ({"size": 0}, ValueError, "dataset_size must be .*; got 0"),
    ],
)
def test_wrong_options_are_refused(pl, options, error, message):
    with pytest.raises(error, match=message):
        made(pl, **options)


def test_networks_of_other_shapes_are_refused(pl):
    with pytest.raises(ValueError, match=r"decoder must return the shape of x, \(16, 12\); got \("):
        made(pl, decoder=nn.Linear(DIM, 5)).reconstruction_loss(torch.zeros(16, DIM), X)
    with pytest.raises(TypeError, match=r"Linear must give .*: got Tensor"):
        made(pl, encoder=nn.Linear(PIXELS, 2)).encode(X)
    with pytest.raises(TypeError, match=r"batch must be a Tensor x, or a sequence .*; got dict"):
        made(pl).encode({"x": X})


def test_x_must_be_a_probability_for_a_bernoulli_likelihood(pl):
    x = torch.linspace(-0.5, 255, 16 * PIXELS).reshape(16, PIXELS)
    message = r"x must lie between 0 and 1 .*; got values from -0.5 to 255. Scale x, or pass like"
    with pytest.raises(ValueError, match=message):
        made(pl).reconstruction_loss(torch.zeros(16, DIM), x)
    made(pl, likelihood="gaussian").reconstruction_loss(torch.zeros(16, DIM), x)


@pytest.mark.parametrize("make", ["ready", "attached"])
def test_another_n_than_that_of_the_training_loader_is_told_once(pl, make):
    if make == "ready":
        model = made(pl, size=1000)
    else:
        model = outsiders(pl)()
        attach(model, TCDecomposition(beta=6), 1000)
    message = f"dataset_size is 1000, but the training loader draws from {SIZE} items. Pass data"
    with pytest.warns(UserWarning, match=message) as caught:
        fit(pl, model, max_epochs=2)
    assert sum("training loader" in str(warning.message) for warning in caught) == 1
