r"""Entropies of the one-dimensional marginals q(z_j), by quadrature.

q(z_j) = (1/N) sum_n N(z_j; mu_nj, sd_nj^2) is tabulated on a regular grid, on which the trapezoidal
rule is exact to about 1e-10 nats for densities as smooth as these: four points for each smallest
standard deviation, and eight standard deviations to either side of each component.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tcdecomp._progress import progress

__all__ = ["mean_log_marginals"]

REACH = 8.0  # standard deviations to either side of a component
POINTS = 4.0  # for each smallest standard deviation
LARGEST_GRID = 2**22
LARGEST_WORK = 2**33  # component densities for one dimension
CHUNK = 2**20


def mean_log_marginals(mu: Tensor, logvar: Tensor) -> Tensor | None:
    """Return E_q(z_j)[log q(z_j)] for each dimension, shape (D,), in float64, in nats.

    Parameters
    ----------
    mu, logvar : Tensor, shape (N, D)
        The components of q(z).

    Returns
    -------
    Tensor or None
        None where the standard deviations within a dimension are so far apart that no one grid
        serves them all.
    """
    results = []
    if mu.device.type == "mps":  # which has no float64
        mu, logvar = mu.cpu(), logvar.cpu()
    dimensions = list(zip(mu.double().T, (0.5 * logvar.double()).exp().T, strict=True))
    for centres, std in progress(dimensions, "densities q(z_j)"):
        density = _tabulated(centres, std)
        if density is None:
            return None
        results.append(torch.special.xlogy(density, density).sum() * (std.min() / POINTS))
    return torch.stack(results)


def _tabulated(centres: Tensor, std: Tensor) -> Tensor | None:
    """Return the mixture's density on its grid, or None if that would take too long."""
    step = (std.min() / POINTS).item()
    low = (centres - REACH * std).min().item()
    size = math.ceil(((centres + REACH * std).max().item() - low) / step) + 2
    work = 2 * REACH * (std / step).sum().item()
    if not (size <= LARGEST_GRID and work <= LARGEST_WORK):
        return None
    density = centres.new_zeros(size)
    order = std.argsort()  # neighbours in this order need stretches of about one length
    centres, std = centres[order], std[order]
    start = 0
    while start < len(std):
        # The widest of a chunk sets the length of all its stretches: at most twice the narrowest.
        widest = 2 * std[start]
        alike = int(torch.searchsorted(std, widest, right=True))
        stop = min(alike, start + max(1, int(CHUNK * step / (2 * REACH * widest.item()))))
        _add(density, centres[start:stop], std[start:stop], low, step)
        start = stop
    return density / len(std)


def _add(density: Tensor, centres: Tensor, std: Tensor, low: float, step: float) -> None:
    """Add the densities of some components, each on the stretch of the grid that it reaches."""
    first = ((centres - REACH * std - low) / step).floor().long()
    length = math.ceil(2 * REACH * std.max().item() / step) + 2
    index = first[:, None] + torch.arange(length, device=centres.device)
    index = index.clamp_(max=density.shape[0] - 1)
    residuals = (low + step * index.to(centres.dtype) - centres[:, None]) / std[:, None]
    values = (-0.5 * residuals.square()).exp() / (std[:, None] * math.sqrt(2 * math.pi))
    density.index_add_(0, index.flatten(), values.flatten())
