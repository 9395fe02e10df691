"""TCMonitor: what it logs, from which posterior and N, and that it changes nothing."""

import copy
import typing

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from lightning_models import (
    QUIET,
    SIZE,
    WARNINGS,
    data,
    loader,
    outsiders,
    vae,
    weights,
)
from tcdecomp import Posterior, TCDecomposition, attach, decompose, mig_score, score
from tcdecomp.minibatch.bracket import Bracket
from tcdecomp.scoring.loaders import rows_of, size_of
from tcdecomp_adapters._lightning import tally

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]

TERMS = {"index_code_mi", "total_correlation", "dimension_wise_kl", "kl"}
ENDS = {f"{term}_{end}" for term in TERMS - {"kl"} for end in ("low", "high")}


class Counting(TCDecomposition):
    """Keeps the arguments of each decomposition, and whether it was differentiable."""

    def __init__(self, **options):
        super().__init__(**options)
        self.asked, self.tracked = [], set()

    def decompose(self, *arguments):
        self.asked.append(arguments)
        terms = super().decompose(*arguments)
        self.tracked.add(terms.kl.requires_grad)
        return terms


def fit(pl, model, monitor=None, validation=None, **options):
    callbacks = [monitor] if monitor else []
    torch.manual_seed(1)
    trainer = pl.Trainer(callbacks=callbacks, **options)
    trainer.fit(model, loader(shuffle=True), validation)
    return trainer


def keys(metrics, prefix):
    return {key.removeprefix(prefix) for key in metrics if key.startswith(prefix)}


def validating(pl, leave):
    """Return an outsider's VAE whose validation step leaves what ``leave(self, x)`` returns."""

    class Validating(outsiders(pl)):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            if leave is not None:
                self.posterior = leave(self, batch[0])

        def encode(self, x):
            mu, logvar = self.encoder(x)
            return Posterior(mu + torch.randn_like(mu) * (0.5 * logvar).exp(), mu, logvar)

    return Validating()


# Nothing is changed


@pytest.mark.parametrize("kind", ["TCVAE", "left", "mean", "encode"])
def test_training_is_the_same_to_the_bit_with_and_without(pl, kind):
    def model():
        if kind == "TCVAE":
            return vae(pl)
        left = {
            "left": lambda self, x: (self.encoder(x)[0] + 1, *self.encoder(x)),
            "mean": lambda self, x: (self.encoder(x)[0], *self.encoder(x)),
            "encode": None,
        }
        return validating(pl, left[kind])

    monitored, plain = model(), model()
    monitor = pl.TCMonitor(TCDecomposition(), SIZE)
    fit(pl, monitored, monitor, loader(), max_epochs=2, val_check_interval=2)
    fit(pl, plain, None, loader(), max_epochs=2, val_check_interval=2)
    assert torch.equal(weights(monitored), weights(plain))


def test_nothing_is_encoded_twice(pl):
    model, batches = vae(pl), []
    model.encoder.register_forward_hook(lambda *call: batches.append(len(call[-1][0])))
    fit(pl, model, pl.TCMonitor(), loader(), num_sanity_val_steps=0)
    assert batches == [16] * (4 + 4)


def test_a_monitor_can_be_copied_after_a_run(pl):
    monitor = pl.TCMonitor()
    fit(pl, validating(pl, LEFT["sample"]), pl.TCMonitor(TCDecomposition(), SIZE), loader())
    fit(pl, vae(pl), monitor, loader())
    assert copy.deepcopy(monitor).seed == monitor.seed
    left = (monitor._before, monitor._tallies, monitor._generator)
    assert not any(left)


# Training


