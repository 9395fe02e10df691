"""A LightningModule by its seam: the Trainer, the logs and TCMonitor."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from lightning_models import DIM, PIXELS, SIZE, WARNINGS, Encoder, data, loader, weights
from tcdecomp import Seam, TCDecomposition, attach, find_seam
from tcdecomp.plugins import Attachment

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]


def stranger(pl, kl_weight=0.01):
    """Return a VAE that leaves no posterior behind, scales its KL and logs."""

    class VAE(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.encoder = nn.Sequential(Encoder())
            self.decoder = nn.Sequential(nn.BatchNorm1d(DIM), nn.Linear(DIM, PIXELS))

        def training_step(self, batch, batch_idx):
            mu, logvar = self.encoder(batch[0])
            z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
            logits = self.decoder(z)
            recon = F.binary_cross_entropy_with_logits(logits, batch[0])
            kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1).mean()
            self.log("kl", kl, on_step=False, on_epoch=True)
            return {"loss": recon + kl_weight * kl, "kl": kl.detach()}

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)

    return VAE()


def fit(pl, model, **options):
    torch.manual_seed(1)
    trainer = pl.Trainer(**options)
    trainer.fit(model, loader(shuffle=True))
    return trainer


def test_find_seam_knows_training_step(pl):
    with pytest.warns(UserWarning, match="self.trainer"):
        stranger(pl).training_step(data(16).tensors, 0)
    seam = find_seam(stranger(pl), data(16).tensors, quiet=True)
    assert seam == Seam("encoder", "decoder", loss="training_step")


SEAM = Seam("encoder", "decoder")


def test_weights_of_one_are_its_own_training_and_its_own_log(pl):
    model, plain = stranger(pl), stranger(pl)
    attach(model, TCDecomposition(), SIZE, seam=SEAM)
    logged = [fit(pl, module).callback_metrics["kl"] for module in (model, plain)]
    assert torch.equal(weights(model), weights(plain))
    assert torch.equal(*logged)
    assert Attachment.of(model).kl_weight == pytest.approx(0.01, rel=1e-4)


def test_other_weights_change_it(pl):
    model, plain = stranger(pl), stranger(pl)
    attach(model, TCDecomposition(beta=50), SIZE, seam=SEAM)
    for module in (model, plain):
        fit(pl, module)
    assert (weights(model) - weights(plain)).abs().max() > 1e-4


def test_the_monitor_logs_the_terms_of_an_attached_module(pl):
    model = stranger(pl)
    handle = attach(model, TCDecomposition(beta=6), SIZE, seam=SEAM)
    torch.manual_seed(1)
    trainer = pl.Trainer(callbacks=[pl.TCMonitor()])
    trainer.fit(model, loader(shuffle=True))
    logged = trainer.callback_metrics
    assert_logged(logged, handle.terms())


def assert_logged(logged, terms):
    for name in ("index_code_mi", "total_correlation", "dimension_wise_kl", "kl"):
        torch.testing.assert_close(logged[f"train/{name}"], getattr(terms, name).float())
