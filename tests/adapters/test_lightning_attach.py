"""attach on a LightningModule: the excess on the loss of its training_step."""

import copy
import functools
import importlib
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Normal

import lightning_models
from lightning_models import SIZE, WARNINGS, data, loader, outsiders, vae, weights
from tcdecomp import NoAdapterError, Posterior, TCDecomposition, attach
from tcdecomp.plugins import Attachment
from tcdecomp.testing import check_attach

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]

BATCH = data(16).tensors


def step(model):
    return model.training_step(BATCH, 0)


def fit(pl, model, **options):
    torch.manual_seed(1)
    trainer = pl.Trainer(**options)
    trainer.fit(model, loader(shuffle=True))
    return trainer


def test_attach_holds_to_the_contract(pl):
    check_attach(outsiders(pl)(), step, SIZE)


def test_weights_of_one_change_no_bit_of_loss_gradient_and_random_numbers(pl):
    runs = []
    for attached in (False, True):
        model = outsiders(pl)()
        if attached:
            attach(model, TCDecomposition(), SIZE)
        torch.manual_seed(1)
        loss = step(model)
        loss.backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        runs.append([loss.detach(), *gradients, torch.get_rng_state()])
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_the_gradient_reaches_logvar_too(pl, weight):
    class Keeping(outsiders(pl)):
        def kl(self, z, mu, logvar):
            logvar.retain_grad()
            self.logvar = logvar
            return super().kl(z, mu, logvar)

    plain, model = Keeping(), Keeping()
    attach(model, TCDecomposition(alpha=weight, beta=weight, gamma=weight), SIZE)
    for module in (plain, model):
        torch.manual_seed(1)
        step(module).backward()
    of_kl = 0.5 * (plain.logvar.exp() - 1) / len(BATCH[0])
    torch.testing.assert_close(model.logvar.grad, plain.logvar.grad + (weight - 1) * of_kl)


@pytest.mark.parametrize("weight", [0.25, 1e-6, 16.0])
def test_a_weight_on_the_modules_own_kl_is_that_of_the_excess(pl, weight):
    class Weighted(outsiders(pl)):
        def kl(self, z, mu, logvar):
            return weight * super().kl(z, mu, logvar)

    plain, model, losses = Weighted().double(), Weighted().double(), []
    handle = attach(model, TCDecomposition(beta=6), SIZE)
    for module in (plain, model):
        torch.manual_seed(1)
        losses.append(module.training_step([BATCH[0].double()], 0).detach())
    want = weight * 5 * handle.terms().total_correlation
    torch.testing.assert_close(losses[1] - losses[0], want, atol=1e-12, rtol=1e-6)


def monte_carlo(z, mu, logvar):
    posterior, prior = Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)
    return (posterior.log_prob(z) - prior.log_prob(z)).sum(1).mean()


@pytest.mark.parametrize(
    ("leave", "samples"),
    [
        (lambda logvar: 2 * (0.5 * logvar).exp().log(), ()),
        (lambda logvar: logvar.detach(), ()),
        (lambda logvar: logvar, (2,)),
    ],
    ids=["another logvar", "a detached logvar", "two samples"],
)
def test_the_weight_is_measured_from_other_posteriors_too(pl, leave, samples):
    class Weighted(outsiders(pl)):
        def losses(self, batch):
            mu, logvar = self.encoder(batch[0])
            z = mu + (0.5 * logvar).exp() * torch.randn(*samples, *mu.shape)
            self.posterior = (z, mu, leave(logvar))
            return self.decoder(z).square().mean() + 0.25 * self.kl(z, mu, logvar)

    plain, model, losses = Weighted(), Weighted(), []
    handle = attach(model, TCDecomposition(beta=6), SIZE)
    for module in (plain, model):
        torch.manual_seed(1)
        losses.append(step(module).detach())
    want = 0.25 * 5 * handle.terms().total_correlation
    torch.testing.assert_close(losses[1] - losses[0], want, rtol=1e-3, atol=1e-5)


def test_a_kl_of_the_sample_is_refused_by_a_remedy_that_works(pl):
    class Sampling(outsiders(pl)):
        def kl(self, z, mu, logvar):
            return 0.25 * monte_carlo(z, mu, logvar)

    plain, model, losses = Sampling(), Sampling(), []
    handle = attach(model, TCDecomposition(beta=6), SIZE)
    with pytest.raises(ValueError, match=r"from the sample z: TCDecomposition\(kl='sampled'\)"):
        step(model)
    handle.detach()
    handle = attach(model, TCDecomposition(beta=6, kl="sampled"), SIZE)
    for module in (plain, model):
        torch.manual_seed(1)
        losses.append(step(module).detach())
    want = 0.25 * 5 * handle.terms().total_correlation
    torch.testing.assert_close(losses[1] - losses[0], want, rtol=1e-3, atol=1e-5)