def test_training_terms_are_those_of_the_steps_own_posterior(pl):
    seen = []

    class Peek(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            p = pl_module.posterior
            seen.append(decompose(p.z, p.mu, p.logvar, SIZE))

    trainer = pl.Trainer(callbacks=[Peek(), pl.TCMonitor()])
    trainer.fit(vae(pl), loader())
    assert len(seen) == 4
    for name, value in seen[-1]._asdict().items():
        torch.testing.assert_close(trainer.callback_metrics[f"train/{name}"], value)


@pytest.mark.parametrize(
    ("every", "rhythm", "count"), [(None, 2, 4), (None, 8, 1), (3, 1, 2), (0, 1, 0), (1, 50, 8)]
)
def test_training_terms_are_estimated_every_so_many_steps(pl, every, rhythm, count):
    criterion = Counting()
    monitor = pl.TCMonitor(criterion, SIZE, every_n_steps=every)
    fit(pl, outsiders(pl)(), monitor, log_every_n_steps=rhythm, max_epochs=2)
    assert len(criterion.asked) == count
    assert all(arguments[-1] == SIZE for arguments in criterion.asked)
    assert True not in criterion.tracked


def test_accumulated_batches_count_as_one_step(pl):
    criterion = Counting()
    fit(pl, outsiders(pl)(), pl.TCMonitor(criterion, SIZE), accumulate_grad_batches=2)
    assert len(criterion.asked) == 2


def test_a_sampled_kl_is_not_logged_as_the_kl(pl):
    model = vae(pl, TCDecomposition(kl="sampled"))
    metrics = fit(pl, model, pl.TCMonitor(), loader()).callback_metrics
    assert keys(metrics, "train/") - {"loss", "reconstruction"} == TERMS - {"kl"}
    assert keys(metrics, "val/") - {"loss", "reconstruction", "mig"} - ENDS == TERMS - {"kl"}


def test_options_come_from_an_attachment(pl):
    model, criterion = outsiders(pl)(), Counting(beta=6)
    attach(model, criterion, 1000)
    with pytest.warns(UserWarning, match="the training loader draws from 64 items"):
        fit(pl, model, pl.TCMonitor())
    assert len(criterion.asked) == 4
    assert all(arguments[-1] == 1000 for arguments in criterion.asked)


def test_options_of_its_own_go_before(pl):
    criterion = Counting()
    fit(pl, vae(pl), pl.TCMonitor(criterion, 1000))
    assert {arguments[-1] for arguments in criterion.asked} == {1000}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            r"given criterion and dataset_size, as in TCMonitor\(TCDecomposition\(\), "
            r"dataset_size=len\(data\)\), unless .*; VAE has neither. Its training_step must also "
            r"set self.posterior = \(z, mu, logvar\)$",
        ),
        ({"dataset_size": SIZE}, r"criterion, as in TCMonitor\(TCDecomposition\(\)\), unless"),
        ({"every_n_steps": 0}, r"given criterion, .* VAE has neither$"),
        (
            {"criterion": TCDecomposition()},
            r"TCMonitor must be given dataset_size, .*; VAE has neither",
        ),
        (
            {"criterion": TCDecomposition(reduction="sum"), "dataset_size": SIZE},
            r"criterion must have reduction=.mean. with Lightning; got 'sum'",
        ),
    ],
)
def test_a_missing_option_is_an_error_before_the_first_step(pl, options, message):
    model = outsiders(pl)()
    with pytest.raises(ValueError, match=message):
        fit(pl, model, pl.TCMonitor(**options))
    assert not hasattr(model, "posterior")


def test_options_of_another_type_are_refused(pl):
    with pytest.raises(TypeError, match="criterion must be a TCDecomposition; got MSELoss"):
        pl.TCMonitor(criterion=nn.MSELoss())
    for options, error, message in (
        ({"dataset_size": 10.5}, TypeError, "dataset_size must be an int >= 1; got 10.5"),
        ({"dataset_size": True}, TypeError, "dataset_size must be an int >= 1; got True"),
        ({"dataset_size": 0}, ValueError, "dataset_size must be .*; got 0"),
        ({"val_dataset_size": 0}, ValueError, "^val_dataset_size must be .*; got 0"),
        (
            {"val_dataset_size": [9, "9"]},
            TypeError,
            "^val_dataset_size must be an int >= 1; got '9'",
        ),
        ({"every_n_steps": -1}, ValueError, "every_n_steps must be an int >= 0; got -1"),
        ({"every_n_steps": True}, TypeError, "every_n_steps must be an int >= 0; got True"),
        ({"every_n_steps": 0.5}, TypeError, "every_n_steps must be an int >= 0; got 0.5"),
    ):
        with pytest.raises(error, match=message):
            pl.TCMonitor(**options)


