"""tcdecomp_adapters.pythae, against the real package: its models, its trainer, its pipeline."""

import copy
import pickle

import pytest
import torch
from pythae import models
from pythae.data.datasets import BaseDataset, DatasetOutput, collate_dataset_output
from pythae.models import AutoModel
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseEncoder
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback, rename_logs
from torch import distributed, nn
from torch.distributions import Normal

from tcdecomp import TCDecomposition, attach, encode
from tcdecomp.plugins import NoAdapterError
from tcdecomp.plugins.attachment import Attachment
from tcdecomp.testing import check_attach, check_encode
from tcdecomp_adapters.pythae import TCMonitor
from tolerances import assert_close
from versions import compiles_attached

N, N_EVAL, M = 40, 24, 16
X = torch.rand(N + N_EVAL, 1, 4, 4, generator=torch.Generator().manual_seed(0))
BATCH = DatasetOutput(data=X[:M])
TRAIN = BaseDataset(X[:N], torch.zeros(N))
EVAL = BaseDataset(X[N:], torch.zeros(N_EVAL))

KL_WEIGHTS = {
    "VAE": ({}, 1.0),
    "BetaVAE": ({"beta": 3.0}, 3.0),
    "MSSSIM_VAE": ({"beta": 0.02}, 0.02),
    "INFOVAE_MMD": ({"alpha": 0.3, "lbd": 2.0}, 0.7),
}
GAUSSIAN_ONLY = {
    "BetaTCVAE": "weighs the three terms itself",
    "FactorVAE": "has a total-correlation term of its own",
    "DisentangledBetaVAE": "distance from a capacity",
    "VAMP": "a mixture as its prior",
    "VAEGAN": "losses of their own",
    "Adversarial_AE": "has no KL",
    "IWAE": "several samples",
    "CIWAE": "several samples",
    "MIWAE": "several samples",
    "PIWAE": "several samples",
}
DETERMINISTIC = ("AE", "WAE_MMD", "RAE_L2", "RAE_GP", "VQVAE")
OTHER_POSTERIORS = ("SVAE", "PoincareVAE", "VAE_LinNF", "VAE_IAF", "HVAE", "RHVAE")
NOT_GAUSSIAN = DETERMINISTIC + OTHER_POSTERIORS


def build(name="VAE", **options):
    """Return a pythae model of that name, always with the same weights."""
    kind = getattr(models, name)
    config = getattr(models, f"{name}Config", None) or getattr(models, f"{name}_Config")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(config(input_dim=(1, 4, 4), latent_dim=3, **options))


def loss_of(model, batch=BATCH, **options):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return model(batch, **options).loss


def config(folder, **options):
    return BaseTrainerConfig(
        output_dir=str(folder),
        num_epochs=2,
        per_device_train_batch_size=M,
        per_device_eval_batch_size=M,
        learning_rate=0.01,
        no_cuda=True,
        **options,
    )


def train(model, folder, evaluate=True, callbacks=None, **options):
    """Train with pythae's own trainer, which seeds, and return it."""
    with torch.random.fork_rng():
        trainer = BaseTrainer(
            model, TRAIN, EVAL if evaluate else None, config(folder, **options), callbacks
        )
        trainer.train()
    return trainer


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


class Logs(TrainingCallback):
    """Keeps what a logger that stands at the end of the list would write."""

    def __init__(self):
        self.epochs = []

    def on_log(self, training_config, logs, **kwargs):
        self.epochs.append(dict(logs))


# Encode


@pytest.mark.parametrize("name", [*KL_WEIGHTS, *GAUSSIAN_ONLY])
def test_encode_holds_to_the_contract(name):
    check_encode(build(name), BATCH)


def test_encode_gives_the_moments_of_the_models_own_posterior():
    model, draws = build(), 1000
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        z = model.embed(X[:4].repeat(draws, 1, 1, 1)).reshape(draws, 4, 3)
    posterior = encode(model, X[:4])
    error = (0.5 * posterior.logvar).exp() / draws**0.5
    assert ((z.mean(0) - posterior.mu).abs() < 5 * error).all()
    torch.testing.assert_close(z.var(0).log(), posterior.logvar, rtol=0, atol=0.25)


