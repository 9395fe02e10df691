"""Small Lightning models and data, for either package and for several processes."""

import importlib
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

from tcdecomp import TCDecomposition

PACKAGES = ("lightning", "pytorch_lightning")
SIZE, PIXELS, DIM = 64, 12, 3
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
    "max_epochs": 1,
}
# What the package says of its own accord, on some versions of torch or machines.
WARNINGS = (
    "ignore:.*LeafSpec.*is deprecated:FutureWarning",
    "ignore:.*does not have many workers",
    "ignore:GPU available but not used",
    r"ignore:`torch.jit.\w+` is deprecated:DeprecationWarning",
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
)


def framework(package):
    """Return the names that the tests need, from a package and from its adapter."""
    pl = importlib.import_module("lightning.pytorch" if package == "lightning" else package)
    adapter = importlib.import_module(f"tcdecomp_adapters.{package}")
    return SimpleNamespace(
        name=package,
        LightningModule=pl.LightningModule,
        Callback=pl.Callback,
        ModelCheckpoint=pl.callbacks.ModelCheckpoint,
        Trainer=lambda **options: pl.Trainer(**{**QUIET, **options}),
        TCVAE=adapter.TCVAE,
        TCMonitor=adapter.TCMonitor,
        adapter=adapter,
    )


class Encoder(nn.Linear):
    """A linear encoder to (mu, logvar)."""

    def __init__(self, dim=DIM):
        super().__init__(PIXELS, 2 * dim)

    def forward(self, x):
        return super().forward(x).chunk(2, dim=1)


def data(size=SIZE, seed=0):
    """Return images with two integer factors that show in them."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.stack([torch.arange(size) % 4, torch.arange(size) // 4 % 4], dim=1)
    x = torch.rand(size, PIXELS, generator=generator)
    x[:, :2] = factors / 4
    return TensorDataset(x, factors)


def loader(size=SIZE, batch_size=16, **options):
    # A generator of its own: an iterator draws its base seed even where it does not shuffle.
    options.setdefault("generator", torch.Generator().manual_seed(0))
    return DataLoader(data(size), batch_size, **options)


def vae(pl, criterion=None, **options):
    """Return a ready VAE with the same weights each time."""
    criterion = criterion or TCDecomposition(beta=6)
    torch.manual_seed(0)
    return pl.TCVAE(Encoder(), nn.Linear(DIM, PIXELS), criterion, SIZE, **options)


def outsiders(pl):
    """Return a VAE as its author wrote it, who knows of no criterion."""

    class VAE(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.encoder, self.decoder = Encoder(), nn.Linear(DIM, PIXELS)

        def kl(self, z, mu, logvar):
            return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1).mean()

        def losses(self, batch):
            x = batch[0]
            mu, logvar = self.encoder(x)
            z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
            self.posterior = (z, mu, logvar)
            logits = self.decoder(z)
            reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
            return reconstruction + self.kl(z, mu, logvar)

        def training_step(self, batch, batch_idx):
            return self.losses(batch)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)

    return VAE


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
