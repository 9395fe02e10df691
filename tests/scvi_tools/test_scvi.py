"""tcdecomp_adapters.scvi: the models of scvi-tools, encoded and trained."""

import copy
import inspect
import pickle

import numpy as np
import pytest
import scvi
import torch
from scvi.module import VAE
from small_models import CELLS, REFUSED, SERVED, TRAINED, batch_of, counts, make, train
from torch.distributions import Laplace, Normal, register_kl

import reference
import tcdecomp_adapters.scvi as adapter
from tcdecomp import TCDecomposition, attach, encode
from tcdecomp.plugins import NoAdapterError
from tcdecomp.plugins.attachment import Attachment
from tcdecomp.testing import check_attach, check_encode
from test_package import check_loads_no_other_framework
from tolerances import assert_close

TERMS = ("index_code_mi", "total_correlation", "dimension_wise_kl")


class Recorder(TCDecomposition):
    """A criterion that keeps the N's that it is given."""

    def decompose(self, z, mu, logvar, dataset_size):
        vars(self).setdefault("sizes", []).append(dataset_size)
        return super().decompose(z, mu, logvar, dataset_size)


def test_the_adapter_loads_no_framework_but_its_own():
    check_loads_no_other_framework("scvi")


# Encoding


@pytest.mark.parametrize("name", SERVED | REFUSED)
def test_encode_holds_to_the_contract(name):
    model = make(name)
    check_encode(model, batch_of(model))
    check_encode(model.module, batch_of(model))


@pytest.mark.parametrize("name", ["SCVI", "TOTALVI", "PEAKVI"])
def test_the_moments_are_those_that_the_model_gives(name):
    model = make(name)
    train(model, epochs=1)
    mean, variance = model.get_latent_representation(return_dist=True)
    posterior = encode(model, batch_of(model, CELLS))
    assert_close(posterior.mu, torch.from_numpy(mean), torch.float32)
    assert_close(posterior.logvar.exp(), torch.from_numpy(variance), torch.float32)


def test_z_is_a_sample_in_eval_mode_too():
    model = make("SCVI")
    model.module.eval()
    encode(model, batch_of(model)).check_values()


def test_a_batch_that_is_no_dictionary_is_refused():
    with pytest.raises(TypeError, match=r"batch must be a dictionary .*; got Tensor"):
        encode(make("SCVI"), torch.ones(4, 20))


def test_a_module_without_qz_is_refused_by_name():
    class Points(VAE):
        def inference(self, *args, **kwargs):
            return {"z": super().inference(*args, **kwargs)["z"]}

    model = make("SCVI")
    model.module.__class__ = Points
    with pytest.raises(ValueError, match=r"Points.inference must give .* qz .*; got NoneType"):
        encode(model, batch_of(model))


def test_a_transformed_latent_is_refused():
    model = make("SCVI", latent_distribution="ln")
    with pytest.raises(ValueError, match='VAE must have latent_distribution="normal"'):
        encode(model, batch_of(model))
    with pytest.raises(ValueError, match='VAE must have latent_distribution="normal"'):
        attach(model, TCDecomposition())
    assert Attachment.of(model.module) is None


def test_a_model_of_another_kind_is_not_the_adapters():
    scvi.model.AmortizedLDA.setup_anndata(data := counts(modalities=False))
    model = scvi.model.AmortizedLDA(data, n_topics=3)
    with pytest.raises(NoAdapterError):
        encode(model, batch_of(model))
    with pytest.raises(NoAdapterError):
        attach(model, TCDecomposition())


# Attaching: one step


def step(model, batch, kl_weight, n_obs=100):
    """Return the output of a step, with ``n_obs`` where the training plan would pass it."""
    module = getattr(model, "module", model)
    loss_kwargs = {"kl_weight": kl_weight}
    if "n_obs" in inspect.signature(module.loss).parameters:
        loss_kwargs["n_obs"] = n_obs
    return module(batch, loss_kwargs=loss_kwargs)


@pytest.mark.parametrize("name", SERVED)
def test_attach_holds_to_the_contract(name):
    model = make(name)
    batch = batch_of(model)
    weight = 0.25 * (32 if name == "PEAKVI" else 1)
    check_attach(
        model, lambda model: step(model, batch, 0.25)[2].loss, 100, kl_weight=weight, stated=True
    )


def test_attach_to_a_module_holds_to_the_contract():
    module, batch = make("SCVI").module, batch_of(make("SCVI"))
    check_attach(module, lambda module: step(module, batch, 1.0)[2].loss, 100)


@pytest.mark.parametrize("name", ["SCVI", "MULTIVI", "PEAKVI"])
def test_the_plain_loss_has_the_kl_at_the_weight_that_the_excess_gets(name):
    """The loss is linear in kl_weight, and its slope is the KL."""
    model = make(name)
    model.module.eval()  # no dropout
    batch, losses = batch_of(model), []
    for kl_weight in (0.0, 1.0):
        torch.manual_seed(0)
        losses.append(step(model, batch, kl_weight)[2].loss.item())
    posterior = encode(model, batch)
    kl = sum(reference.kl(posterior.mu.tolist(), posterior.logvar.tolist()))
    assert losses[1] - losses[0] == pytest.approx(kl if name == "PEAKVI" else kl / 32, rel=1e-3)


