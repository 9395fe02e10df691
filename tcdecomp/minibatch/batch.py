"""One batch, checked, and everything that the terms and the loss are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tcdecomp._autocast import no_autocast
from tcdecomp._checks import checked_labels, checked_size, doubting, warn_always
from tcdecomp._evidence import doubt_of_rows, doubt_of_sample
from tcdecomp._processes import GlobalBatch, resolve_group, shared_refusal
from tcdecomp.kernels import look_at
from tcdecomp.minibatch.bank import PosteriorBank
from tcdecomp.minibatch.conditional import DatasetSize, mixtures_by_label
from tcdecomp.minibatch.estimators import Estimator
from tcdecomp.minibatch.mixture import Mixture, mixture_of
from tcdecomp.minibatch.options import Options
from tcdecomp.posterior import Posterior, log_normal
from tcdecomp.priors import check_kl, closed_form_kl, factors_of, log_prior
from tcdecomp.terms import Terms, zero_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributions import Distribution

__all__ = ["Batch", "Doubt"]

Doubt = Callable[[str, "str | None"], None]


class Batch:
    """One batch in working precision, its mixture, and the options of an estimate.

    Parameters and errors are those of :func:`tcdecomp.decompose`. Making one checks everything.

    Parameters
    ----------
    doubt : callable
        Takes the kind of a doubt, and its text or None.
    seek : bool
        Whether to look for evidence that the batch is not what it should be.
    estimates : bool
        False for a loss of equal weights, which needs no log q(z): no other process is asked.
    """

    def __init__(
        self,
        z: Tensor,
        mu: Tensor,
        logvar: Tensor,
        dataset_size: DatasetSize,
        options: Options,
        *,
        items: Tensor | None = None,
        bank: PosteriorBank | None = None,
        condition: Tensor | None = None,
        doubt: Doubt = warn_always,
        seek: bool = True,
        estimates: bool = True,
    ) -> None:
        self.options = options
        group = resolve_group(options.process_group)
        asked = group if estimates else None
        self._look = options.looks_at(z)
        self._parts: list[tuple[Tensor | None, Mixture]] = []
        self._world: GlobalBatch | None = None
        self.prior: Distribution | None = None
        with shared_refusal(asked, mu):
            given = Posterior(z, mu, logvar)
            if items is not None:
                items = checked_labels("items", items, given.mu)
            if self._look:
                given.check_values(pairs=estimates, look=look_at)
            self.posterior = given.in_working_precision()
            if options.prior is not None:
                with no_autocast(given.z.device):
                    self.prior = factors_of(options.prior, self.posterior)
            if condition is not None:
                _check_alone(items=items, bank=bank, process_group=options.process_group)
                self._parts += mixtures_by_label(
                    self.posterior, condition, dataset_size, options, doubt
                )
            else:
                size = checked_size(dataset_size, _distinct(items, given.mu))  # type: ignore[arg-type]
                if bank is not None:
                    _check_bank(bank, given, items, group)
        if self._look and seek and doubting():
            doubt("sample", doubt_of_sample(given))
            if items is None:
                doubt("rows", doubt_of_rows(given.mu, given.logvar))
        if condition is None and (estimates or group is None):
            mixture = self._mixture(size, items, bank, asked)
            options.estimate.check(mixture)
            self._parts = [(None, mixture)]

    @property
    def items(self) -> int:
        """How many items the rows of all processes are of, those of a bank included."""
        return sum(mixture.others + 1 for _, mixture in self._parts)

    @property
    def dataset_size(self) -> int:
        """N, over all labels."""
        return sum(mixture.dataset_size for _, mixture in self._parts)

    def terms(self) -> Terms:
        """Return the three terms and the closed-form KL, reduced."""
        return self._terms(self.options.estimate.log_densities)[0]

    def terms_by(self, *estimators: Estimator) -> list[Terms]:
        """Return the terms under several weights of the same log-sums."""

        def ask(mixture: Mixture, z: Tensor) -> tuple[Tensor, ...]:
            size = mixture.others, mixture.dataset_size
            weighed = mixture.weighed_by(z, [estimator(*size) for estimator in estimators])
            return tuple(part for pair in weighed for part in pair)

        return self._terms(ask)

    def _terms(self, ask: Callable[[Mixture, Tensor], tuple[Tensor, ...]]) -> list[Terms]:
        """Return the terms of each pair of log q(z) and log q(z_j) that ``ask`` returns."""
        with no_autocast(self.posterior.z.device):
            log_qz_n, log_pz = self._log_posterior(), log_prior(self.prior, self.posterior.z)
            kl = self._kl() if self.options.kl == "closed" else None
            answers = self._asked(ask)
            return [
                Terms.from_log_densities(log_qz_n, log_qz, log_qz_j.sum(-1), log_pz, kl).map(
                    self._reduce
                )
                for log_qz, log_qz_j in zip(answers[::2], answers[1::2], strict=True)
            ]

    def weighted_kl(self, alpha: float, beta: float, gamma: float) -> Tensor:
        """Return ``terms().weigh(alpha, beta, gamma)``, at less cost.

        Equal weights need no estimate, and a mean-reduced loss only the mean log-densities of the
        mixture.
        """
        estimates = not alpha == beta == gamma
        if estimates and self.options.reduction != "mean":
            return self.terms().weigh(alpha, beta, gamma)
        weighted = []  # a weight of 0 takes no part, and may overflow
        with no_autocast(self.posterior.z.device):
            together = estimates and gamma != 0 and self._adds_kl()
            if estimates:
                coefficients = {"joint": beta - alpha, "marginal": gamma - beta}
                if together:
                    coefficients["kl"] = gamma
                weighted.append(self._mean_log_density(**coefficients))
            if together and self._look and not math.isfinite(weighted[0].item()):
                self._kl()  # which names the row whose KL overflows
            if gamma != 0 and not together:
                weighted.append(gamma * self._reduce(self._kl()))
            if alpha != gamma:
                weighted.append((alpha - gamma) * self._reduce(self._log_posterior()))
            if not weighted:
                z, mu, logvar = (zero_of(t).sum(-1) for t in self.posterior)
                weighted.append(self._reduce(z + mu + logvar))
        return sum(weighted[1:], weighted[0])

    def _mixture(
        self,
        size: int,
        items: Tensor | None,
        bank: PosteriorBank | None,
        group: ProcessGroup | None,
    ) -> Mixture:
        """Return the mixture of a batch without a condition, and ask the other processes."""
        others = None
        if group is not None:
            self._world = _world(group, self.posterior, size, items, bank)
            rows = torch.cat([self.posterior.mu, self.posterior.logvar], 1)
            mu, logvar = self._world.others(rows).chunk(2, dim=1)
            others = Posterior(mu, mu, logvar) if len(mu) else None
            if items is not None:
                items = torch.cat([items, self._world.others(items[:, None])[:, 0]])
                checked_size(size, _distinct(items, items))
        held = None
        if bank is not None and items is not None:
            held = bank.others(self.posterior.mu, items, size)
        return mixture_of(
            self.posterior, size, self.options.kernel, others=others, held=held, items=items
        )

    def _asked(self, ask: Callable[[Mixture, Tensor], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Return what ``ask`` says of z, in the shapes (..., M) and (..., M, D)."""
        if self.posterior.z.dim() == 2:
            return self._asked_at(self.posterior.z, ask)
        samples = [self._asked_at(z, ask) for z in self.posterior.z]
        return tuple(map(torch.stack, zip(*samples, strict=True)))

    def _asked_at(
        self, z: Tensor, ask: Callable[[Mixture, Tensor], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        (rows, mixture), *_ = self._parts
        if rows is None:
            return ask(mixture, z)
        answers = [ask(mixture, z[part]) for part, mixture in self._parts]
        order = torch.cat([part for part, _ in self._parts if part is not None]).argsort()
        return tuple(torch.cat(pieces)[order] for pieces in zip(*answers, strict=True))

    def _adds_kl(self) -> bool:
        """Tell whether the kernels take the KL along, at less cost than its own nodes."""
        normal = self.prior is None and self.options.kl == "closed"
        return normal and all(self.options.estimate.adds_kl(m) for _, m in self._parts)

    def _mean_log_density(self, **coefficients: float) -> Tensor:
        z, estimator = self.posterior.z, self.options.estimate
        samples = z if z.dim() == 3 else (z,)
        means = [
            estimator.mean_log_density(mixture, point, **coefficients)
            if rows is None
            else estimator.mean_log_density(mixture, point[rows], **coefficients)
            * (len(rows) / z.shape[-2])
            for point in samples
            for rows, mixture in self._parts
        ]
        total = sum(means[1:], means[0]) / len(samples) if len(means) > 1 else means[0]
        return total if self._world is None else self._world.share * total

    def _log_posterior(self) -> Tensor:
        """Return log q(z|n), shape (..., M)."""
        moments = self.posterior
        if len(self._parts) == 1 and self._parts[0][1].damped is not None:
            moments = self._parts[0][1].damped
        return log_normal(self.posterior.z, moments.mu, moments.logvar).sum(-1)

    def _kl(self) -> Tensor:
        """Return the KL of each row, shape (..., M): in closed form, or as the samples give it."""
        if self.options.kl == "closed":
            kl = closed_form_kl(self.prior, self.posterior)
        else:
            kl = self._log_posterior() - log_prior(self.prior, self.posterior.z)
        if self._look:
            check_kl(kl, self.posterior)
        return kl

    def _reduce(self, values: Tensor) -> Tensor:
        per_item = values if values.dim() == 1 else values.mean(0)
        reduced = self.options.reduce(per_item)
        if self._world is not None and self.options.reduction == "mean":
            return self._world.share * reduced
        return reduced


def _distinct(items: Tensor | None, rows: Tensor) -> int:
    return rows.shape[0] if items is None else len(torch.unique(items))


def _check_alone(**given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name} must be None where a condition is given; got {type(value).__name__}"
            )


def _check_bank(
    bank: PosteriorBank, batch: Posterior, items: Tensor | None, group: ProcessGroup | None
) -> None:
    if not isinstance(bank, PosteriorBank):
        raise TypeError(f"bank must be a PosteriorBank; got {type(bank).__name__}")
    if items is None:
        raise ValueError(
            "items must be given with a bank: the data-set index of each row, by which the bank "
            "knows the batch's own items. A Dataset that returns (x, index) gives them"
        )
    bank.check_alike(batch)
    if group is not None and resolve_group(bank.process_group) is not group:
        raise ValueError(
            "bank must be shared by the criterion's processes; make it with "
            f"PosteriorBank(..., process_group=...), got {bank.process_group!r}"
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
        "the samples of each item": len(posterior.z) if posterior.z.dim() == 3 else 1,
        "whether there are items": int(items is not None),
        "the number of entries in the bank": 0 if bank is None else len(bank),
    }
    world = GlobalBatch(group, posterior.mu, agree)
    if items is None:
        checked_size(dataset_size, world.size)
    return world
