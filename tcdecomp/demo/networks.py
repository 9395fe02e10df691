"""The networks, and the schedule that they are trained on."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from tcdecomp_adapters.lightning import TCVAE

__all__ = ["CosineTCVAE", "Encoder", "mlp"]


class Encoder(nn.Module):
    """Images (M, pixels) to the mean and log-variance of q(z|n), (M, D) each."""

    def __init__(self, pixels: int, width: int, latents: int) -> None:
        super().__init__()
        self.layers = mlp(pixels, width, width, 2 * latents)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar; the bounds keep early steps from running away."""
        mu, logvar = self.layers(x).chunk(2, dim=1)
        return mu, logvar.clamp(-12, 4)


def mlp(*widths: int) -> nn.Sequential:
    """Return linear layers of these widths with a ReLU between each two."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class CosineTCVAE(TCVAE):
    """The library's model with a learning rate that falls to 2 % along a cosine."""

    def configure_optimizers(self) -> Any:
        """Return Adam, and the schedule, to be stepped after each batch."""
        adam = super().configure_optimizers()
        cosine = CosineAnnealingLR(adam, self.trainer.max_steps, eta_min=0.02 * self.lr)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}