def test_what_is_not_used_is_not_asked_for(pl):
    class Odd(outsiders(pl)):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.posterior = "of some other kind"
            return loss

        def predict_step(self, batch, batch_idx):
            return batch[0]

    model = Odd()
    fit(pl, model, pl.TCMonitor(criterion=TCDecomposition(), every_n_steps=0))
    pl.Trainer(callbacks=[pl.TCMonitor()]).predict(model, loader())


def test_a_step_that_leaves_no_posterior_is_an_error(pl):
    class Forgetful(outsiders(pl)):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            del self.posterior
            return loss

    with pytest.raises(ValueError, match=r"Forgetful.training_step must leave .*every_n_steps=0"):
        fit(pl, Forgetful(), pl.TCMonitor(TCDecomposition(), SIZE))
    fit(pl, Forgetful(), pl.TCMonitor(TCDecomposition(), SIZE, every_n_steps=0))
    fit(pl, Forgetful(), pl.TCMonitor(TCDecomposition(), SIZE, every_n_steps=5))


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_skipped_step_needs_none(pl):
    class Skipping(outsiders(pl)):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) if batch_idx % 2 else None

    criterion = Counting()
    fit(pl, Skipping(), pl.TCMonitor(criterion, SIZE))
    assert len(criterion.asked) == 2


# Validation


def expected(model, validation, size, seed=0):
    """Return the mean terms over the items of all batches of at least 2 rows."""
    generator, rows, total = torch.Generator().manual_seed(seed), 0, 0
    for x, _ in validation:
        mu, logvar = (moment.detach() for moment in model.encoder(x))
        z = Posterior(mu, mu, logvar).sample(generator=generator).z
        if len(x) > 1:
            total = total + len(x) * torch.stack(decompose(z, mu, logvar, size))
            rows += len(x)
    names = ("index_code_mi", "total_correlation", "dimension_wise_kl", "kl")
    return dict(zip(names, total / rows, strict=True))


LEFT = {
    "sample": lambda self, x: Posterior.from_moments(*self.encoder(x)),
    "mean": lambda self, x: (self.encoder(x)[0], *self.encoder(x)),
    "nothing": None,
}


@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("size", [64, 41, 33], ids=["even", "uneven", "one row left"])
def test_validation_terms_are_means_over_items_of_a_fresh_sample(pl, left, size):
    model = validating(pl, LEFT[left])
    monitor = pl.TCMonitor(TCDecomposition(), SIZE, seed=5)
    trainer = fit(pl, model, monitor, loader(size), max_epochs=2)
    for name, value in expected(model, loader(size), size, seed=5).items():
        torch.testing.assert_close(trainer.callback_metrics[f"val/{name}"], value)


def test_validation_brackets_the_terms(pl):
    trainer = fit(pl, vae(pl), pl.TCMonitor(), loader())
    metrics, bracket = trainer.callback_metrics, Bracket()
    generator = torch.Generator().manual_seed(0)
    for x, _ in loader():
        mu, logvar = (moment.detach() for moment in trainer.model.encoder(x))
        z = Posterior(mu, mu, logvar).sample(generator=generator).z
        bracket.update(z, mu, logvar, SIZE)
    for term in TERMS - {"kl"}:
        interval = bracket.interval(term)
        got = [metrics[f"val/{term}_{end}"].item() for end in ("low", "high")]
        assert got == pytest.approx([interval.low, interval.high], abs=1e-4)


