"""docs/frameworks/recipes.md: the criterion in accelerate, ignite, skorch, transformers."""

import pickle
from operator import itemgetter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker
from safetensors.torch import load_file
from sklearn.base import clone
from skorch import NeuralNet
from skorch.callbacks import Callback, PassthroughScoring
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.utils.data import DataLoader, TensorDataset
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments

from lightning_models import DIM, PIXELS, SIZE, Encoder, data, weights
from tcdecomp import TCDecomposition, attach, decompose, encode, mig_score
from tcdecomp.plugins.attachment import Attachment
from tolerances import assert_close

# What torch says when ignite imports its distributed optimizers.
pytestmark = pytest.mark.filterwarnings(r"ignore:`torch.jit.\w+` is deprecated")

BATCH, EPOCHS, LR = 16, 2, 0.01
IMAGES, FACTORS = data().tensors
NAMES = ("index_code_mi", "total_correlation", "dimension_wise_kl", "kl")


class VAE(nn.Module):
    """One that knows nothing of tcdecomp; ``last`` is for the tests."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = Encoder(), nn.Linear(DIM, PIXELS)

    def encode(self, x):
        return self.encoder(x)

    def kl_loss(self, z, mu, logvar):
        return 0.5 * (mu.square() + torch.expm1(logvar) - logvar).sum(1).mean()

    def parts(self, x):
        mu, logvar = self.encode(x)
        z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
        self.last = (z.detach(), mu.detach(), logvar.detach())
        return self.decoder(z), z, mu, logvar

    def forward(self, x):
        output, *posterior = self.parts(x)
        return {"loss": reconstruction(output, x) + self.kl_loss(*posterior)}


def reconstruction(output, x):
    return (output - x).square().sum(1).mean()


def loader(batch_size=BATCH):
    generator = torch.Generator().manual_seed(0)
    return DataLoader(IMAGES, batch_size, shuffle=True, drop_last=True, generator=generator)


def prepared(criterion, kind=VAE):
    """Return a model, attached to unless the criterion is None, its handle and an optimizer."""
    model = kind()
    handle = criterion and attach(model, criterion, SIZE)
    torch.manual_seed(1)
    return model, handle, torch.optim.Adam(model.parameters(), LR)


def numbers(terms):
    return {name: value.item() for name, value in terms._asdict().items()}


# Each trains for some epochs and returns the model, and what was logged last


class Rows(GeneralTracker):
    name, requires_logging_directory = "rows", False

    def __init__(self):
        self.tracker = []
        super().__init__()

    def log(self, values, step=None, **options):
        self.tracker.append({**values, "step": step})


def with_accelerate(criterion, attach_first=True):
    tracker = Rows()
    accelerator = Accelerator(cpu=True, log_with=[tracker])
    accelerator.init_trackers("vae")
    model, handle, optimizer = prepared(criterion if attach_first else None)
    ready, optimizer, batches = accelerator.prepare(model, optimizer, loader())
    if not attach_first:
        handle = attach(ready, criterion, SIZE)
    for epoch in range(EPOCHS):
        for x in batches:
            accelerator.backward(ready(x)["loss"])
            optimizer.step()
            optimizer.zero_grad()
        if handle:
            accelerator.log(numbers(handle.terms()), step=epoch)
    accelerator.end_training()
    return SimpleNamespace(model=model, logged=tracker.tracker)


def with_ignite(criterion):
    from ignite.engine import Engine, Events  # not at the top: it warns
    from ignite.metrics import RunningAverage

    model, handle, optimizer = prepared(criterion)
    outputs = []

    def process_function(engine, x):
        optimizer.zero_grad()
        model(x)["loss"].backward()
        optimizer.step()
        return numbers(handle.terms()) if handle else {"kl": 0.0}

    engine = Engine(process_function)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: outputs.append(e.state.output))
    RunningAverage(output_transform=itemgetter("kl")).attach(engine, "kl")
    state = engine.run(loader(), max_epochs=EPOCHS)
    return SimpleNamespace(model=model, logged=[*outputs[:-1], state.output], state=state)


class Parts(VAE):
    def forward(self, x):
        return self.parts(x)


class PlainNet(NeuralNet):
    def get_split_datasets(self, X, y=None, **options):  # noqa: N803
        train, valid = super().get_split_datasets(X, y, **options)
        self.sizes_ = {True: len(train), False: None if valid is None else len(valid)}
        return train, valid

    def get_loss(self, y_pred, y_true, X=None, training=False):  # noqa: N803
        output, *posterior = y_pred
        return reconstruction(output, X) + self.kl_term(posterior, training)

    def kl_term(self, posterior, training):
        return self.module_.kl_loss(*posterior)


class TCNet(PlainNet):
    def kl_term(self, posterior, training):
        return self.criterion_(*posterior, self.sizes_[training])


class LogTerms(Callback):
    def on_batch_end(self, net, batch=None, training=False, y_pred=None, **kwargs):
        if training:
            with torch.no_grad():
                terms = net.criterion_.decompose(*y_pred[1:], net.sizes_[True])
            for name, value in numbers(terms).items():
                net.history.record_batch(name, value)


def net(criterion, **options):
    options.setdefault("module", Parts)
    scores = [(name, PassthroughScoring(name, on_train=True)) for name in NAMES]
    return (PlainNet if criterion is None else TCNet)(
        criterion=TCDecomposition,
        criterion__beta=getattr(criterion, "beta", 1.0),
        optimizer=torch.optim.Adam,
        lr=LR,
        max_epochs=EPOCHS,
        batch_size=BATCH,
        iterator_train__shuffle=True,
        iterator_train__drop_last=True,
        callbacks=criterion and [LogTerms(), *scores],
        verbose=0,
        **options,
    )


def with_skorch(criterion):
    fitted = net(criterion, train_split=None).fit(IMAGES)
    logged = [
        dict(zip(NAMES, row, strict=True))
        for row in (fitted.history[-1, "batches", :, NAMES] if criterion else ())
    ]
    return SimpleNamespace(model=fitted.module_, logged=logged, net=fitted)


def arguments(**options):
    options = {
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "per_device_train_batch_size": BATCH,
        "dataloader_drop_last": True,
        "num_train_epochs": EPOCHS,
        "learning_rate": LR,
        "logging_steps": 2,
        **options,
    }
    return TrainingArguments("trainer", **options)


ROWS = [{"x": x, "factors": v} for x, v in zip(IMAGES, FACTORS, strict=True)]


def with_trainer(criterion):
    model, handle, _ = prepared(criterion)

    class TermsTrainer(Trainer):
        def log(self, logs, *args, **kwargs):
            if handle and "loss" in logs:
                logs = {**logs, **numbers(handle.terms())}
            super().log(logs, *args, **kwargs)

    trainer = TermsTrainer(model, arguments(), train_dataset=ROWS)
    trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    return SimpleNamespace(model=model, logged=logged)


def with_compute_loss(criterion):
    """Train a model with the loss outside, which nothing is attached to."""
    kept = {}

    class TCTrainer(Trainer):
        loss_is_scaled_for_ga = False

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            output, *posterior = outputs = model(**inputs)
            kl = criterion(*posterior, SIZE) if criterion else model.kl_loss(*posterior)
            kept["terms"] = criterion and criterion.decompose(*posterior, SIZE)
            loss = reconstruction(output, inputs["x"]) + kl
            return (loss, outputs) if return_outputs else loss

        def log(self, logs, *args, **kwargs):
            terms = numbers(kept["terms"]) if criterion and "loss" in logs else {}
            super().log({**logs, **terms}, *args, **kwargs)

    model, _, _ = prepared(None, Parts)
    trainer = TCTrainer(model, arguments(), train_dataset=ROWS)
    trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    return SimpleNamespace(model=model, logged=logged)


RECIPES = [with_accelerate, with_ignite, with_skorch, with_trainer, with_compute_loss]


@pytest.fixture(autouse=True)
def _a_folder_and_an_accelerator_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the Trainer makes its folder, though nothing is saved
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


# What holds for all


@pytest.mark.parametrize("recipe", RECIPES)
def test_equal_weights_change_no_bit_of_the_training(recipe):
    plain = weights(recipe(None).model)
    assert torch.equal(weights(recipe(TCDecomposition()).model), plain)
    assert not torch.equal(weights(recipe(TCDecomposition(beta=6)).model), plain)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_logged_last_are_the_terms_of_the_last_step(recipe):
    trained = recipe(TCDecomposition(beta=6))
    assert len(trained.logged) > 1
    z, mu, logvar = trained.model.last
    posterior, prior = Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)
    kl = kl_divergence(posterior, prior).sum(1).mean()
    sampled = (posterior.log_prob(z) - prior.log_prob(z)).sum(1).mean()
    assert_close(trained.logged[-1]["kl"], kl, torch.float32)
    assert_close(sum(trained.logged[-1][name] for name in NAMES[:3]), sampled, torch.float32)
    tc = decompose(z, mu, logvar, SIZE).total_correlation  # on N the sum does not depend
    assert_close(trained.logged[-1]["total_correlation"], tc, torch.float32)


# Accelerate


def test_attaching_after_prepare_trains_alike():
    before, after = (with_accelerate(TCDecomposition(beta=6), first) for first in (True, False))
    assert torch.equal(weights(before.model), weights(after.model))


def test_a_saved_state_is_that_of_the_model_without(tmp_path):
    states = []
    for attached in (False, True):
        accelerator = Accelerator(cpu=True)
        model, _, _ = prepared(TCDecomposition(beta=6) if attached else None)
        accelerator.prepare(model)
        accelerator.save_state(tmp_path)
        states.append(load_file(tmp_path / "model.safetensors"))
        AcceleratorState._reset_state(reset_partial_state=True)
    assert states[0].keys() == states[1].keys() == VAE().state_dict().keys()


# In two processes; each function runs in both


def repeated_items_are_gathered_once():
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    items = TensorDataset(IMAGES[:41], torch.arange(41))
    model, _, _ = prepared(TCDecomposition(beta=6))
    ready, batches = accelerator.prepare(model, DataLoader(items, 8))
    drawn, gathered = [], []
    for x, index in batches:
        drawn.append(accelerator.gather(index))
        mu = encode(ready, x).mu.detach()
        gathered.append(accelerator.gather_for_metrics((index, mu)))
    assert len(torch.cat(drawn)) == 48
    index, mu = map(torch.cat, zip(*gathered, strict=True))
    assert sorted(index.tolist()) == list(range(41))
    assert torch.allclose(mu, model.encode(IMAGES[index])[0])


class GivenNoise(VAE):
    def forward(self, x, noise):
        mu, logvar = self.encode(x)
        z = mu + (0.5 * logvar).exp() * noise
        return {"loss": reconstruction(self.decoder(z), x) + self.kl_loss(z, mu, logvar)}


def trained_on_given_noise(group, accelerator, batch_size):
    noise = torch.randn(SIZE, DIM, generator=torch.Generator().manual_seed(0))
    criterion = TCDecomposition(beta=20, process_group=group)
    model, handle, optimizer = prepared(criterion, GivenNoise)
    ready, batches = model, DataLoader(TensorDataset(IMAGES, noise), batch_size)
    if accelerator:
        ready, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    for x, epsilon in batches:
        loss = ready(x, epsilon)["loss"]
        (accelerator.backward if accelerator else torch.Tensor.backward)(loss)
        optimizer.step()
        optimizer.zero_grad()
    assert handle.terms() is not None
    return weights(model)


def one_batch_of_both_trains_as_one_process():
    alone = trained_on_given_noise(None, None, BATCH)
    accelerator = Accelerator(cpu=True)
    assert_close(trained_on_given_noise("world", accelerator, BATCH // 2), alone, torch.float32)
    apart = trained_on_given_noise(None, accelerator, BATCH // 2)
    assert (apart - alone).abs().max() > 1e-3


def the_trainer_keeps_both_alike():
    trained = with_trainer(TCDecomposition(beta=6, process_group="world"))
    first, second = Accelerator(cpu=True).gather(weights(trained.model)[None])
    assert torch.equal(first, second)
    assert "total_correlation" in trained.logged[-1]


@pytest.mark.parametrize(
    "function",
    [
        repeated_items_are_gathered_once,
        one_batch_of_both_trains_as_one_process,
        the_trainer_keeps_both_alike,
    ],
)
def test_in_two_processes(function, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # accelerate warns where it has to choose
    debug_launcher(function, num_processes=2)


# Ignite


def test_ignite_averages_the_terms():
    trained = with_ignite(TCDecomposition(beta=6))
    average, *values = [row["kl"] for row in trained.logged]
    for value in values:
        average = 0.98 * average + 0.02 * value
    assert trained.state.metrics["kl"] == pytest.approx(average)


# skorch


def test_skorch_shows_means_over_the_epoch():
    history = with_skorch(TCDecomposition(beta=6)).net.history
    for name in NAMES:
        assert history[-1, name] == pytest.approx(np.mean(history[-1, "batches", :, name]))


def test_skorch_trains_on_a_part_and_n_is_its_length(monkeypatch):
    seen = set()
    forward = TCDecomposition.forward
    monkeypatch.setattr(
        TCDecomposition,
        "forward",
        lambda self, z, mu, logvar, size: (
            seen.add((torch.is_grad_enabled(), size)) or forward(self, z, mu, logvar, size)
        ),
    )
    net(TCDecomposition()).fit(IMAGES[:60])
    assert seen == {(True, 48), (False, 12)}


def test_skorch_varies_the_weights_as_parameters():
    fitted = with_skorch(TCDecomposition(beta=6)).net
    optimizer = fitted.optimizer_
    fitted.set_params(criterion__beta=2)
    assert fitted.criterion_.beta == 2
    assert fitted.optimizer_ is not optimizer


def test_skorch_returns_the_posteriors_of_the_data_set():
    _, z, mu, logvar = with_skorch(TCDecomposition(beta=6)).net.forward(IMAGES)
    assert z.shape == mu.shape == logvar.shape == (SIZE, DIM)
    assert 0 <= mig_score(mu, FACTORS) <= 1


def test_a_net_is_cloned_and_pickled_with_its_criterion():
    fitted = with_skorch(TCDecomposition(beta=6)).net
    assert clone(fitted).initialize().criterion_.beta == 6
    assert pickle.loads(pickle.dumps(fitted)).criterion_.beta == 6


class MeanInEval(Parts):
    def parts(self, x):
        output, z, mu, logvar = super().parts(x)
        return output, z if self.training else mu, mu, logvar


def test_skorch_validates_in_eval_mode():
    with pytest.raises(ValueError, match="z must be a sample"):
        net(TCDecomposition(), module=MeanInEval).fit(IMAGES)


# Trainer


def evaluated(kind):
    model, _, _ = prepared(TCDecomposition(beta=6), kind)
    return Trainer(model, arguments(), eval_dataset=ROWS).evaluate()


class Lossy(VAE):
    def forward(self, x, return_loss=True):
        return super().forward(x)


class LossyMeanInEval(Lossy, MeanInEval):
    def forward(self, x, return_loss=True):
        return VAE.forward(self, x)


def test_the_trainer_reports_an_eval_loss_for_a_model_with_return_loss():
    assert "eval_loss" not in evaluated(VAE)
    assert "eval_loss" in evaluated(Lossy)
    with pytest.raises(ValueError, match="z must be a sample"):
        evaluated(LossyMeanInEval)


def test_the_trainer_drops_unnamed_inputs():
    class Unnamed(VAE):
        def forward(self, **batch):
            return super().forward(batch["x"])

    model, handle, _ = prepared(TCDecomposition(beta=6), Unnamed)
    with pytest.raises(ValueError, match="The batch received was empty"):
        Trainer(model, arguments(), train_dataset=ROWS).train()
    assert handle.terms() is None
    Trainer(model, arguments(remove_unused_columns=False), train_dataset=ROWS).train()
    assert handle.terms() is not None


def test_a_last_batch_of_one_row_is_refused():
    model, _, _ = prepared(TCDecomposition(beta=6))
    options = arguments(per_device_train_batch_size=SIZE - 1, dataloader_drop_last=False)
    with pytest.raises(ValueError, match="drop_last=True"):
        Trainer(model, options, train_dataset=ROWS).train()


class Config(PretrainedConfig):
    model_type = "vae-of-the-recipes"


class Pretrained(PreTrainedModel):
    config_class = Config
    encode, kl_loss, parts, forward = VAE.encode, VAE.kl_loss, VAE.parts, VAE.forward

    def __init__(self, config):
        super().__init__(config)
        self.encoder, self.decoder = Encoder(), nn.Linear(DIM, PIXELS)
        self.post_init()


class Prior(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.ones(DIM))

    def forward(self):
        return Normal(self.loc, 1.0)


@pytest.mark.parametrize("prior", [None, Prior()])
def test_a_pretrained_model_comes_back_without_the_attachment(tmp_path, prior):
    model = Pretrained(Config())
    attach(model, TCDecomposition(beta=6, prior=prior), SIZE)
    model.save_pretrained(tmp_path)
    loaded = Pretrained.from_pretrained(tmp_path)
    assert Attachment.of(loaded) is None
    kept = {name: value for name, value in model.state_dict().items() if "tcdecomp" not in name}
    assert len(model.state_dict()) - len(kept) == (prior is not None)
    assert loaded.state_dict().keys() == kept.keys()
    assert all(torch.equal(value, kept[name]) for name, value in loaded.state_dict().items())