def test_the_loss_is_the_one_of_the_paper_at_a_warm_up_weight():
    model = make("SCVI")
    batch, losses = batch_of(model), []
    for criterion in (None, TCDecomposition(beta=6)):
        if criterion is not None:
            attach(model, criterion)
        torch.manual_seed(0)
        outputs, _, loss = step(model, batch, 0.25)
        losses.append(loss.loss.item())
    moments = outputs["z"], outputs["qz"].loc, 2 * outputs["qz"].scale.log()
    rows = [tensor.tolist() for tensor in moments]
    terms = np.mean(reference.terms(*rows, 100, reference.mss_row), axis=1)
    assert losses[1] == pytest.approx(losses[0] + 0.25 * 5 * terms[1], abs=1e-4)
    logged = [loss.extra_metrics[name].item() for name in TERMS]
    assert logged == pytest.approx(terms, abs=1e-4)
    assert not any(loss.extra_metrics[name].requires_grad for name in TERMS)


@pytest.mark.parametrize("name", REFUSED)
def test_other_losses_are_refused_by_name(name):
    with pytest.raises(TypeError, match=f"must have the loss of VAE, .*; got {name}"):
        attach(make(name), TCDecomposition())


def test_a_loss_of_ones_own_is_refused_and_told_what_to_add():
    criterion = TCDecomposition(beta=50)

    class Own(VAE):
        def loss(self, tensors, inference_outputs, generative_outputs, kl_weight=1.0, n_obs=None):
            output = super().loss(tensors, inference_outputs, generative_outputs, kl_weight)
            z, qz = inference_outputs["z"], inference_outputs["qz"]
            excess = criterion.excess_of(z, qz.loc, 2 * qz.scale.log(), n_obs)
            output.loss = output.loss + kl_weight * excess
            return output

    own, attached = make("SCVI"), make("SCVI")
    own.module.__class__ = Own
    with pytest.raises(TypeError, match=r"; got Own. In a loss of your own, .* add kl_weight \*"):
        attach(own.module, criterion)
    attach(attached, criterion)
    want = train(attached)["train_loss"]
    np.testing.assert_allclose(train(own)["train_loss"], want, rtol=1e-5)


@pytest.mark.parametrize(
    ("prior", "got"),
    [
        (lambda z: Normal(torch.zeros_like(z), 2.0), r"Normal\(loc: .*, scale"),
        (lambda z: Normal(torch.ones_like(z), torch.ones_like(z)), r"Normal\(loc"),
        (lambda z: Laplace(torch.zeros_like(z), 1.0), "Laplace"),
    ],
)
def test_another_prior_is_refused_in_a_training_step_by_name(prior, got):
    class Own(VAE):
        def generative(self, z, *args, **kwargs):
            return super().generative(z, *args, **kwargs) | {"pz": prior(z)}

    @register_kl(Normal, Laplace)
    def _kl(p, q):
        return p.loc

    model = make("SCVI")
    model.module.__class__ = Own
    batch = batch_of(model)
    attach(model, TCDecomposition(beta=6))
    with pytest.raises(ValueError, match=rf"Own.generative must give pz = .*; got {got}"):
        step(model, batch, 1.0)
    with torch.no_grad():
        step(model, batch, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": Normal(0.0, 2.0)}, "criterion must have prior=None with scvi"),
        ({"reduction": "sum"}, "criterion must have reduction=\"mean\" with scvi; got 'sum'"),
    ],
)
def test_a_criterion_that_does_not_fit_is_refused(options, message):
    model = make("SCVI")
    with pytest.raises(ValueError, match=message):
        attach(model, TCDecomposition(**options))
    assert Attachment.of(model.module) is None


def test_several_samples_of_each_cell_are_averaged():
    model, losses = make("SCVI"), []
    batch, criterion = batch_of(model), TCDecomposition(beta=6)
    for given in (None, criterion):
        if given is not None:
            attach(model, given, CELLS)
        torch.manual_seed(0)
        outputs, _, loss = model.module(batch, inference_kwargs={"n_samples": 5})
        losses.append(loss.loss)
    qz = outputs["qz"]
    assert outputs["z"].shape == (5, *qz.loc.shape)
    each = [criterion.decompose(z, qz.loc, 2 * qz.scale.log(), CELLS) for z in outputs["z"]]
    want = 5 * torch.stack([terms.total_correlation for terms in each]).mean()
    assert_close(losses[1] - losses[0], want, torch.float32)


def test_a_model_is_attached_to_once_and_detached():
    model = make("SCVI")
    with attach(model, TCDecomposition()) as handle:
        assert Attachment.of(model.module) is handle
        for target in (model, model.module):
            with pytest.raises(ValueError, match="must not carry an attachment"):
                attach(target, TCDecomposition())
    assert "loss" not in vars(model.module)
    assert "n_obs" not in inspect.signature(model.module.loss).parameters


# Attaching: the training


def parameters_of(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.module.parameters()])