def test_a_single_batch_has_no_bracket(pl):
    trainer = fit(pl, vae(pl), pl.TCMonitor(), loader(batch_size=64))
    assert keys(trainer.callback_metrics, "val/").isdisjoint(ENDS)


def test_validation_alone_works(pl):
    model = vae(pl)
    metrics = pl.Trainer(callbacks=[pl.TCMonitor()]).validate(model, loader(), verbose=False)[0]
    assert keys(metrics, "val/") == TERMS | ENDS | {"mig", "loss", "reconstruction"}


@pytest.mark.parametrize(
    "loaders", [lambda *two: list(two), lambda *two: dict(zip("ab", two, strict=True))]
)
@pytest.mark.parametrize("sizes", [None, (48, 32)])
def test_several_loaders_have_keys_and_sizes_of_their_own(pl, loaders, sizes):
    criterion = Counting(estimator="inclusive")
    monitor = pl.TCMonitor(criterion, SIZE, val_dataset_size=sizes, every_n_steps=0)
    validation = loaders(loader(48), loader(32))
    metrics = fit(pl, vae(pl), monitor, validation, num_sanity_val_steps=0)
    for index in range(2):
        assert keys(metrics.callback_metrics, f"val/{index}/") == TERMS | ENDS | {"mig"}
    assert [arguments[-1] for arguments in criterion.asked] == [48] * 3 + [32] * 2


class Stream(IterableDataset):
    def __iter__(self):
        return iter(data(32))


def test_an_uncertain_size_is_an_error_that_asks_for_it(pl):
    stream = DataLoader(Stream(), 16)
    with pytest.raises(ValueError, match=r"val_dataset_size must be given .* loader 0, a DataLoad"):
        fit(pl, vae(pl), pl.TCMonitor(), stream)
    metrics = fit(pl, vae(pl), pl.TCMonitor(val_dataset_size=32), stream)
    assert keys(metrics.callback_metrics, "val/") >= TERMS


ITEMS = data(20)
SAMPLERS = {
    "sequential": ({"sampler": SequentialSampler(ITEMS)}, 20),
    "random": ({"sampler": RandomSampler(ITEMS)}, 20),
    "shuffle": ({"shuffle": True, "drop_last": True}, 20),
    "distributed": ({"sampler": DistributedSampler(ITEMS, 2, 0)}, 20),
    "several passes": ({"sampler": RandomSampler(ITEMS, num_samples=21)}, None),
    "replacement": ({"sampler": RandomSampler(ITEMS, replacement=True)}, None),
    "weighted": ({"sampler": WeightedRandomSampler([1.0] * 20, 20)}, None),
    "subset": ({"sampler": SubsetRandomSampler(range(5))}, None),
}


@pytest.mark.parametrize("kind", SAMPLERS)
def test_size_of_is_certain_or_none(kind):
    options, size = SAMPLERS[kind]
    assert size_of(DataLoader(ITEMS, 4, **options)) == size


def test_size_of_other_loaders_is_none():
    class Biased(BatchSampler):
        pass

    assert (
        size_of(DataLoader(ITEMS, batch_sampler=Biased(SequentialSampler(ITEMS), 4, False))) is None
    )
    assert size_of(DataLoader(ITEMS, batch_size=None)) is None
    assert size_of(DataLoader(Stream(), 4)) is None
    assert size_of([ITEMS]) is None


@pytest.mark.parametrize("size", [20, 21, 22])
@pytest.mark.parametrize("shuffle", [False, True])
def test_rows_of_a_process_are_those_that_no_other_has(size, shuffle):
    items, seen = range(size), []
    for rank in range(3):
        sampler = DistributedSampler(items, 3, rank, shuffle=shuffle)
        seen += list(sampler)[: rows_of(DataLoader(items, 4, sampler=sampler))]
    assert sorted(seen) == list(items)
    assert rows_of(DataLoader(items, 4)) is None