def test_encode_takes_what_pythaes_loaders_yield():
    loader = torch.utils.data.DataLoader(TRAIN, M, collate_fn=collate_dataset_output)
    model = build()
    mu = encode(model, next(iter(loader))).mu
    assert torch.equal(mu, encode(model, X[:M]).mu)
    assert torch.equal(mu, encode(model, {"data": X[:M]}).mu)


@pytest.mark.parametrize("batch", [[X], {"images": X}, X.numpy()])
def test_encode_refuses_other_batches(batch):
    with pytest.raises(TypeError, match=r"batch must be a Tensor of data, or a mapping .*; got "):
        encode(build(), batch)


@pytest.mark.parametrize("name", NOT_GAUSSIAN)
def test_models_without_a_gaussian_posterior_are_refused(name):
    model = build(name)
    message = f"known to have a diagonal Gaussian posterior; got {name}$"
    with pytest.raises(TypeError, match=message):
        encode(model, BATCH)
    with pytest.raises(TypeError, match=message):
        attach(model, TCDecomposition(), N)


def test_a_deterministic_posterior_is_refused():
    with pytest.raises(TypeError, match="Gaussian posterior; got Adversarial_AE"):
        encode(build("Adversarial_AE", deterministic_posterior=True), BATCH)


def test_every_model_of_pythae_is_in_one_of_the_lists():
    families = {
        name
        for name, kind in vars(models).items()
        if isinstance(kind, type) and issubclass(kind, models.BaseAE)
    }
    assert families - {"BaseAE"} == {*KL_WEIGHTS, *GAUSSIAN_ONLY, *NOT_GAUSSIAN}


# Attach


@pytest.mark.parametrize("name", KL_WEIGHTS)
def test_attach_holds_to_the_contract(name):
    options, weight = KL_WEIGHTS[name]
    check_attach(build(name, **options), lambda model: model(BATCH).loss, 100, kl_weight=weight)


def test_attach_holds_to_the_contract_where_the_trainer_states_n():
    check_attach(build(), lambda model: model(BATCH, dataset_size=100).loss, 100, stated=True)


@pytest.mark.parametrize("name", KL_WEIGHTS)
def test_the_excess_has_the_weight_of_the_models_own_kl(name):
    options, weight = KL_WEIGHTS[name]
    model, criterion = build(name, **options), TCDecomposition(alpha=0.5, beta=6, gamma=2)
    plain = loss_of(model)
    with attach(model, criterion):
        loss = loss_of(model, dataset_size=N)
    encoded = model.encoder(X[:M])
    with torch.random.fork_rng():
        torch.manual_seed(1)  # the noise of loss_of: each model draws its z first
        z = encoded.embedding + (0.5 * encoded.log_covariance).exp() * torch.randn(M, 3)
    terms = criterion.decompose(z, encoded.embedding, encoded.log_covariance, N)
    excess = criterion.excess(terms)
    assert excess.abs() > 0.1
    assert_close(loss - plain, weight * excess, torch.float32)
    gradients = [torch.autograd.grad(v, encoder(model)) for v in (loss - plain, weight * excess)]
    for got, want in zip(*gradients, strict=True):
        assert_close(got, want, torch.float32)


def encoder(model):
    return list(model.encoder.parameters())


@pytest.mark.parametrize("name", KL_WEIGHTS)
def test_with_equal_weights_it_is_the_model_with_that_weight_on_its_kl(name):
    options, weight = KL_WEIGHTS[name]
    model = build(name, **options)
    plain, reg = loss_of(model), model_output(model).reg_loss
    with attach(model, TCDecomposition(alpha=4, beta=4, gamma=4)):
        assert_close(loss_of(model, dataset_size=N), plain + 3 * weight * reg, torch.float32)


def model_output(model):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return model(BATCH)


def test_the_weight_may_be_scheduled():
    model = build("BetaVAE", beta=3.0)
    attach(model, TCDecomposition(alpha=4, beta=4, gamma=4))
    model.beta = 0.0
    assert_close(loss_of(model, dataset_size=N), model_output(build()).recon_loss, torch.float32)


