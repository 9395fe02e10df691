"""TCVAE with a density ratio, FactorVAE, for both of Lightning's packages."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_models import PACKAGES, SIZE, WARNINGS, framework, loader, vae, weights
from tcdecomp import DensityRatioTC, TCDecomposition, presets

pytestmark = pytest.mark.filterwarnings(*WARNINGS)


@pytest.fixture(params=PACKAGES)
def pl(request):
    pytest.importorskip(request.param)
    return framework(request.param)


def factor_vae(pl, criterion=None, **options):
    ratio = DensityRatioTC(3, width=8, depth=1)
    return vae(pl, criterion or presets.factor_vae(4.0), density_ratio=ratio, **options)


def by_hand(model, batches, lr=1e-3, lr_ratio=1e-4):
    """Algorithm 2 of Kim and Mnih with the closed-form KL: one half of a batch for each network."""
    ratio = model.density_ratio
    adam = torch.optim.Adam([*model.encoder.parameters(), *model.decoder.parameters()], lr=lr)
    adam_ratio = torch.optim.Adam(ratio.parameters(), lr=lr_ratio, betas=(0.5, 0.9))
    for x, _ in batches:
        half = len(x) // 2
        mu, logvar = model.encoder(x[:half])
        z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
        kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1).mean()
        logits = model.decoder(z)
        nll = nn.functional.binary_cross_entropy_with_logits(logits, x[:half], reduction="sum")
        tc = ratio.discriminator(z).mean()
        adam.zero_grad()
        (nll / half + kl + 4.0 * tc).backward()
        adam.step()
        mu, logvar = model.encoder(x[half:])
        z_other = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
        adam_ratio.zero_grad()
        ratio.loss(z, z_other).backward()
        adam_ratio.step()


def test_it_trains_as_the_loop_written_by_hand_does(pl):
    model = factor_vae(pl)
    other = copy.deepcopy(model)
    torch.manual_seed(1)
    pl.Trainer().fit(model, loader())
    torch.manual_seed(1)
    by_hand(other, loader())
    torch.testing.assert_close(weights(model), weights(other))
    assert len(model.posterior.mu) == 8  # a half of the batch


def test_the_criterion_weighs_the_estimate(pl):
    """alpha, beta and gamma keep their meaning; TC comes from the discriminator."""
    model = factor_vae(pl, TCDecomposition(alpha=0.5, beta=3, gamma=2))
    posterior = model.encode(torch.rand(16, 12))
    terms = model.criterion.decompose(*posterior, SIZE)
    tc = model.density_ratio.estimate(posterior.z)
    expected = 2 * terms.kl + (0.5 - 2) * terms.index_code_mi + (3 - 2) * tc
    torch.testing.assert_close(model._penalty(posterior), expected)


def test_the_optimizers_share_no_parameter_and_miss_none(pl):
    model = factor_vae(pl, TCDecomposition(prior=None))
    for_vae, for_ratio = model.configure_optimizers()
    own, theirs = (
        {id(p) for group in optimizer.param_groups for p in group["params"]}
        for optimizer in (for_vae, for_ratio)
    )
    assert not own & theirs
    assert own | theirs == {id(p) for p in model.parameters()}
    assert theirs == {id(p) for p in model.density_ratio.parameters()}


def test_it_logs_and_the_monitor_serves_it(pl):
    trainer = pl.Trainer(callbacks=[pl.TCMonitor()])
    trainer.fit(factor_vae(pl), loader(), loader())
    metrics = trainer.callback_metrics
    assert metrics["train/discriminator"].item() == pytest.approx(math.log(2), abs=0.2)
    assert metrics["train/total_correlation"].isfinite()
    assert metrics["val/loss"].isfinite()


def test_a_checkpoint_resumes_both_networks(pl, tmp_path):
    model = factor_vae(pl)
    trainer = pl.Trainer()
    trainer.fit(model, loader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = factor_vae(pl)
    pl.Trainer(max_epochs=1).fit(loaded, loader(), ckpt_path=tmp_path / "last.ckpt")
    torch.testing.assert_close(weights(loaded), weights(model))


def test_a_batch_too_small_for_halves_is_refused(pl):
    with pytest.raises(ValueError, match=r"batches of at least 4 items.*got 3.*drop_last=True"):
        factor_vae(pl).training_step((torch.rand(3, 12),), 0)


def test_several_processes_are_refused(pl):
    model = factor_vae(pl)
    model._trainer = SimpleNamespace(
        world_size=2, distributed_sampler_kwargs={"num_replicas": 2, "rank": 0}
    )
    with pytest.raises(ValueError, match="density_ratio serves one process; got a trainer of 2"):
        model.training_step((torch.rand(8, 12),), 0)


def test_the_type_is_checked(pl):
    with pytest.raises(TypeError, match="density_ratio must be a DensityRatioTC or None; got Lin"):
        vae(pl, density_ratio=nn.Linear(3, 1))