# MIG


def test_mig_is_that_of_the_means_over_the_whole_set(pl):
    model = vae(pl)
    trainer = fit(pl, model, pl.TCMonitor(), loader(), max_epochs=2)
    x, factors = data().tensors
    score = mig_score(model.encoder(x)[0], factors)
    assert trainer.callback_metrics["val/mig"].item() == pytest.approx(score, abs=1e-6)


def test_factors_may_come_from_a_function(pl):
    def first(batch):
        return np.array([f"size {value}" for value in batch[1][:, 0]])

    model = vae(pl)
    trainer = fit(pl, model, pl.TCMonitor(factors=first), loader())
    x, factors = data().tensors
    score = mig_score(model.encoder(x)[0], factors[:, 0])
    assert trainer.callback_metrics["val/mig"].item() == pytest.approx(score, abs=1e-6)


def test_no_factors_no_mig(pl):
    for none in (False, lambda batch: None):
        monitor = pl.TCMonitor(factors=none)
        assert "val/mig" not in fit(pl, vae(pl), monitor, loader()).callback_metrics


def keyed(batch):
    x, factors = map(torch.stack, zip(*batch, strict=True))
    return {"image": x, "labels": factors}


def test_inputs_factors_and_options_of_the_mig_are_those_of_score(pl):
    options = {"n_bins": 5, "strategy": "quantile"}
    monitor = pl.TCMonitor(
        TCDecomposition(), SIZE, inputs="image", factors="labels", mig=options, every_n_steps=0
    )
    model = validating(pl, None)
    metrics = fit(pl, model, monitor, loader(collate_fn=keyed)).callback_metrics
    with torch.no_grad():
        report = score(
            model, loader(collate_fn=keyed), inputs="image", factors="labels", mig=options
        )
    assert metrics["val/mig"].item() == pytest.approx(report.mig.score, abs=1e-6)
    assert metrics["val/kl"].item() == pytest.approx(report.to_dict()["kl"], rel=1e-5)


@pytest.mark.parametrize("inputs", [lambda batch: batch, lambda batch: batch[0]])
def test_inputs_may_be_a_function_of_the_batch(pl, inputs):
    class Whole(validating(pl, None).__class__):
        def encode(self, batch):
            return super().encode(batch[0] if isinstance(batch, list) else batch)

    monitor = pl.TCMonitor(TCDecomposition(), SIZE, inputs=inputs)
    assert "val/kl" in fit(pl, Whole(), monitor, loader()).callback_metrics


def test_an_index_is_no_factor(pl):
    indexed = DataLoader(TensorDataset(data().tensors[0], torch.arange(SIZE)), 16)
    with pytest.warns(UserWarning, match=r"TCMonitor leaves the factors \[0\] out .* 64 values"):
        metrics = fit(pl, vae(pl), pl.TCMonitor(), indexed).callback_metrics
    assert "val/mig" not in metrics
    assert "val/kl" in metrics


@pytest.mark.parametrize(
    "options", [{"n_bins": 1}, {"strategy": "kmeans"}, {"bins": 3}, {"discrete": True}, 3]
)
def test_options_of_the_mig_are_checked_at_once(pl, options):
    with pytest.raises((TypeError, ValueError), match=r"mig must|n_bins must|strategy must"):
        pl.TCMonitor(mig=options)


def test_ways_to_read_a_batch_are_checked_at_once(pl):
    with pytest.raises(TypeError, match=r"inputs must be a function of a batch, .*; got 0"):
        pl.TCMonitor(inputs=0)
    with pytest.raises(TypeError, match=r"factors must be .*, or False for none; got 1"):
        pl.TCMonitor(factors=1)


# Encoding that fails


FAILURES = {
    "AttributeError": lambda self, x: x.mean_and_logvar(),
    "TypeError": lambda self, x, mask: x,
    "RuntimeError": lambda self, x: self.encoder(x[:, :3]),
    "NoAdapterError": None,
}