@pytest.mark.parametrize("name", SERVED)
def test_weights_of_one_change_nothing_but_the_log_and_others_do(name):
    plain, same, other = make(name), make(name), make(name)
    attach(same, TCDecomposition())
    attach(other, TCDecomposition(beta=50))
    history = train(plain)
    logged = train(same)
    assert set(logged) - set(history) == {f"{term}_train" for term in TERMS}
    for key in history:
        np.testing.assert_array_equal(logged[key], history[key], err_msg=key)
    assert torch.equal(parameters_of(same), parameters_of(plain))
    train(other)
    assert not torch.equal(parameters_of(other), parameters_of(plain))


def test_the_excess_warms_up_with_the_kl():
    """The weight on the KL is 0 in the first epoch, and 1/3 in the second."""
    plain, attached = make("SCVI"), make("SCVI")
    attach(attached, TCDecomposition(alpha=4))
    want, got = train(plain)["train_loss"], train(attached)
    assert got["train_loss"][0] == want[0]
    excess = 3 * got["index_code_mi_train"][1]
    assert got["train_loss"][1] - want[1] == pytest.approx(excess / 3, rel=0.1)


def test_n_is_the_number_of_training_cells():
    model, criterion = make("SCVI"), Recorder(beta=6)
    handle = attach(model, criterion)
    train(model)
    assert len(model.train_indices) == TRAINED
    assert handle.criterion.sizes == [TRAINED] * 4


def test_n_is_missed_where_the_signature_does_not_show_it(monkeypatch):
    """The training plan fills in what it sees: the check above can fail, and not silently."""
    monkeypatch.setattr(adapter, "_with_n_obs", inspect.signature)
    model = make("SCVI")
    attach(model, TCDecomposition(beta=6))
    with pytest.raises(ValueError, match="must be given to attach, since VAE did not state it"):
        train(model)


def test_n_may_be_given_and_must_then_be_the_same():
    model = make("SCVI")
    with attach(model, TCDecomposition(beta=6), TRAINED):
        train(model, epochs=1)
    model = make("SCVI")
    attach(model, TCDecomposition(beta=6), CELLS)
    with pytest.raises(ValueError, match="VAE states for its training set, 96; got 120"):
        train(model, epochs=1)


def test_validation_and_elbo_are_the_models_own():
    model = make("SCVI")
    train(model)
    torch.manual_seed(0)
    elbo = model.get_elbo()
    criterion = Recorder(beta=50)
    attach(model, criterion)
    torch.manual_seed(0)
    assert model.get_elbo() == elbo
    assert not hasattr(criterion, "sizes")


def splits(training, validation):
    cells = np.random.default_rng(0).permutation(CELLS)
    return {"external_indexing": np.split(cells, [training, training + validation])}


def test_a_validation_batch_of_one_row_does_not_stop_the_training():
    model = make("SCVI")
    attach(model, TCDecomposition(beta=6))
    history = train(model, datasplitter_kwargs=splits(96, 1))
    assert np.isfinite(history["validation_loss"]).all()


def test_a_last_batch_of_one_row_is_to_be_dropped():
    external = splits(97, 23)
    model = make("SCVI", use_batch_norm="none")
    train(model, epochs=1, datasplitter_kwargs=external)
    attach(model, TCDecomposition(beta=6))
    with pytest.raises(ValueError, match=r"got M = 1 with dataset_size 97\. .* drop_last=True"):
        train(model, epochs=1, datasplitter_kwargs=external)
    train(model, epochs=1, datasplitter_kwargs={**external, "drop_last": True})


def test_training_goes_on_with_the_criterion_in_eval_mode():
    """A second train() of scvi's trains a module that the first has left in eval mode."""
    model, criterion = make("SCVI"), Recorder(beta=6)
    attach(model, criterion)
    train(model, epochs=1)
    assert not model.module.training
    criterion.sizes.clear()
    train(model, epochs=1)
    assert criterion.sizes == [TRAINED] * 2


def test_the_adversary_of_totalvi_is_trained_along():
    model = make("TOTALVI")
    attach(model, TCDecomposition(beta=6))
    train(model, adversarial_classifier=True)
    assert "total_correlation_train" in model.history


# Copies


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))],
    ids=["deep", "pickle"],
)
def test_a_copy_of_the_module_states_n_too(copied):
    model = make("SCVI")
    attach(model, TCDecomposition(beta=6))
    module = copied(model.module)
    assert "n_obs" in inspect.signature(module.loss).parameters
    assert Attachment.of(module).model is module


def test_a_saved_model_loads_as_a_plain_one(tmp_path):
    model = make("SCVI")
    attach(model, TCDecomposition(beta=6))
    train(model)
    model.save(tmp_path / "saved")
    loaded = scvi.model.SCVI.load(tmp_path / "saved", model.adata)
    assert Attachment.of(loaded.module) is None
    assert_close(
        torch.from_numpy(loaded.get_latent_representation()),
        torch.from_numpy(model.get_latent_representation()),
        torch.float32,
    )
    attach(loaded, TCDecomposition(beta=6))
    assert "total_correlation_train" in train(loaded, epochs=1)