def test_the_rest_of_the_output_is_left_alone():
    model = build()
    plain = model_output(model)
    attach(model, TCDecomposition(beta=6))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        output = model(BATCH, dataset_size=N)
    assert list(output) == list(plain)
    assert output.loss is output["loss"]
    assert output.loss != plain.loss
    for name in ("recon_loss", "reg_loss", "recon_x", "z"):
        assert torch.equal(output[name], plain[name])


@pytest.mark.parametrize("name", GAUSSIAN_ONLY)
def test_losses_that_do_not_hold_the_kl_are_refused(name):
    model = build(name)
    message = f"must have the KL .* in its loss; got {name}, which .*{GAUSSIAN_ONLY[name]}"
    with pytest.raises(ValueError, match=message):
        attach(model, TCDecomposition(beta=6), N)
    assert Attachment.of(model) is None


class Prior(nn.Module):
    def forward(self):
        return Normal(torch.zeros(3), 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": Prior()}, r"criterion must have prior=None with pythae, .*; got Prior"),
        (
            {"prior": Normal(0.0, 2.0)},
            r"criterion must have prior=None with pythae, .*; got Normal",
        ),
        ({"reduction": "sum"}, "criterion must have reduction=\"mean\" with pythae; got 'sum'"),
    ],
)
def test_criteria_that_do_not_fit_are_refused(options, message):
    model = build()
    before = {*vars(model), *model._modules}
    with pytest.raises(ValueError, match=message):
        attach(model, TCDecomposition(**options), N)
    assert {*vars(model), *model._modules} == before


def test_attaching_twice_is_refused_and_detach_restores():
    model = build()
    before = {*vars(model), *model._modules}
    handle = attach(model, TCDecomposition(beta=6), N)
    with pytest.raises(ValueError, match="must not carry an attachment"):
        attach(model, TCDecomposition(), N)
    handle.detach()
    assert {*vars(model), *model._modules} == before
    assert torch.equal(loss_of(model), loss_of(build()))


def test_nothing_stays_on_the_modules():
    model = build()
    handle = attach(model, TCDecomposition(beta=6), N)
    with pytest.raises(RuntimeError):
        model(DatasetOutput(data=X[:M, :, :2]), dataset_size=N)
    loss_of(model)
    assert not model.encoder._forward_hooks
    handle.detach()
    assert not model._forward_pre_hooks


def test_n_is_that_of_one_call():
    model = build()
    attach(model, TCDecomposition(beta=6))
    assert loss_of(model, dataset_size=N) is not None
    assert model.forward(BATCH).loss is None  # past what hears the N of a call
    assert loss_of(model) is None


def test_an_encoder_is_run_once():
    class Counting(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 6))

        def forward(self, x):
            mu, logvar = self.layers(x).chunk(2, dim=1)
            return ModelOutput(embedding=mu, log_covariance=logvar)

    model = models.VAE(models.VAEConfig(input_dim=(1, 4, 4), latent_dim=3), encoder=Counting())
    attach(model, TCDecomposition(beta=6), N)
    model(BATCH)
    assert model.encoder.layers[1].num_batches_tracked == 1


# A subclass of the user's


class Silent(models.VAE):
    """Changes neither forward nor loss."""


class OwnLoss(models.VAE):
    def loss_function(self, recon_x, x, mu, log_var, z):
        return super().loss_function(recon_x, x, mu, log_var, z)


class OwnForward(models.VAE):
    def forward(self, inputs, **kwargs):
        return super().forward(inputs, **kwargs)