@pytest.mark.parametrize("error", FAILURES)
def test_an_encode_that_fails_is_warned_of_once_and_ends_no_training(pl, error):
    class Failing(outsiders(pl)):
        encode = FAILURES[error]

        def validation_step(self, batch, batch_idx):
            pass

    model, monitor = Failing(), pl.TCMonitor(TCDecomposition(), SIZE)
    message = rf"no terms outside training, since Failing cannot encode a batch \({error}: "
    with pytest.warns(UserWarning, match=message) as caught:
        trainer = fit(pl, model, monitor, loader(), max_epochs=2)
    (text,) = [text for text in (str(w.message) for w in caught) if "TCMonitor" in text]
    assert "A batch is a list of 2: Tensor (16, 12) of float32, Tensor (16, 2) of int64. " in text
    assert trainer.global_step == 2 * SIZE // 16
    metrics = trainer.callback_metrics
    assert "train/kl" in metrics
    assert not keys(metrics, "val/")


def test_the_remedy_of_that_warning_works(pl):
    class OfPairs(validating(pl, None).__class__):
        def encode(self, batch):
            x, _ = batch
            return super().encode(x)

    with pytest.warns(UserWarning, match=r"as in inputs=lambda batch: batch or"):
        fit(pl, OfPairs(), pl.TCMonitor(TCDecomposition(), SIZE), loader())
    monitor = pl.TCMonitor(TCDecomposition(), SIZE, inputs=lambda batch: batch)
    assert "val/kl" in fit(pl, OfPairs(), monitor, loader()).callback_metrics


# Tests


def with_test_step(pl):
    def step(self, batch, batch_idx, dataloader_idx=0):
        pass

    return type("Tested", (validating(pl, None).__class__,), {"test_step": step})()


def test_a_test_logs_what_a_validation_does(pl):
    model, monitor = with_test_step(pl), pl.TCMonitor(TCDecomposition(), SIZE)
    trainer = fit(pl, model, monitor, loader())
    validated = trainer.validate(model, loader(41), verbose=False)[0]
    (metrics,) = trainer.test(model, loader(41), verbose=False)
    assert keys(metrics, "test/") == TERMS | ENDS | {"mig"}
    assert {name: metrics[f"test/{name}"] for name in keys(metrics, "test/")} == {
        name: validated[f"val/{name}"] for name in keys(validated, "val/")
    }


def test_test_sets_have_sizes_of_their_own(pl):
    criterion = Counting(estimator="inclusive")
    trainer = pl.Trainer(callbacks=[pl.TCMonitor(criterion, test_dataset_size=(None, 99))])
    metrics = trainer.test(with_test_step(pl), [loader(48), loader(32)], verbose=False)
    assert [arguments[-1] for arguments in criterion.asked] == [48] * 3 + [99] * 2
    assert all(keys(part, f"test/{index}/") for index, part in enumerate(metrics))
    stream = DataLoader(Stream(), 16)
    with pytest.raises(ValueError, match=r"test_dataset_size must be given .* loader 0"):
        pl.Trainer(callbacks=[pl.TCMonitor(criterion)]).test(
            with_test_step(pl), stream, verbose=False
        )
    with pytest.raises(ValueError, match="test_dataset_size must have an entry for each"):
        trainer.test(with_test_step(pl), loader(), verbose=False)


def test_a_test_needs_a_criterion(pl):
    with pytest.raises(ValueError, match="TCMonitor must be given criterion"):
        pl.Trainer(callbacks=[pl.TCMonitor()]).test(with_test_step(pl), loader(), verbose=False)


# The command line


@pytest.mark.parametrize("kind", ["TCVAE", "TCMonitor"])
def test_lightning_cli_can_read_every_integer_option(pl, kind):
    hints = typing.get_type_hints(getattr(pl.adapter, kind).__init__)
    integers = [name for name in hints if name.endswith(("size", "steps", "seed"))]
    assert integers
    for name in integers:
        assert int in (typing.get_args(hints[name]) or (hints[name],))


