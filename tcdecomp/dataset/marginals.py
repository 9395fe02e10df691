"""The marginals q(z_j) of a data set: their entropies, and their densities at samples.

Both come from one table for each dimension, in time linear in the number of items; see
:mod:`tcdecomp.dataset.lattices`. Against the exact mixture, the entropies are right to 1e-8 nats,
and so is log q(z_j) at nearly all samples. At a sample that lies NEAR standard deviations from the
mean of its own posterior, and far from all others, it is right to 1e-4. The few samples that lie
farther out are summed exactly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tcdecomp._processes import Division
from tcdecomp.dataset.lattices import Lattices, TooLongError
from tcdecomp.kernels import Components, log_sum

__all__ = ["Marginals"]

NEAR = 5.0
LARGEST = 2**22  # lattice points for each dimension


class Marginals:
    """The tables of q(z_j), the mixtures of all items' posteriors with weights 1 / N.

    Parameters
    ----------
    mu, logvar : Tensor, shape (N, D)
        Finite moments of all items, in every process.
    division : Division
        The processes, each of which has the tables of some dimensions.

    Attributes
    ----------
    mean_logs : Tensor, shape (D,), or None
        E_q(z_j)[log q(z_j)], in float64, in nats. None if there are no tables, because standard
        deviations within a dimension are too far apart, or too small beside the range of the means.
    """

    def __init__(self, mu: Tensor, logvar: Tensor, division: Division) -> None:
        self._mu, self._logvar, self._division = mu, logvar, division
        self._mine = list(division.mine(mu.shape[1]))
        self._lattices = Lattices(len(self._mine), 1, mu.device, LARGEST * len(self._mine))
        means = self._lattices.table.new_zeros(mu.shape[1])
        one_class = torch.zeros_like(mu[:, :1], dtype=torch.long)
        try:
            self._lattices.add(mu[:, self._mine], logvar[:, self._mine], one_class)
            means[self._mine] = self._mean_logs()
        except TooLongError:
            means[self._mine] = torch.nan
        means = division.total(means)
        self.mean_logs = None if means.isnan().any() else means

    def log_densities(self, z: Tensor, items: Tensor) -> Tensor:
        """Return log q(z_j) at samples of the items, shape (S, D), where there are tables."""
        found = self._lattices.table.new_zeros(z.shape)
        points, order = z[:, self._mine].T.to(found).sort(1)
        densities = self._lattices.densities(list(points))
        for j, places, density in zip(self._mine, order, densities, strict=True):
            found[places, j] = (density[0] / len(self._mu)).log()
        found = self._division.total(found).to(z)
        away = (z - self._mu[items]).abs() > NEAR * (0.5 * self._logvar[items]).exp()
        if (far := away.any(1)).any():
            exact = log_sum(z[far], Components(self._mu, self._logvar), keep="all")[1]
            found[far] = exact - math.log(len(self._mu))
        return found

    def _mean_logs(self) -> Tensor:
        grids = [self._lattices.grid(place) for place in range(len(self._mine))]
        means = self._lattices.table.new_zeros(len(grids))
        densities = self._lattices.densities([points for points, _ in grids])
        for place, density in enumerate(densities):
            q = density[0] / len(self._mu)
            means[place] = torch.special.xlogy(q, q).sum() * grids[place][1]
        return means