def own(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(models.VAEConfig(input_dim=(1, 4, 4), latent_dim=3))


def test_a_subclass_that_changes_neither_forward_nor_loss_is_served():
    check_encode(own(Silent), BATCH)
    check_attach(own(Silent), lambda model: model(BATCH).loss, N)


@pytest.mark.parametrize("kind", [OwnLoss, OwnForward])
def test_a_loss_of_the_users_own_is_not_pythaes(kind):
    overridden = {OwnLoss: "loss_function", OwnForward: "forward"}[kind]
    message = (
        r"model must have a method kl_loss\(z, mu, logvar\), or pythae's own forward and "
        rf"loss_function; {kind.__name__} overrides {overridden}, and has no such method"
    )
    with pytest.raises(NoAdapterError, match=message):
        attach(own(kind), TCDecomposition(beta=6), N)


def test_a_forward_of_the_users_own_is_not_pythaes():
    check_encode(own(OwnLoss), BATCH)
    message = (
        r"model must have a method encode\(batch\), or .* forward; OwnForward overrides forward"
    )
    with pytest.raises(NoAdapterError, match=message):
        encode(own(OwnForward), BATCH)


def test_such_a_subclass_may_say_itself_what_it_is():
    class Own(OwnForward):
        def encode(self, batch):
            encoded = self.encoder(batch["data"])
            return encoded.embedding, encoded.log_covariance

        def kl_loss(self, z, mu, logvar):
            return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1).mean()

        def loss_function(self, recon_x, x, mu, log_var, z):
            _, recon, kl = super().loss_function(recon_x, x, mu, log_var, z)
            return recon + self.kl_loss(z, mu, log_var), recon, kl

    check_encode(own(Own), BATCH)
    check_attach(own(Own), lambda model: model(BATCH).loss, N)


# Which N


def terms_of(model, **options):
    loss_of(model, **options)
    return Attachment.of(model).terms()


@pytest.mark.parametrize(
    ("given", "stated", "training", "size"),
    [
        (N, None, True, N),
        (N, N, True, N),
        (None, N, True, N),
        (N, 90, False, 90),
        (None, 90, False, 90),
    ],
)
def test_n_is_the_callers_or_the_trainers(given, stated, training, size):
    model = build().train(training)
    handle = attach(model, TCDecomposition(beta=6), given)
    options = {} if stated is None else {"dataset_size": stated}
    loss, terms = loss_of(model, **options), handle.terms()
    handle.detach()
    attach(model.train(), TCDecomposition(beta=6), size)
    assert_close(loss, loss_of(model), torch.float32)
    assert torch.equal(torch.stack(terms), torch.stack(terms_of(model)))


def test_two_training_set_sizes_are_an_error_that_names_both():
    model = build()
    attach(model, TCDecomposition(beta=6), 41)
    with pytest.raises(ValueError, match="VAE states for its training set, 40; got 41"):
        loss_of(model, dataset_size=40)


def test_the_trainers_size_is_checked():
    model = build()
    attach(model, TCDecomposition(beta=6))
    with pytest.raises(ValueError, match=r"at least the batch size M = 16; got 10"):
        loss_of(model, dataset_size=10)


def test_a_pass_in_train_mode_without_n_has_no_loss():
    model = build()
    handle = attach(model, TCDecomposition(beta=6))
    assert loss_of(model) is None
    assert handle.terms() is None


@pytest.mark.parametrize("given", [None, N])
def test_a_pass_in_eval_mode_without_n_has_pythaes_loss(given):
    model = build().eval()
    handle = attach(model, TCDecomposition(beta=6), given)
    assert torch.equal(loss_of(model), loss_of(build().eval()))
    assert handle.terms() is None


def test_what_pythae_runs_without_n_works_on_one_item_too():
    model = build().eval()
    attach(model, TCDecomposition(beta=6), N)
    assert model.embed(X[:1]).shape == (1, 3)
    assert model.reconstruct(X).shape == X.shape
    assert model.interpolate(X[:1], X[1:2], 5).shape == (1, 5, 1, 4, 4)
    assert model.predict(X[:1]).embedding.shape == (1, 3)


# Training with pythae's trainer


def test_weights_of_one_train_what_pythae_trains(tmp_path):
    plain, model = build(), build()
    logs = Logs(), Logs()
    train(plain, tmp_path, callbacks=[logs[0]])
    attach(model, TCDecomposition())
    train(model, tmp_path, callbacks=[logs[1]])
    assert torch.equal(weights(model), weights(plain))
    assert logs[0].epochs == logs[1].epochs


