"""Small VAEs that keep their posterior where public code bases keep it.

Each copies the structure of a code base, not its code: where the moments are, how z reaches the
decoder, where the loss is and how it scales the KL. ``loss_of`` is the loss of one training step.
"""

from types import SimpleNamespace

import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F  # noqa: N812

PIXELS, DIM, LABELS = 12, 3, 4


def images(rows=32, seed=0):
    return torch.rand(rows, PIXELS, generator=torch.Generator().manual_seed(seed))


def pictures(rows=16, seed=0):
    return torch.rand(rows, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def sample(mu, logvar):
    return mu + (0.5 * logvar).exp() * torch.randn_like(mu)


def kl_of(mu, logvar):
    """The KL of each item, in nats, summed over its dimensions."""
    return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).flatten(1).sum(1)


def squared_error(x, recon):
    return (x - recon).square().flatten(1).sum(1).mean()


class TwoHeads(nn.Module):
    """fc_mu and fc_var; forward returns a list; loss_function, fed with it, returns a dict."""

    def __init__(self, kld_weight=0.00025):
        super().__init__()
        self.kld_weight = kld_weight
        self.encoder = nn.Sequential(nn.Linear(PIXELS, 16), nn.BatchNorm1d(16), nn.LeakyReLU())
        self.fc_mu, self.fc_var = nn.Linear(16, DIM), nn.Linear(16, DIM)
        self.decoder_input = nn.Linear(DIM, 16)
        self.decoder = nn.Sequential(nn.ReLU(), nn.Linear(16, PIXELS))

    def forward(self, x):
        hidden = self.encoder(x)
        mu, logvar = self.fc_mu(hidden), self.fc_var(hidden)
        return [self.decoder(self.decoder_input(sample(mu, logvar))), x, mu, logvar]

    def loss_function(self, *args, **kwargs):
        recon, x, mu, logvar = args
        reconstruction, kl = squared_error(x, recon), kl_of(mu, logvar).mean()
        loss = reconstruction + kwargs["M_N"] * kl
        return {"loss": loss, "Reconstruction_Loss": reconstruction.detach(), "KLD": -kl.detach()}

    def loss_of(self, x):
        return self.loss_function(*self(x), M_N=self.kld_weight)["loss"]


