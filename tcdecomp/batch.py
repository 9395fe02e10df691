"""One batch, checked, and everything that the terms and the loss are made of.

The decomposition (Chen et al. 2018, eq. 2) is in differences of four mean log-densities::

    MI   = log q(z|n) - log q(z)
    TC   = log q(z) - sum_j log q(z_j)
    DWKL = sum_j log q(z_j) - log p(z)
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Literal, SupportsIndex, get_args

import torch
from torch import Tensor

from tcdecomp.autocast import no_autocast
from tcdecomp.components import Components
from tcdecomp.estimators import Estimator, resolve
from tcdecomp.kernels import Kernel, log_sums
from tcdecomp.mixture import log_mixture, mean_log_mixture
from tcdecomp.posterior import Posterior, log_normal
from tcdecomp.priors import Prior, closed_form_kl, factors_of, log_prior
from tcdecomp.terms import Terms

__all__ = ["KL", "Batch", "Reduction", "check_options", "checked_size"]

KL = Literal["closed", "sampled"]
Reduction = Literal["mean", "sum", "none"]

_REDUCE: dict[Reduction, Callable[[Tensor], Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "none": lambda per_item: per_item,
}


class Batch:
    """One batch in working precision, with the options of an estimate.

    Parameters and errors are those of :func:`tcdecomp.decompose`. Whatever is asked of the batch
    afterwards, everything is checked here.
    """

    def __init__(
        self,
        z: Tensor,
        mu: Tensor,
        logvar: Tensor,
        dataset_size: SupportsIndex,
        *,
        estimator: str | Estimator,
        prior: Prior,
        kl: KL,
        reduction: Reduction,
        validate: bool,
        kernel: Kernel,
    ) -> None:
        check_options(kl, reduction, kernel)
        posterior = Posterior(z, mu, logvar)
        batch_size = posterior.z.shape[0]
        self.weights = resolve(estimator)(batch_size - 1, checked_size(dataset_size, batch_size))
        if validate and not torch.compiler.is_compiling():
            posterior.check_values()
        self.posterior = posterior.in_working_precision()
        with no_autocast(self.posterior.z.device):
            self.prior = factors_of(prior, self.posterior)
        self.kl_form = kl
        self.reduction = reduction
        self.kernel = kernel

    def terms(self) -> Terms:
        """Return the three terms and the closed-form KL, reduced."""
        z, mu, logvar = self.posterior.z, self.posterior.mu, self.posterior.logvar
        with no_autocast(z.device):
            sums = log_sums(z, Components(mu, logvar), kernel=self.kernel)
            log_qz, log_qz_j = log_mixture(sums, *self.weights)
            log_product = log_qz_j.sum(1)
            per_item = Terms(
                index_code_mi=self._log_posterior() - log_qz,
                total_correlation=log_qz - log_product,
                dimension_wise_kl=log_product - log_prior(self.prior, z),
                kl=self._kl() if self.kl_form == "closed" else None,
            )
        return per_item.map(_REDUCE[self.reduction])

    def weighted_kl(self, alpha: float, beta: float, gamma: float) -> Tensor:
        """Return ``terms().weigh(alpha, beta, gamma)``, without what it can spare.

        Equal weights need no estimate, and a mean-reduced loss only the mean log-densities of
        the mixture.
        """
        estimates = not alpha == beta == gamma
        if estimates and self.reduction != "mean":
            return self.terms().weigh(alpha, beta, gamma)
        with no_autocast(self.posterior.z.device):
            loss = gamma * _REDUCE[self.reduction](self._kl())
            if alpha != gamma:
                loss = loss + (alpha - gamma) * self._log_posterior().mean()
            if estimates:
                loss = loss + mean_log_mixture(
                    self.posterior,
                    self.weights,
                    joint=beta - alpha,
                    marginal=gamma - beta,
                    kernel=self.kernel,
                )
        return loss

    def _log_posterior(self) -> Tensor:
        posterior = self.posterior
        return log_normal(posterior.z, posterior.mu, posterior.logvar).sum(1)

    def _kl(self) -> Tensor:
        if self.kl_form == "closed":
            return closed_form_kl(self.prior, self.posterior)
        return self._log_posterior() - log_prior(self.prior, self.posterior.z)


def check_options(kl: KL, reduction: Reduction, kernel: Kernel) -> None:
    """Raise a ValueError that names the option whose value is unknown."""
    for name, value, choices in (
        ("kl", kl, KL),
        ("reduction", reduction, Reduction),
        ("kernel", kernel, Kernel),
    ):
        if value not in get_args(choices):
            allowed = ", ".join(map(repr, get_args(choices)))
            raise ValueError(f"{name} must be one of {allowed}; got {value!r}")


def checked_size(dataset_size: SupportsIndex, batch_size: int = 1) -> int:
    """Return N as an int, or raise an error that says what it must be."""
    what = "the number N of items of the data set that the batch was drawn from"
    try:
        if isinstance(dataset_size, bool):
            raise TypeError
        size = operator.index(dataset_size)
    except TypeError:
        got = f"{dataset_size!r} ({type(dataset_size).__name__})"
        raise TypeError(f"dataset_size must be an int, {what}; got {got}") from None
    if size < batch_size:
        raise ValueError(
            f"dataset_size must be {what}, at least the batch size M = {batch_size}; got {size}"
        )
    return size