@pytest.mark.parametrize("given", [None, N])
def test_trained_attached_is_trained_with_the_criterion(tmp_path, given):
    class ByHand(models.VAE):
        def forward(self, inputs, **kwargs):
            self.size = kwargs.get("dataset_size", N)
            return super().forward(inputs, **kwargs)

        def loss_function(self, recon_x, x, mu, log_var, z):
            _, recon, kl = super().loss_function(recon_x, x, mu, log_var, z)
            return recon + TCDecomposition(beta=6)(z, mu, log_var, self.size), recon, kl

    by_hand, model, logs = own(ByHand), build(), (Logs(), Logs())
    train(by_hand, tmp_path, callbacks=[logs[0]])
    attach(model, TCDecomposition(beta=6), given)
    train(model, tmp_path, callbacks=[logs[1]])
    assert_close(weights(model), weights(by_hand), torch.float32)
    for got, want in zip(logs[1].epochs, logs[0].epochs, strict=True):
        assert_close(list(got.values()), list(want.values()), torch.float32)
    plain = build()
    train(plain, tmp_path)
    assert (weights(model) - weights(plain)).abs().max() > 0.01


def test_each_set_has_an_n_of_its_own(tmp_path):
    sizes = []

    class Recording(TCDecomposition):
        def excess_of(self, z, mu, logvar, dataset_size):
            sizes.append(dataset_size)
            return super().excess_of(z, mu, logvar, dataset_size)

    model = build()
    attach(model, Recording(beta=6))
    train(model, tmp_path)
    assert sizes == [N, N, N, N_EVAL, N_EVAL] * 2


def test_the_pipeline_trains_it_as_well(tmp_path):
    model, other = build(), build()
    attach(model, TCDecomposition(beta=6))
    with torch.random.fork_rng():
        TrainingPipeline(model, config(tmp_path))(X[:N], X[N:])
    attach(other, TCDecomposition(beta=6), N)
    train(other, tmp_path)
    assert torch.equal(weights(model), weights(other))


def test_another_set_than_was_said_is_an_error_in_the_first_step(tmp_path):
    model = build()
    attach(model, TCDecomposition(beta=6), N + 1)
    with pytest.raises(ValueError, match="VAE states for its training set, 40; got 41"):
        train(model, tmp_path)
    assert torch.equal(weights(model), weights(build()))


def test_the_trainers_best_model_carries_an_attachment_of_its_own(tmp_path):
    model = build()
    handle = attach(model, TCDecomposition(beta=6))
    best = train(model, tmp_path, steps_predict=1)._best_model
    own = Attachment.of(best)
    assert own is not handle
    assert own.model is best
    handle.detach()
    assert own.terms() is not None
    assert loss_of(best.train(), dataset_size=N) != loss_of(model.train())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_trains_by_itself(copied):
    model = build()
    handle = attach(model, TCDecomposition(beta=6), N)
    loss = loss_of(model)
    other = copied(model)
    assert Attachment.of(other).terms() is not None
    handle.detach()
    assert torch.equal(loss_of(other), loss)
    Attachment.of(other).detach()
    assert torch.equal(loss_of(other), loss_of(build()))


def test_a_last_batch_of_one_row_is_an_error(tmp_path):
    model = build()
    attach(model, TCDecomposition(beta=6))
    dataset = BaseDataset(X[: M + 1], torch.zeros(M + 1))
    message = "M >= 2 rows.* a batch size with which the items of the set leave no remainder of 1"
    with torch.random.fork_rng(), pytest.raises(ValueError, match=message):
        BaseTrainer(model, dataset, None, config(tmp_path)).train()


@compiles_attached
@pytest.mark.parametrize("name", ["VAE", "BetaVAE", "INFOVAE_MMD"])
def test_attach_adds_no_graph_to_a_compiled_model(name):
    graphs = []

    def counted(graph, inputs):
        graphs.append(graph)
        return graph

    def compiled_loss(model):
        torch.compiler.reset()
        graphs.clear()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            output = torch.compile(model, backend=counted, fullgraph=True)(BATCH, dataset_size=N)
        return output["loss"], len(graphs)

    model = build(name)
    _, of_pythae = compiled_loss(model)
    handle = attach(model, TCDecomposition(beta=6))
    loss, number = compiled_loss(model)
    assert number == of_pythae
    assert handle.terms() is not None
    assert_close(loss, loss_of(model, dataset_size=N), torch.float32)


# Saving and loading