class Residual(nn.Module):
    """Sums and products of what layers give, which look like mu + sd * noise."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(2, 8, affine=False), nn.Conv2d(8, 8, 3, padding=1)
        self.shift, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.shortcut, self.factor = (
            nn.Sequential(nn.Conv2d(8, 8, 1), nn.Softplus()) for _ in range(2)
        )

    def forward(self, x):
        x = self.conv(x) + self.shortcut(x)
        return self.last(self.shift(x) + self.factor(x) * self.norm(x))


class OneConv(nn.Module):
    """quant_conv, cut in two along the channels; z through post_quant_conv; a sum of the KL."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 6, 3, 2, 1), nn.SiLU(), nn.Conv2d(6, 8, 3, 2, 1), Residual()
        )
        self.quant_conv = nn.Conv2d(8, 4, 1)
        self.post_quant_conv = nn.Conv2d(2, 8, 1)
        self.decoder = nn.Sequential(
            Residual(),
            nn.ConvTranspose2d(8, 6, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(6, 1, 4, 2, 1),
        )

    def encode(self, x):
        return self.quant_conv(self.encoder(x))

    def decode(self, z):
        return self.decoder(self.post_quant_conv(z))

    def forward(self, x, sample_posterior=True):
        mu, logvar = torch.chunk(self.encode(x), 2, dim=1)
        logvar = logvar.clamp(-30.0, 20.0)
        return self.decode(sample(mu, logvar) if sample_posterior else mu), (mu, logvar)

    def loss_of(self, x):
        recon, moments = self(x)
        loss = (x - recon).abs().sum() + 1e-6 * kl_of(*moments).sum()
        return loss / len(x)


class LatentDist(OneConv):
    """encode returns an object with a latent_dist, as in diffusers; forward takes its mode."""

    def encode(self, x):
        mean, logvar = torch.chunk(super().encode(x), 2, dim=1)
        latent = SimpleNamespace(mean=mean, logvar=logvar, sample=lambda: sample(mean, logvar))
        return SimpleNamespace(latent_dist=latent)

    def forward(self, x, sample_posterior=False):
        latent = self.encode(x).latent_dist
        return SimpleNamespace(
            sample=self.decode(latent.sample() if sample_posterior else latent.mean)
        )

    def loss_of(self, x):
        latent = self.encode(x).latent_dist
        recon = self.decode(latent.sample())
        return squared_error(x, recon) + kl_of(latent.mean, latent.logvar).mean()


class OneLinear(nn.Module):
    """latent_proj, cut in two, and latent_out_proj; forward returns an object with .loss."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(PIXELS, 16), nn.GELU())
        self.latent_proj, self.latent_out_proj = nn.Linear(16, 2 * DIM), nn.Linear(DIM, 16)
        self.decoder = nn.Sequential(nn.GELU(), nn.Linear(16, PIXELS))

    def forward(self, pixel_values, return_loss=True):
        mu, logvar = self.latent_proj(self.encoder(pixel_values)).chunk(2, dim=-1)
        recon = self.decoder(self.latent_out_proj(sample(mu, logvar)))
        kl = kl_of(mu, logvar).mean() / DIM
        loss = F.mse_loss(recon, pixel_values) + kl if return_loss else None
        return SimpleNamespace(loss=loss, recon=recon, mu=mu, logvar=logvar)

    def loss_of(self, x):
        return self(x).loss


class Pair(nn.Module):
    """An encoder that returns (loc, scale); the model's forward returns the loss."""

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(PIXELS, 16)
            self.loc, self.raw_scale = nn.Linear(16, DIM), nn.Linear(16, DIM)

        def forward(self, x):
            hidden = self.hidden(x).tanh()
            return self.loc(hidden), F.softplus(self.raw_scale(hidden)) + 1e-3

    def __init__(self):
        super().__init__()
        self.encoder = Pair.Encoder()
        self.decoder = nn.Sequential(nn.Linear(DIM, 16), nn.Tanh(), nn.Linear(16, PIXELS))

    def forward(self, x):
        posterior = Normal(*self.encoder(x))
        recon = self.decoder(posterior.rsample())
        prior = Normal(torch.zeros(DIM), torch.ones(DIM))
        return squared_error(x, recon) + kl_divergence(posterior, prior).sum(1).mean()

    def loss_of(self, x):
        return self(x)


class LogSD(TwoHeads):
    """Two heads of which one gives log standard deviations."""

    def __init__(self):
        super().__init__(kld_weight=1.0)

    def forward(self, x):
        hidden = self.encoder(x)
        mu, log_sd = self.fc_mu(hidden), self.fc_var(hidden)
        z = mu + log_sd.exp() * torch.randn_like(mu)
        return [self.decoder(self.decoder_input(z)), x, mu, 2 * log_sd]


class Variance(nn.Module):
    """An encoder that returns (mean, variance, z), as in single-cell models; compute_loss(x)."""

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Sequential(nn.Linear(PIXELS, 16), nn.ReLU(), nn.Dropout(0.1))
            self.mean_encoder, self.var_encoder = nn.Linear(16, DIM), nn.Linear(16, DIM)

        def forward(self, x):
            hidden = self.hidden(x)
            mean, variance = self.mean_encoder(hidden), self.var_encoder(hidden).exp() + 1e-4
            return mean, variance, Normal(mean, variance.sqrt()).rsample()

    def __init__(self):
        super().__init__()
        self.z_encoder = Variance.Encoder()
        self.decoder = nn.Sequential(nn.Linear(DIM, 16), nn.ReLU(), nn.Linear(16, PIXELS))

    def compute_loss(self, x):
        mean, variance, z = self.z_encoder(x)
        kl = kl_of(mean, variance.log()).mean()
        return squared_error(x, self.decoder(z)) + kl, {"kl": kl.detach()}

    def forward(self, x):
        return self.decoder(self.z_encoder(x)[2])

    def loss_of(self, x):
        return self.compute_loss(x)[0]


class Conditional(nn.Module):
    """Labels joined to z, before or behind it."""

    def __init__(self, labels_first=False):
        super().__init__()
        self.labels_first = labels_first
        self.encoder = nn.Sequential(nn.Linear(PIXELS + LABELS, 16), nn.ReLU())
        self.fc_mu, self.fc_var = nn.Linear(16, DIM), nn.Linear(16, DIM)
        self.decoder = nn.Sequential(nn.Linear(DIM + LABELS, 16), nn.ReLU(), nn.Linear(16, PIXELS))

    def forward(self, x, y):
        hidden = self.encoder(torch.cat([x, y], dim=1))
        mu, logvar = self.fc_mu(hidden), self.fc_var(hidden)
        parts = [sample(mu, logvar), y]
        joined = torch.cat(parts[::-1] if self.labels_first else parts, dim=1)
        return self.decoder(joined), mu, logvar

    def loss_of(self, batch):
        recon, mu, logvar = self(*batch)
        return squared_error(batch[0], recon) + kl_of(mu, logvar).mean()


class Sampling(nn.Module):
    """The sampling is a layer; the loss is a tuple of the method ``loss``, a sum over the batch."""

    class Draw(nn.Module):
        def forward(self, mu, logvar):
            return sample(mu, logvar)

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(PIXELS, 16), nn.ReLU(), nn.Linear(16, 2 * DIM))
        self.draw = Sampling.Draw()
        self.generator = nn.Sequential(nn.Linear(DIM, 16), nn.ReLU(), nn.Linear(16, PIXELS))

    def loss(self, x):
        mu, logvar = self.body(x).chunk(2, dim=1)
        recon = self.generator(self.draw(mu, logvar))
        kl, error = kl_of(mu, logvar).sum(), (x - recon).square().sum()
        return error + kl, error, kl

    def loss_of(self, x):
        return self.loss(x)[0]


