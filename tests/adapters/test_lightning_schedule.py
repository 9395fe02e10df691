"""TCSchedule, and a target in a module's own step, for both of Lightning's packages."""

import copy
import pickle

import pytest
import torch
from torch import nn

from lightning_models import SIZE, WARNINGS, loader, outsiders, vae, weights
from tcdecomp import TCDecomposition, attach
from tcdecomp.schedules import Capacity, Cyclic, WarmUp

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]

BETA = WarmUp(6.0, 5, start=1.0)
BATCHES = SIZE // 16


class Recording(TCDecomposition):
    """Keeps the weights of each batch that it has accepted."""

    def __init__(self, **options):
        super().__init__(**options)
        self.used = []

    def forward(self, *batch):
        loss = super().forward(*batch)
        self.used.append((self.alpha, self.beta, self.gamma))
        return loss

    def excess_of(self, *batch):
        excess = super().excess_of(*batch)
        self.used.append((self.alpha, self.beta, self.gamma))
        return excess

    @property
    def betas(self):
        return [beta for _, beta, _ in self.used]


def fit(pl, model, *callbacks, checkpoint=None, **options):
    torch.manual_seed(1)
    trainer = pl.Trainer(callbacks=list(callbacks), **options)
    trainer.fit(model, loader(), ckpt_path=checkpoint)
    return trainer


def test_each_step_has_the_weight_of_its_number(pl):
    criterion = Recording(gamma=2.0)
    schedule = pl.adapter.TCSchedule(alpha=Cyclic(1.0, 4), beta=BETA)
    fit(pl, vae(pl, criterion), schedule, max_epochs=2)
    alphas = [0.0, 0.5, 1.0, 1.0] * 2
    betas = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 6.0, 6.0]
    assert criterion.used == [(a, b, 2.0) for a, b in zip(alphas, betas, strict=True)]


def test_the_weights_train_as_if_they_were_set_by_hand(pl):
    class ByHand(pl.TCVAE):
        def on_train_batch_start(self, batch, batch_idx):
            self.criterion.beta = min(1.0 + batch_idx + BATCHES * self.current_epoch, 6.0)

    scheduled, plain, by_hand = vae(pl), vae(pl), vae(pl)
    by_hand.__class__ = ByHand
    fit(pl, scheduled, pl.adapter.TCSchedule(beta=BETA), max_epochs=2)
    fit(pl, plain, max_epochs=2)
    fit(pl, by_hand, max_epochs=2)
    assert torch.equal(weights(scheduled), weights(by_hand))
    assert not torch.equal(weights(scheduled), weights(plain))


def test_the_criterion_of_an_attachment_is_set(pl):
    model, criterion = outsiders(pl)(), Recording()
    handle = attach(model, criterion, SIZE)
    fit(pl, model, pl.adapter.TCSchedule(beta=BETA))
    assert criterion.betas == [1.0, 2.0, 3.0, 4.0]
    handle.detach()
    with pytest.raises(ValueError, match=r"TCSchedule must be given a module .* VAE has neither"):
        fit(pl, model, pl.adapter.TCSchedule(beta=BETA))


def test_training_resumes_with_the_weight_at_which_it_stopped(pl, tmp_path):
    whole, first, second = Recording(), Recording(), Recording()
    fit(pl, vae(pl, whole), pl.adapter.TCSchedule(beta=BETA), max_epochs=2)
    stopped = fit(pl, vae(pl, first), pl.adapter.TCSchedule(beta=BETA))
    stopped.save_checkpoint(tmp_path / "4.ckpt")
    schedule = pl.adapter.TCSchedule(beta=BETA)
    fit(pl, vae(pl, second), schedule, checkpoint=tmp_path / "4.ckpt", max_epochs=2)
    assert first.betas == [1.0, 2.0, 3.0, 4.0]
    assert second.betas == [5.0, 6.0, 6.0, 6.0]
    assert first.betas + second.betas == whole.betas