def test_nothing_is_estimated_with_weights_of_one(pl):
    asked = []

    def weights(others, dataset_size):
        asked.append(others)
        return 1 / dataset_size, (dataset_size - 1) / (dataset_size * others)

    model, criterion = outsiders(pl)(), TCDecomposition(estimator=weights)
    attach(model, criterion, SIZE)
    step(model)
    assert asked == [15]  # whether there are enough
    asked.clear()
    criterion.beta = 6
    step(model)
    assert asked == [15, 15]


def test_a_schedule_may_start_at_weights_of_one_only_where_it_can_go_on(pl):
    model = outsiders(pl)()
    attach(model, TCDecomposition(), 8)
    with pytest.raises(ValueError, match=r"dataset_size must be .*at least the batch size M = 16"):
        step(model)


def test_the_posterior_left_is_detached(pl):
    model = outsiders(pl)()
    attach(model, TCDecomposition(beta=6), SIZE)
    step(model)
    assert isinstance(model.posterior, Posterior)
    assert not model.posterior.z.requires_grad
    copy.deepcopy(model)


# What the step returns


def returning(pl, output):
    class Returning(outsiders(pl)):
        def training_step(self, batch):
            loss = super().training_step(batch, 0)
            return output(loss)

    return Returning()


def test_a_mapping_keeps_its_other_entries(pl):
    model, plain = returning(pl, lambda loss: {"loss": loss, "x": 1}), outsiders(pl)()
    with attach(model, TCDecomposition(gamma=2, alpha=2, beta=2), SIZE):
        torch.manual_seed(1)
        output = model.training_step(BATCH)
    torch.manual_seed(1)
    loss = step(plain)
    assert output["x"] == 1
    torch.testing.assert_close(output["loss"], loss + plain.kl(*plain.posterior))


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_skipped_step_stays_one(pl):
    model = returning(pl, lambda loss: None)
    attach(model, TCDecomposition(beta=6), SIZE)
    assert model.training_step(BATCH) is None
    assert not model.posterior.z.requires_grad
    fit(pl, model)


@pytest.mark.parametrize(
    ("output", "got"), [(lambda loss: 3.0, "float"), (lambda loss: {"x": loss}, "dict")]
)
def test_anything_else_is_an_error(pl, output, got):
    model = returning(pl, output)
    attach(model, TCDecomposition(beta=6), SIZE)
    with pytest.raises(TypeError, match=f"training_step must return a Tensor, .*; got {got}"):
        model.training_step(BATCH)


# What the step leaves


def leaving(pl, leave):
    class Leaving(outsiders(pl)):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.posterior = leave(self.posterior)
            return loss

    return Leaving()


def test_a_posterior_object_will_do(pl):
    check_attach(leaving(pl, lambda triple: Posterior(*triple)), step, SIZE)


@pytest.mark.parametrize(
    ("leave", "error", "message"),
    [
        (lambda triple: None, ValueError, "left none in this step: set self.posterior = "),
        (
            lambda triple: tuple(t.detach() for t in triple),
            ValueError,
            "Leaving.posterior must carry its graph for attach to train it; got detached tensors",
        ),
        (
            lambda triple: triple[:2],
            TypeError,
            r"Leaving.posterior must be a \(z, mu, logvar\) triple or a Posterior; got tuple",
        ),
    ],
)
def test_what_is_no_posterior_of_the_step_is_an_error(pl, leave, error, message):
    model = leaving(pl, leave)
    attach(model, TCDecomposition(beta=6), SIZE)
    with pytest.raises(error, match=message):
        step(model)


def test_a_posterior_of_an_earlier_step_is_an_error(pl):
    class Once(outsiders(pl)):
        def training_step(self, batch, batch_idx):
            earlier = getattr(self, "posterior", None)
            loss = super().training_step(batch, batch_idx)
            if batch_idx:
                self.posterior = earlier
            return loss

    model = Once()
    attach(model, TCDecomposition(beta=6), SIZE)
    model.training_step(BATCH, 0)
    with pytest.raises(
        ValueError, match=r"Once.training_step must leave .* anew in every training"
    ):
        model.training_step(BATCH, 1)


# What is refused


def test_a_module_with_a_criterion_of_its_own_is_refused(pl):
    model = vae(pl, TCDecomposition())
    with pytest.raises(ValueError, match=r"must not have a TCDecomposition; got TCVAE.criterion"):
        attach(model, TCDecomposition(beta=6), SIZE)