def test_a_saved_model_loads_as_a_plain_one(tmp_path):
    model = build()
    attach(model, TCDecomposition(beta=6))
    trainer = train(model, tmp_path, steps_saving=1)
    (final,) = tmp_path.glob("*/final_model")
    loaded = AutoModel.load_from_folder(str(final))
    assert type(loaded) is models.VAE
    assert Attachment.of(loaded) is None
    assert torch.equal(weights(loaded), weights(trainer._best_model))
    attach(loaded, TCDecomposition(beta=6))
    train(loaded, tmp_path)


def test_an_encoder_of_the_users_own_is_saved(tmp_path):
    model = models.VAE(
        models.VAEConfig(input_dim=(1, 4, 4), latent_dim=3), encoder=copy.deepcopy(build().encoder)
    )
    attach(model, TCDecomposition(beta=6), N)
    loss_of(model)
    model.save(str(tmp_path))
    loaded = models.VAE.load_from_folder(str(tmp_path))
    assert torch.equal(encode(loaded, X).mu, encode(model, X).mu)


# The monitor


@pytest.mark.parametrize("evaluate", [True, False])
def test_the_terms_reach_the_callbacks_after_the_monitor(tmp_path, evaluate):
    model, logs, seen = build(), Logs(), []

    class Steps(TrainingCallback):
        """Decomposes each step's posterior by itself."""

        def on_train_step_end(self, training_config, **kwargs):
            seen.append(("train", kwargs["model"].training, *terms(kwargs["model"])))

        def on_eval_step_end(self, training_config, **kwargs):
            seen.append(("eval", kwargs["model"].training, *terms(kwargs["model"])))

    def terms(model):
        return [term.item() for term in Attachment.of(model).terms()]

    attach(model, TCDecomposition(beta=6))
    train(model, tmp_path, evaluate, callbacks=[Steps(), TCMonitor(), logs])
    stages = ["train", "eval"] if evaluate else ["train"]
    names = ("index_code_mi", "total_correlation", "dimension_wise_kl", "kl")
    steps = {"train": 3, "eval": 2}  # in an epoch
    for epoch, logged in enumerate(logs.epochs):
        want = {f"{stage}_{name}" for stage in stages for name in names}
        assert want == set(logged) - {"train_epoch_loss", "eval_epoch_loss"}
        for stage in stages:
            mine = [row[2:] for row in seen if row[0] == stage]
            rows = torch.tensor(mine[epoch * steps[stage] : (epoch + 1) * steps[stage]])
            got = [logged[f"{stage}_{name}"] for name in names]
            assert_close(got, rows.mean(0), torch.float32)
    assert len(logs.epochs) == 2
    assert "train/total_correlation" in rename_logs(logs.epochs[0])


def test_the_monitor_changes_nothing_in_the_training(tmp_path):
    watched, other = build(), build()
    for model, callbacks in ((watched, [TCMonitor()]), (other, None)):
        attach(model, TCDecomposition(beta=6))
        train(model, tmp_path, callbacks=callbacks)
    assert torch.equal(weights(watched), weights(other))


def test_the_monitor_logs_no_kl_that_is_not_there(tmp_path):
    model, logs = build(), Logs()
    attach(model, TCDecomposition(beta=6, kl="sampled"))
    train(model, tmp_path, callbacks=[TCMonitor(), logs])
    assert "train_total_correlation" in logs.epochs[0]
    assert "train_kl" not in logs.epochs[0]


def test_the_monitor_refuses_a_model_without_an_attachment(tmp_path):
    with pytest.raises(ValueError, match=r"TCMonitor must be used with .* the trainer's VAE has"):
        train(build(), tmp_path, callbacks=[TCMonitor()])


def test_the_monitor_sees_through_what_the_trainer_wraps_in_several_processes():
    model, logs = build(), {}
    attach(model, TCDecomposition(beta=6))
    monitor = TCMonitor()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        loss_of(wrapped, dataset_size=N).backward()
        monitor.on_train_begin(None, model=wrapped)
        monitor.on_train_step_end(None, model=wrapped)
    finally:
        distributed.destroy_process_group()
    monitor.on_log(None, logs, model=wrapped)
    terms = Attachment.of(model).terms()
    assert logs["train_total_correlation"] == terms.total_correlation.item()