def test_accumulated_batches_have_one_weight(pl):
    criterion = Recording()
    schedule = pl.adapter.TCSchedule(beta=BETA)
    fit(pl, vae(pl, criterion), schedule, accumulate_grad_batches=2)
    assert criterion.betas == [1.0, 1.0, 2.0, 2.0]


def test_two_schedules_and_a_monitor_go_together(pl):
    criterion = Recording()
    callbacks = [pl.adapter.TCSchedule(beta=BETA), pl.adapter.TCSchedule(gamma=WarmUp(1, 2))]
    trainer = fit(pl, vae(pl, criterion), *callbacks, pl.TCMonitor())
    assert {"train/total_correlation", "train/loss"} <= set(trainer.callback_metrics)
    assert criterion.used == [
        (1.0, beta, gamma) for beta, gamma in [(1, 0), (2, 0.5), (3, 1), (4, 1)]
    ]


def test_it_can_be_copied_and_pickled(pl):
    schedule = pl.adapter.TCSchedule(beta=BETA)
    for other in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert other.schedules == {"beta": BETA}


# A target


def test_a_target_in_a_step_of_ones_own(pl):
    seen = []
    capacity = Capacity("kl", target=WarmUp(8.0, 4), strength=100)

    class WithTarget(outsiders(pl)):
        def training_step(self, batch, batch_idx):
            mu, logvar = self.encoder(batch[0])
            z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
            error = (torch.sigmoid(self.decoder(z)) - batch[0]).square().sum(1).mean()
            terms = TCDecomposition().decompose(z, mu, logvar, SIZE)
            loss = error + capacity(terms, self.global_step)
            seen.append((terms.kl.item(), (loss - error).item()))
            return loss

    fit(pl, WithTarget(), max_epochs=2)
    for (kl, penalty), target in zip(seen, [0, 2, 4, 6, 8, 8, 8, 8], strict=True):
        assert penalty == pytest.approx(100 * abs(kl - target), abs=1e-3)


# Errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "TCSchedule must be given a schedule of alpha, .*; got none"),
        ({"betta": BETA}, TypeError, "unexpected keyword argument 'betta'"),
        ({"beta": 6.0}, TypeError, "beta must be a schedule, a callable .*; got float"),
        ({"beta": WarmUp(-1, 10)}, ValueError, "beta must be finite and at least 0; got -1.0"),
        (
            {"gamma": Cyclic(1, 10, low=-1)},
            ValueError,
            "gamma must be finite and at least 0; got -1.0",
        ),
        ({"alpha": lambda step: torch.ones(())}, TypeError, "alpha must be a number; got Tensor"),
    ],
)
def test_wrong_schedules_are_refused(pl, options, error, message):
    with pytest.raises(error, match=message):
        pl.adapter.TCSchedule(**options)


def test_a_negative_alpha_is_a_weight(pl):
    criterion = Recording()
    fit(pl, vae(pl, criterion), pl.adapter.TCSchedule(alpha=WarmUp(-1.0, 2, start=1.0)))
    assert [alpha for alpha, _, _ in criterion.used] == [1.0, 0.0, -1.0, -1.0]


def test_a_schedule_that_goes_wrong_stops_at_its_step(pl):
    criterion = Recording()
    schedule = pl.adapter.TCSchedule(beta=lambda step: 1.0 - step)
    with pytest.raises(ValueError, match=r"beta must be .* at least 0; got -1.0"):
        fit(pl, vae(pl, criterion), schedule)
    assert criterion.betas == [1.0, 0.0]


def test_a_module_without_a_criterion_is_refused_before_the_first_step(pl):
    model = outsiders(pl)()
    model.criterion = nn.MSELoss()
    with pytest.raises(ValueError, match=r"TCSchedule must be given a module .* criterion .*VAE"):
        fit(pl, model, pl.adapter.TCSchedule(beta=BETA))
    assert not hasattr(model, "posterior")


def test_a_test_run_needs_no_criterion(pl):
    class Tested(outsiders(pl)):
        def test_step(self, batch, batch_idx):
            self.tested = True

    model = Tested()
    pl.Trainer(callbacks=[pl.adapter.TCSchedule(beta=BETA)]).test(model, loader(), verbose=False)
    assert model.tested