def test_manual_optimization_is_refused(pl):
    model = outsiders(pl)()
    model.automatic_optimization = False
    with pytest.raises(ValueError, match=r"model must have automatic_optimization, .* in VAE call"):
        attach(model, TCDecomposition(beta=6), SIZE)


def test_other_reductions_are_refused(pl):
    with pytest.raises(ValueError, match=r"criterion must have reduction=.mean. .*; got 'none'"):
        attach(outsiders(pl)(), TCDecomposition(reduction="none"), SIZE)


def test_other_objects_of_the_package_are_not_the_adapters(pl):
    assert pl.adapter.tcdecomp_attach(SimpleNamespace(), TCDecomposition(), SIZE) is None


@pytest.mark.usefixtures("no_plugins")
def test_the_other_packages_adapter_is_not_asked(pl):
    attach(outsiders(pl)(), TCDecomposition(), SIZE)
    with pytest.raises(NoAdapterError, match=rf"Loaded: '{pl.name} = \S+' of tcdecomp$"):
        attach(object(), TCDecomposition(), SIZE)


# Life with the Trainer


def passthrough(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize("decorated", [False, True])
@pytest.mark.parametrize("with_index", [False, True])
def test_the_trainer_passes_what_the_original_takes(pl, with_index, decorated):
    base = outsiders(pl)
    seen = []

    class Bare(base):
        def training_step(self, batch):
            return super().training_step(batch, 0)

    class Indexed(base):
        def training_step(self, batch, batch_idx):
            seen.append(batch_idx)
            return super().training_step(batch, batch_idx)

    kind = Indexed if with_index else Bare
    if decorated:
        kind.training_step = passthrough(kind.training_step)
    model = kind()
    attach(model, TCDecomposition(beta=6), SIZE)
    fit(pl, model)
    assert seen == ([0, 1, 2, 3] if with_index else [])


def test_detach_restores_training(pl):
    model, plain = outsiders(pl)(), outsiders(pl)()
    attach(model, TCDecomposition(beta=6), SIZE).detach()
    fit(pl, model)
    fit(pl, plain)
    assert torch.equal(weights(model), weights(plain))


def test_deep_copies_train_attached_and_apart(pl):
    model = outsiders(pl)()
    attach(model, TCDecomposition(beta=6), SIZE)
    other, before = copy.deepcopy(model), weights(model)
    fit(pl, other)
    assert torch.equal(weights(model), before)
    fit(pl, model)
    assert torch.equal(weights(model), weights(other))


def test_pickles_train_attached(pl, monkeypatch):
    kind = outsiders(pl)
    monkeypatch.setattr(lightning_models, "VAE", kind, raising=False)
    kind.__qualname__ = "VAE"
    model = kind()
    attach(model, TCDecomposition(beta=6), SIZE)
    other = pickle.loads(pickle.dumps(model))
    assert Attachment.of(other).model is other
    fit(pl, other)
    fit(pl, model)
    assert torch.equal(weights(model), weights(other))


def test_checkpoints_fit_the_module_without(pl, tmp_path):
    model = outsiders(pl)()
    attach(model, TCDecomposition(beta=6), SIZE)
    fit(pl, model).save_checkpoint(tmp_path / "last.ckpt")
    plain = type(model).load_from_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(weights(plain), weights(model))
    resumed = outsiders(pl)()
    attach(resumed, TCDecomposition(beta=6), SIZE)
    trainer = pl.Trainer(max_epochs=2)
    trainer.fit(resumed, loader(), ckpt_path=tmp_path / "last.ckpt")
    assert trainer.global_step == 2 * SIZE // 16


# Dynamo's own, of any graph that is broken.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_module_trains_attached(pl):
    model, plain = outsiders(pl)(), outsiders(pl)()
    for module in (model, plain):
        attach(module, TCDecomposition(beta=6), SIZE)
    fit(pl, torch.compile(model, backend="eager"))
    fit(pl, plain)
    torch.testing.assert_close(weights(model), weights(plain))
    Attachment.of(model).detach()
    package = pl.LightningModule.__module__.partition(".core")[0]
    importlib.import_module(f"{package}.utilities.compile").to_uncompiled(model)
    torch.manual_seed(1)
    loss = step(model)
    torch.manual_seed(1)
    torch.testing.assert_close(loss, type(model).training_step(model, BATCH, 0))


def test_a_step_that_somebody_else_wrapped_is_not_detached_from(pl):
    model = outsiders(pl)()
    handle = attach(model, TCDecomposition(beta=6), SIZE)
    model.training_step = passthrough(model.training_step)
    with pytest.raises(ValueError, match=r"still stand in .* passthrough.* there: take that off"):
        handle.detach()