class Steps(TwoHeads):
    """The structure of a LightningModule: training_step(batch, batch_idx) returns a dict."""

    def __init__(self, kld_weight=1.0):
        super().__init__(kld_weight)
        self.counted = 0

    def log_dict(self, values):
        self.logged = values

    def training_step(self, batch, batch_idx):
        losses = self.loss_function(*self(batch[0]), M_N=self.kld_weight)
        self.counted += 1
        self.log_dict({name: value.detach() for name, value in losses.items()})
        return losses

    def loss_of(self, batch):
        return self.training_step(batch, 0)["loss"]


class Experts(nn.Module):
    """A product of experts in a function: no layer gives the moments."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(PIXELS // 2, 2 * DIM) for _ in range(2))
        self.decoder = nn.Linear(DIM, PIXELS)

    def forward(self, x):
        halves = zip(self.experts, x.chunk(2, dim=1), strict=True)
        moments = [expert(part).chunk(2, dim=1) for expert, part in halves]
        precision = 1 + sum((-logvar).exp() for _, logvar in moments)
        mu = sum(mu * (-logvar).exp() for mu, logvar in moments) / precision
        logvar = -precision.log()
        return self.decoder(sample(mu, logvar)), mu, logvar

    def loss_of(self, x):
        recon, mu, logvar = self(x)
        return squared_error(x, recon) + kl_of(mu, logvar).mean()


class Direct(TwoHeads):
    """Calls forward of its layers, past their hooks."""

    def forward(self, x):
        hidden = self.encoder(x)
        mu, logvar = self.fc_mu.forward(hidden), self.fc_var.forward(hidden)
        return [self.decoder(self.decoder_input.forward(sample(mu, logvar))), x, mu, logvar]


class Plain(nn.Module):
    """An autoencoder without noise."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(PIXELS, 2 * DIM), nn.Linear(DIM, PIXELS)

    def forward(self, x):
        return self.decoder(self.encoder(x)[:, :DIM])

    def loss_of(self, x):
        return squared_error(x, self(x))


class TwoLevels(nn.Module):
    """Two latents, one above the other."""

    def __init__(self):
        super().__init__()
        self.lower, self.upper = nn.Linear(PIXELS, 2 * DIM), nn.Linear(DIM, 4)
        self.middle, self.decoder = nn.Linear(2, DIM), nn.Linear(DIM, PIXELS)

    def forward(self, x):
        z = sample(*self.lower(x).chunk(2, dim=1))
        above = sample(*self.upper(z).chunk(2, dim=1))
        return self.decoder(z + self.middle(above))


def conditional_batch(rows=32):
    labels = F.one_hot(torch.arange(rows) % LABELS, LABELS).float()
    return images(rows), labels


class Known(SimpleNamespace):
    """A structure, a batch for it, and the seam to be found."""


def structures():
    """Return every structure whose seam can be found, by name, with the answer."""
    x = images()
    heads = {"moments": ("fc_mu", "fc_var"), "scale": "logvar"}
    through_layer = {**heads, "z": "decoder_input"}
    conv = {"moments": "quant_conv", "z": "post_quant_conv", "scale": "logvar", "loss": None}
    joined = {**heads, "z": "decoder", "loss": None}
    return {
        "two heads": Known(
            kind=TwoHeads, batch=x, seam={**through_layer, "loss": "loss_function"}, weight=0.00025
        ),
        "one convolution": Known(kind=OneConv, batch=pictures(), seam=conv, weight=1e-6),
        "one linear layer": Known(
            kind=OneLinear,
            batch=x,
            seam={
                "moments": "latent_proj",
                "z": "latent_out_proj",
                "scale": "logvar",
                "loss": "forward",
            },
            weight=1 / DIM,
        ),
        "a pair": Known(
            kind=Pair,
            batch=x,
            seam={"moments": "encoder", "z": "decoder", "scale": "sd", "loss": "forward"},
            weight=1.0,
        ),
        "log_sd": Known(
            kind=LogSD,
            batch=x,
            seam={**through_layer, "scale": "log_sd", "loss": "loss_function"},
            weight=1.0,
        ),
        "variance": Known(
            kind=Variance,
            batch=x,
            seam={
                "moments": "z_encoder",
                "z": "decoder",
                "scale": "variance",
                "loss": "compute_loss",
            },
            weight=1.0,
        ),
        "labels behind z": Known(
            kind=Conditional, batch=conditional_batch(), seam=joined, weight=1.0
        ),
        "labels before z": Known(
            kind=lambda: Conditional(labels_first=True),
            batch=conditional_batch(),
            seam=joined,
            weight=1.0,
        ),
        "a sampling layer": Known(
            kind=Sampling,
            batch=x,
            seam={"moments": "body", "z": "generator", "scale": "logvar", "loss": "loss"},
            weight=32.0,
        ),
        "training_step": Known(
            kind=Steps,
            batch=[x, torch.zeros(32)],
            seam={**through_layer, "loss": "training_step"},
            weight=1.0,
        ),
    }
