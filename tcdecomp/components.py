"""What q(z) is a mixture of: Gaussian components, each the posterior of a known item."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tcdecomp.posterior import Posterior

__all__ = ["Components"]


class Components(NamedTuple):
    """The Gaussians whose weighted sum is q(z).

    A point's *own* components are those with its item's id, all the rest are its *others*:
    several processes, earlier posteriors, or several samples of one item need no other concept.

    Attributes
    ----------
    mu, logvar : Tensor, shape (K, D)
        Means and log-variances.
    items : Tensor, shape (K,), integer
        The data-set item that each component is the posterior of.
    """

    mu: Tensor
    logvar: Tensor
    items: Tensor

    @classmethod
    def of_batch(cls, posterior: Posterior) -> Components:
        """Return a batch's own posteriors, one component for each row, with ids 0..M-1."""
        items = torch.arange(posterior.mu.shape[0], device=posterior.mu.device)
        return cls(posterior.mu, posterior.logvar, items)
