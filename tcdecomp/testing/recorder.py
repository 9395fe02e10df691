"""A criterion that shows what an adapter asks of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from tcdecomp.loss import TCDecomposition
from tcdecomp.posterior import Posterior
from tcdecomp.terms import Terms

__all__ = ["Asked", "Recorder"]


class Asked(NamedTuple):
    """What a criterion was asked about: the batch, its N, and further options."""

    posterior: Posterior
    dataset_size: Any
    options: dict[str, Any]


class Recorder(TCDecomposition):
    """A criterion that keeps the last batch that it was asked about, until it is taken."""

    asked: Asked | None = None

    def forward(
        self, z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: Any, **options: Any
    ) -> Tensor:
        """Return the loss, and keep the batch."""
        self.asked = Asked(Posterior(z, mu, logvar), dataset_size, options)
        return super().forward(z, mu, logvar, dataset_size, **options)

    def decompose(
        self, z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: Any, **options: Any
    ) -> Terms:
        """Return the terms, and keep the batch."""
        self.asked = Asked(Posterior(z, mu, logvar), dataset_size, options)
        return super().decompose(z, mu, logvar, dataset_size, **options)

    def excess_of(
        self, z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: Any, **options: Any
    ) -> Tensor:
        """Return the excess, and keep the batch."""
        self.asked = Asked(Posterior(z, mu, logvar), dataset_size, options)
        return super().excess_of(z, mu, logvar, dataset_size, **options)

    def taken(self) -> Asked:
        """Return what was asked last, and forget it."""
        asked, self.asked = self.asked, None
        if asked is None:
            raise AssertionError("the loss must use the criterion; it did not")
        return asked

    def terms_of(self, asked: Asked) -> Terms:
        """Return the terms of what was asked, and keep nothing."""
        batch = asked.posterior
        return super().decompose(
            batch.z, batch.mu, batch.logvar, asked.dataset_size, **asked.options
        )