def with_constants(*columns):
    """Return a loader whose factors have these constant columns between their own."""
    x, factors = data().tensors
    parts = (factors[:, :1], *(torch.full((SIZE, 1), value) for value in columns), factors[:, 1:])
    return DataLoader(TensorDataset(x, torch.cat(parts, dim=1)), 16)


def test_factors_with_a_single_value_are_left_out_with_a_warning(pl):
    model = vae(pl)
    with pytest.warns(UserWarning, match=r"TCMonitor leaves the factors \[1, 2\] out of the MIG"):
        trainer = fit(pl, model, pl.TCMonitor(), with_constants(1, 5))
    x, factors = data().tensors
    score = mig_score(model.encoder(x)[0], factors)
    assert trainer.callback_metrics["val/mig"].item() == pytest.approx(score, abs=1e-6)


def test_a_fit_tells_each_warning_of_the_mig_once(pl):
    monitor, validation = pl.TCMonitor(), with_constants(3)
    for _ in range(2):
        with pytest.warns(UserWarning, match="rows are few|leaves the") as caught:
            fit(pl, vae(pl), monitor, validation, max_epochs=3)
        texts = [str(warning.message) for warning in caught]
        for told in ("rows are few", "leaves the factors [1] out"):
            assert sum(told in text for text in texts) == 1


def test_no_varying_factors_no_mig(pl):
    constant = DataLoader(TensorDataset(data().tensors[0], torch.ones(SIZE, dtype=torch.int)), 16)
    with pytest.warns(UserWarning, match=r"leaves the factors \[0\] out"):
        assert "val/mig" not in fit(pl, vae(pl), pl.TCMonitor(), constant).callback_metrics


def test_factors_with_a_single_value_are_an_error_where_they_were_asked_for(pl):
    monitor = pl.TCMonitor(factors=lambda batch: batch[1])
    with pytest.raises(ValueError, match="factors must take at least two values"):
        fit(pl, vae(pl), monitor, with_constants(1))


def test_one_device_gathers_nothing_in_whatever_process_group_it_runs(pl, monkeypatch):
    monkeypatch.setattr(tally.distributed, "all_gather_object", None)
    monkeypatch.setattr(tally.distributed, "is_initialized", lambda: True)
    alone, factors = tally.Tally(1, 4), np.arange(4) % 2
    alone.add_codes(torch.eye(4), factors)
    assert alone.mig({}) == {"mig": mig_score(torch.eye(4), factors)}
    assert alone.means() == {}


@pytest.mark.parametrize(
    ("options", "count"), [({}, 1), ({"max_epochs": 0}, 0), ({"fast_dev_run": True}, 0)]
)
def test_mig_is_computed_once_a_validation_and_in_no_trial(pl, monkeypatch, options, count):
    calls = []
    monkeypatch.setattr(tally, "mig_score", lambda *arrays: calls.append(arrays) or 0.5)
    fit(pl, vae(pl), pl.TCMonitor(), loader(), **options)
    assert [len(codes) for codes, _ in calls] == [SIZE] * count


def test_a_checkpoint_can_follow_it(pl, tmp_path):
    best = pl.ModelCheckpoint(dirpath=tmp_path, monitor="val/mig", mode="max")
    trainer = pl.Trainer(
        **{**QUIET, "enable_checkpointing": True}, callbacks=[pl.TCMonitor(), best]
    )
    trainer.fit(vae(pl), loader(), loader())
    assert best.best_model_score == trainer.callback_metrics["val/mig"]


def test_half_precision_is_logged(pl):
    metrics = fit(pl, vae(pl), pl.TCMonitor(), loader(), precision="bf16-mixed")
    assert keys(metrics.callback_metrics, "val/") >= TERMS | {"mig"}
    assert all(value.isfinite() for value in metrics.callback_metrics.values())
