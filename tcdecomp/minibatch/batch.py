"""One batch, checked, and everything that the terms and the loss are made of."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, SupportsIndex, get_args

import torch
from torch import Tensor

from tcdecomp._autocast import no_autocast
from tcdecomp._checks import check_distinct, checked_labels
from tcdecomp._processes import GlobalBatch, Group, resolve_group, shared_refusal
from tcdecomp.kernels import Kernel, LogSums, log_sums
from tcdecomp.kernels.components import Components
from tcdecomp.minibatch import jackknife
from tcdecomp.minibatch.bank import PosteriorBank
from tcdecomp.minibatch.estimators import Estimator, mss_jackknife, resolve
from tcdecomp.minibatch.mixture import log_mixture, mean_log_mixture
from tcdecomp.posterior import Posterior, log_normal
from tcdecomp.priors import Prior, closed_form_kl, factors_of, log_prior
from tcdecomp.terms import Terms

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["KL", "REDUCE", "Batch", "Reduction", "check_options", "checked_size"]

KL = Literal["closed", "sampled"]
Reduction = Literal["mean", "sum", "none"]

REDUCE: dict[Reduction, Callable[[Tensor], Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "none": lambda per_item: per_item,
}


class Batch:
    """One batch in working precision, with its components of q(z) and the options of an estimate.

    Parameters and errors are those of :func:`tcdecomp.decompose`. Whatever is asked of the batch
    afterwards, everything is checked here.

    With ``estimates=False``, for a loss of equal weights, no other process is asked.
    """

    def __init__(
        self,
        z: Tensor,
        mu: Tensor,
        logvar: Tensor,
        dataset_size: SupportsIndex,
        *,
        items: Tensor | None = None,
        bank: PosteriorBank | None = None,
        estimator: str | Estimator,
        prior: Prior,
        kl: KL,
        reduction: Reduction,
        process_group: Group = None,
        validate: bool,
        kernel: Kernel,
        estimates: bool = True,
    ) -> None:
        group = resolve_group(process_group)
        asked = group if estimates else None
        look = validate and not torch.compiler.is_compiling()
        with shared_refusal(asked, z):
            check_options(kl, reduction, kernel)
            self.estimator = resolve(estimator)
            given = Posterior(z, mu, logvar)
            size = checked_size(dataset_size, len(given.z))
            if items is not None:
                items = checked_labels("items", items, given.mu)
            if bank is not None:
                _check_bank(bank, given, items, group)
            if look:
                given.check_values()
            self.posterior = given.in_working_precision()
            with no_autocast(given.z.device):
                self.prior = factors_of(prior, self.posterior)
        self.kl_form = kl
        self.reduction = reduction
        self.kernel = kernel
        self.dataset_size = size
        self.world = None if asked is None else _world(asked, self.posterior, size, items, bank)
        with no_autocast(z.device):
            self.components, self.own = self._components(items, bank, look)
        if group is None or estimates:
            self.weights = self.estimator(len(self.components.mu) - 1, size)

    def terms(self) -> Terms:
        """Return the three terms and the closed-form KL, reduced."""
        z = self.posterior.z
        with no_autocast(z.device):
            log_qz, log_qz_j = self._log_mixture()
            return self._terms(log_qz, log_qz_j.sum(1))

    def terms_by(self, *estimators: Estimator) -> list[Terms]:
        """Return :meth:`terms` under several weights of the same log-sums."""
        others, results = len(self.components.mu) - 1, []
        with no_autocast(self.posterior.z.device):
            sums = self._log_sums()
            for estimator in estimators:
                log_qz, log_qz_j = log_mixture(sums, *estimator(others, self.dataset_size))
                results.append(self._terms(log_qz, log_qz_j.sum(1)))
        return results

    def weighted_kl(self, alpha: float, beta: float, gamma: float) -> Tensor:
        """Return ``terms().weigh(alpha, beta, gamma)``, without what it can spare.

        Equal weights need no estimate, and a mean-reduced loss only the mean log-densities of
        the mixture.
        """
        estimates = not alpha == beta == gamma
        if estimates and self.reduction != "mean":
            return self.terms().weigh(alpha, beta, gamma)
        with no_autocast(self.posterior.z.device):
            loss = gamma * self._reduce(self._kl())
            if alpha != gamma:
                loss = loss + (alpha - gamma) * self._reduce(self._log_posterior())
            if estimates:
                loss = loss + self._mean_log_mixture(joint=beta - alpha, marginal=gamma - beta)
        return loss

    def _components(
        self, items: Tensor | None, bank: PosteriorBank | None, look: bool
    ) -> tuple[Components, Posterior]:
        """Return what q(z) is a mixture of, own rows first, and each point with its own."""
        mu, logvar = self.posterior.mu, self.posterior.logvar
        if self.world is not None:
            others = self.world.others(torch.cat([mu, logvar], 1)).chunk(2, dim=1)
            mu, logvar = torch.cat([mu, others[0]]), torch.cat([logvar, others[1]])
            if items is not None:
                items = self.world.all(items[:, None])[:, 0]
        if items is not None and look:
            check_distinct("items", items)
        held = None if bank is None else bank.others(mu, items, self.dataset_size)
        if held is None:
            return Components(mu, logvar), self.posterior
        attached, detached = len(mu) - 1, len(held[0])
        own = _damped(self.posterior, attached / max(attached + detached, 1))
        return Components(torch.cat([mu, held[0]]), torch.cat([logvar, held[1]])), own

    def _log_mixture(self) -> tuple[Tensor, Tensor]:
        """Return the estimated log q(z), shape (M,), and log q(z_j), shape (M, D)."""
        if self.estimator is mss_jackknife:
            return jackknife.log_mixture(
                self.own, self.components, self.dataset_size, kernel=self.kernel
            )
        return log_mixture(self._log_sums(), *self.weights)

    def _log_sums(self) -> LogSums:
        sums = log_sums(self.posterior.z, self.components, kernel=self.kernel)
        if self.own is self.posterior:
            return sums
        own_j = log_normal(self.own.z, self.own.mu, self.own.logvar)
        return sums._replace(own=own_j.sum(1), own_j=own_j)

    def _mean_log_mixture(self, *, joint: float, marginal: float) -> Tensor:
        alone = self.world is None and len(self.components.mu) == len(self.posterior.z)
        if alone and self.estimator is not mss_jackknife:
            weights, kernel = self.weights, self.kernel
            return mean_log_mixture(
                self.posterior, weights, joint=joint, marginal=marginal, kernel=kernel
            )
        log_qz, log_qz_j = self._log_mixture()
        return self._reduce(joint * log_qz + marginal * log_qz_j.sum(1))

    def _terms(self, log_qz: Tensor, log_product: Tensor) -> Terms:
        per_item = Terms.from_log_densities(
            self._log_posterior(),
            log_qz,
            log_product,
            log_prior(self.prior, self.posterior.z),
            self._kl() if self.kl_form == "closed" else None,
        )
        return per_item.map(self._reduce)

    def _reduce(self, per_item: Tensor) -> Tensor:
        reduced = REDUCE[self.reduction](per_item)
        if self.world is not None and self.reduction == "mean":
            return self.world.share * reduced
        return reduced

    def _log_posterior(self) -> Tensor:
        return log_normal(self.own.z, self.own.mu, self.own.logvar).sum(1)

    def _kl(self) -> Tensor:
        if self.kl_form == "closed":
            return closed_form_kl(self.prior, self.posterior)
        return self._log_posterior() - log_prior(self.prior, self.posterior.z)


def _check_bank(
    bank: PosteriorBank, batch: Posterior, items: Tensor | None, group: ProcessGroup | None
) -> None:
    if not isinstance(bank, PosteriorBank):
        raise TypeError(f"bank must be a PosteriorBank; got {type(bank).__name__}")
    bank.check_alike(batch, items)
    if group is not None and resolve_group(bank.process_group) is not group:
        raise ValueError(
            "bank must be shared by the criterion's processes, as "
            f"PosteriorBank(..., process_group={bank.process_group!r}) is not"
        )


def _world(
    group: ProcessGroup,
    posterior: Posterior,
    dataset_size: int,
    items: Tensor | None,
    bank: PosteriorBank | None,
) -> GlobalBatch:
    agree = {
        "dataset_size": dataset_size,
        "whether there are items": int(items is not None),
        "the number of entries in the bank": 0 if bank is None else len(bank),
    }
    world = GlobalBatch(group, posterior.z, agree)
    checked_size(dataset_size, world.size)
    return world


def _damped(posterior: Posterior, share: float) -> Posterior:
    """Return the same values, of whose gradient mu and logvar get a share; z keeps its own.

    The gradient of log q(z) for the components has expectation 0 over all of them. Where a bank's
    entries carry no graph, a point's own component, and log q(z|n), whose gradient its own
    cancels, may count no more than the others of the batch do for all others.
    """
    mu, logvar = (t.detach() + share * (t - t.detach()) for t in (posterior.mu, posterior.logvar))
    return Posterior(posterior.z, mu, logvar)


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
