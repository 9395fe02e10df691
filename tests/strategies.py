"""Hypothesis strategies: batches, and problems whose answer is known."""

import math

import torch
from hypothesis import strategies as st


def draw_posterior(seed, size, dim, dtype=torch.float64, scale=1.0):
    """A random batch (z, mu, logvar) from a seed."""
    g = torch.Generator().manual_seed(seed)
    mu = scale * torch.randn(size, dim, generator=g, dtype=torch.float64)
    logvar = torch.randn(size, dim, generator=g, dtype=torch.float64) - 1
    z = mu + (0.5 * logvar).exp() * torch.randn(size, dim, generator=g, dtype=torch.float64)
    return z.to(dtype), mu.to(dtype), logvar.to(dtype)


@st.composite
def batches(draw, min_size=2, max_size=7, max_dim=4):
    """(z, mu, logvar, N): a float64 batch and a data-set size of at least its own."""
    size = draw(st.integers(min_size, max_size))
    dim = draw(st.integers(1, max_dim))
    z, mu, logvar = draw_posterior(draw(st.integers(0, 2**31)), size, dim)
    return z, mu, logvar, size + draw(st.sampled_from([0, 1, 5, 1000]))


@st.composite
def separated(draw):
    """(z, mu, logvar, D): posteriors so far apart, in every dimension, that none sees another.

    Each density is then its own component's times its weight, whatever the sample is: with own
    weight w, log q(z) = log q(z|n) + log w and log q(z_j) = log q(z_j|n) + log w.
    """
    size, dim = draw(st.integers(2, 8)), draw(st.integers(1, 4))
    z, _, logvar = draw_posterior(draw(st.integers(0, 2**31)), size, dim, scale=0.0)
    centres = 1000.0 * torch.arange(size, dtype=torch.float64)[:, None].expand(size, dim)
    return z + centres, centres.contiguous(), logvar, dim


@st.composite
def grids(draw):
    """(z, mu, logvar): far-apart posteriors on a full grid, so that dimensions are independent."""
    sides = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    axes = [1000.0 * torch.arange(side, dtype=torch.float64) for side in sides]
    mu = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(math.prod(sides), -1)
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logvar = torch.zeros_like(mu)
    return mu + torch.randn(mu.shape, generator=g, dtype=mu.dtype), mu, logvar
