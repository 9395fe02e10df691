"""A small VAE framework that knows nothing of tcdecomp."""

import torch
from torch import nn
from torch.nn.functional import softplus


class TheirVAE(nn.Module):
    """A VAE of batches {"image": tensor}; called with one, it returns the loss of a step."""

    def __init__(self, kl_weight=1.0):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(12, 2 * 3), nn.Linear(3, 12)
        self.kl_weight = kl_weight

    def embed(self, batch):
        mean, std = self.encoder(batch["image"]).chunk(2, dim=1)
        return mean, softplus(std)

    def forward(self, batch, n_items=None):
        mean, std = self.embed(batch)
        z = mean + std * torch.randn_like(std)
        return self.loss_function(batch, self.decoder(z), z, mean, std, n_items)

    def loss_function(self, batch, output, z, mean, std, n_items=None):
        error = (output - batch["image"]).square().sum(1)
        kl = 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).sum(1)
        return (error + self.kl_weight * kl).mean()


def fit(model, images, *, epochs=1, callback=None):
    """Train the model on images (n, 12); ``callback(step, loss)`` is called after each step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batches = [rows for _ in range(epochs) for rows in torch.randperm(len(images)).split(64)]
    for step, rows in enumerate(batches):
        loss = model({"image": images[rows]}, n_items=len(images))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if callback is not None:
            callback(step, loss.item())
