"""The docs' table "your loss, our call": each row against the loss that it replaces."""

import pytest
import torch

from strategies import draw_posterior
from tcdecomp import TCDecomposition
from tolerances import assert_close

M, D, N, PIXELS = 7, 3, 100, 12
WEIGHT = 0.25  # the kld_weight of a loss


def kl(mu, logvar):
    """Return the KL of each row and dimension as people write it, shape (M, D)."""
    return -0.5 * (1 + logvar - mu**2 - logvar.exp())


def your_losses(error, mu, logvar):
    """Return each loss of the table's first column; the error has shape (M, pixels)."""
    per_item, per_image = kl(mu, logvar).sum(1), error.sum(1)
    return {
        "mean": per_image.mean() + per_item.mean(),
        "sum": error.sum() + kl(mu, logvar).sum(),
        "mean over dimensions": per_image.mean() + kl(mu, logvar).mean(),
        "weight": per_image.mean() + WEIGHT * per_item.mean(),
        "mean over pixels": error.mean() + per_item.mean() / PIXELS,
    }


def our_losses(error, batch, weights):
    """Return each loss with the call of the table's second column."""
    per_image = error.sum(1)
    criterion = TCDecomposition(**weights)
    over_items = TCDecomposition(reduction="sum", **weights)
    return {
        "mean": per_image.mean() + criterion(*batch, N),
        "sum": error.sum() + over_items(*batch, N),
        "mean over dimensions": per_image.mean() + criterion(*batch, N) / D,
        "weight": per_image.mean() + WEIGHT * criterion(*batch, N),
        "mean over pixels": error.mean() + criterion(*batch, N) / PIXELS,
    }


def drawn():
    """Return leaves mu, logvar and decoder weights, a sample z, and the reconstruction error."""
    _, mu, logvar = draw_posterior(0, M, D)
    g = torch.Generator().manual_seed(1)
    noise, decoder = (torch.randn(s, D, generator=g, dtype=mu.dtype) for s in (M, PIXELS))
    images = torch.rand(M, PIXELS, generator=g, dtype=mu.dtype)
    leaves = [t.requires_grad_() for t in (mu, logvar, decoder)]
    z = mu + (0.5 * logvar).exp() * noise
    return leaves, z, (z @ decoder.T - images).square()


ROWS = ("mean", "sum", "mean over dimensions", "weight", "mean over pixels")


@pytest.mark.parametrize("row", ROWS)
def test_equal_weights_change_no_value_and_no_gradient(row):
    (mu, logvar, decoder), z, error = drawn()
    losses = your_losses(error, mu, logvar)[row], our_losses(error, (z, mu, logvar), {})[row]
    want, got = losses
    assert_close(got, want)
    gradients = [
        torch.autograd.grad(loss, (mu, logvar, decoder), retain_graph=True) for loss in losses
    ]
    for a, b in zip(*gradients, strict=True):
        assert_close(b, a)


@pytest.mark.parametrize("row", ROWS)
def test_other_weights_keep_the_scale_of_the_loss(row):
    """What beta adds is 5 TC on the scale that the row gives to the KL."""
    scale = {"sum": M, "mean over dimensions": 1 / D, "weight": WEIGHT}
    scale["mean over pixels"] = 1 / PIXELS
    (mu, logvar, _), z, error = drawn()
    batch = z, mu, logvar
    added = our_losses(error, batch, {"beta": 6})[row] - your_losses(error, mu, logvar)[row]
    tc = TCDecomposition().decompose(*batch, N).total_correlation
    assert_close(added, 5 * scale.get(row, 1.0) * tc)
