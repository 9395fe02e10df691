"""Log-densities of a data set's q(z) at samples of it, and the terms that they give.

The terms are made of four mean log-densities. Those of q(z|n) and p(z) are known in closed form,
and that of the marginals by quadrature, so that their samples serve as regression controls for
the one that has to be sampled, log q(z).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from tcdecomp._autocast import no_autocast
from tcdecomp._checks import check_finite, check_logvar, check_tensors, warn_always
from tcdecomp._evidence import doubt_of_logvar
from tcdecomp._processes import Division, shared_refusal
from tcdecomp._progress import progress
from tcdecomp.dataset.quadrature import mean_log_marginals
from tcdecomp.kernels import Components, log_joint, log_sum
from tcdecomp.posterior import LOG_2PI, Posterior, log_normal
from tcdecomp.priors import Prior, closed_form_kl_j, differs_by_item, factors_of, log_prior
from tcdecomp.terms import Terms

__all__ = ["Densities", "Regression", "sample_densities"]

POINTS = 1024  # samples at a time, and fewer in a large data set:
PAIRS = 2**27  # component densities between two steps of the progress bar


class Regression:
    """The mean of values where controls, shape (S, C), have their known mean of 0.

    Ordinary least squares; the standard error has the leverage of that point in it, so that a
    sample whose controls lie far from 0 says so. Means are linear in the values.
    """

    def __init__(self, controls: Tensor) -> None:
        self._centre = controls.mean(0)
        self._centred = controls - self._centre
        # Controls may coincide (one item, one dimension): the pseudo-inverse minds it least.
        self._inverse = torch.linalg.pinv(self._centred)
        self._degrees = len(controls) - 1 - controls.shape[1]
        self._leverage = 1 / len(controls) + (self._centre @ self._inverse).square().sum()

    def mean(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean of values, shape (S,), and its standard error."""
        slopes = self._inverse @ (values - values.mean())
        residuals = values - values.mean() - self._centred @ slopes
        error = (residuals.square().sum() / self._degrees * self._leverage).sqrt()
        return values.mean() - self._centre @ slopes, error


class Densities(NamedTuple):
    """The log-densities of some dimensions, float64 on the CPU.

    Attributes
    ----------
    joint, product : Tensor, shape (S,)
        log q(z) and sum_j log q(z_j) at S samples.
    log_product : Tensor, shape (), or None
        The mean of ``product`` by quadrature, where there is one grid for each dimension.
    entropy, kl : Tensor, shape ()
        Means over items of the entropy of q(z|n) and of KL(q(z|n) || p(z)).
    regression : Regression
        On controls of all dimensions, whichever these are: what sums in each sample then sums in
        the means.
    """

    joint: Tensor
    product: Tensor
    log_product: Tensor | None
    entropy: Tensor
    kl: Tensor
    regression: Regression

    def terms(self) -> tuple[Terms, Terms]:
        """Return the terms, which sum to the closed-form KL, and their standard errors."""
        mean = self.regression.mean
        # The differences of log-densities that TC and the dimension-wise KL are.
        tc, tc_error = mean(self.joint - self.product)
        if self.log_product is None:
            dimension_wise, dimension_wise_error = mean(self.product + self.entropy + self.kl)
            mi_error = mean(self.joint)[1]
        else:
            dimension_wise = self.log_product + self.entropy + self.kl
            dimension_wise_error, mi_error = torch.zeros_like(tc_error), tc_error
        return (
            Terms(self.kl - tc - dimension_wise, tc, dimension_wise, self.kl),
            Terms(mi_error, tc_error, dimension_wise_error, torch.zeros_like(tc_error)),
        )


def sample_densities(
    mu: Tensor,
    logvar: Tensor,
    groups: Sequence[list[int]] = (),
    *,
    samples: int,
    generator: Generator | None,
    prior: Prior,
    division: Division,
) -> list[Densities]:
    """Return the densities of all dimensions, and those of each group at the same samples.

    Parameters and errors are those of :func:`tcdecomp.decompose_dataset`; a group is a list of
    distinct dimensions.
    """
    posterior, factors = _all_rows(mu, logvar, samples, prior, division)
    with torch.no_grad(), no_autocast(posterior.mu.device):
        data = _DataSet(posterior, factors, division)
        sampled = [group for group in groups if data.needs_samples(group)]
        generator = division.generator(generator, data.mu.device)
        chunks = _divided(data, _items(data.mu, samples, generator), sampled, generator, division)
    whole, *parts = (torch.cat(columns) for columns in zip(*chunks, strict=True))
    joint, product, *controls = whole.unbind(1)
    log_product, entropy, kl = data.means()
    if log_product is not None:
        controls.append(product - log_product)
    regression = Regression(torch.stack(controls, 1))
    results = [Densities(joint, product, log_product, entropy, kl, regression)]
    remaining, nothing = iter(parts), joint.new_zeros(()).expand(samples)
    for group in groups:
        joint = product = nothing
        if data.needs_samples(group):
            joint, product = next(remaining).unbind(1)
        results.append(Densities(joint, product, *data.means(group), regression))
    return results


@torch.no_grad()
def _all_rows(
    mu: Tensor, logvar: Tensor, samples: int, prior: Prior, division: Division
) -> tuple[Posterior, Distribution | None]:
    """Return the posteriors of all processes, in working precision, and the prior's factors."""
    with shared_refusal(division.group, mu):
        check_tensors(mu=mu, logvar=logvar)
        check_finite("mu", mu)
        own = Posterior(mu, mu, logvar).detach().in_working_precision()
        check_logvar(own.logvar)
        with no_autocast(own.mu.device):
            factors = factors_of(prior, own)
        if division.group is not None and differs_by_item(factors):
            raise ValueError(
                "prior must be one for all items with a process_group; got "
                f"{type(factors).__name__} with batch shape {tuple(factors.batch_shape)}"  # type: ignore[union-attr]
            )
    warn_always("logvar", doubt_of_logvar(own.logvar))
    both = torch.cat([own.mu, own.logvar], 1)
    mu, logvar = division.rows(both, {"num_samples": samples}).chunk(2, dim=1)
    return Posterior(mu, mu, logvar), factors


def _divided(
    data: _DataSet,
    chunks: tuple[Tensor, ...],
    groups: Sequence[list[int]],
    generator: Generator | None,
    division: Division,
) -> list[list[Tensor]]:
    """Return the densities of all chunks of items; each process computes some of them."""
    mine, results = set(division.mine(len(chunks))), []
    for number, items in enumerate(progress(chunks, "samples of q(z)")):
        z = data.sample(items, generator)  # all of them, to draw the same
        if number in mine:
            results.append(data.log_densities(z, items, groups))
        else:
            widths = [4, *[2] * len(groups)]
            results.append([z.new_zeros(len(z), n, dtype=torch.float64) for n in widths])
    return [[_total(part, division) for part in parts] for parts in results]


def _total(part: Tensor, division: Division) -> Tensor:
    """Return the sum over processes, float64 on the CPU; a device without groups may lack it."""
    return part.cpu().double() if division.group is None else division.total(part.double()).cpu()


def _items(mu: Tensor, samples: int, generator: Generator | None) -> tuple[Tensor, ...]:
    """Return the items to draw from, in chunks: as many whole permutations as it takes."""
    rounds = [
        torch.randperm(len(mu), generator=generator, device=mu.device)
        for _ in range(math.ceil(samples / len(mu)))
    ]
    points = max(1, min(POINTS, PAIRS // mu.numel()))
    return torch.split(torch.cat(rounds)[:samples], points)


class _DataSet:
    """The posteriors of all items, what is known of them without samples, and samples of them."""

    def __init__(
        self, posterior: Posterior, factors: Distribution | None, division: Division
    ) -> None:
        self.mu, self.logvar, self.factors = posterior.mu, posterior.logvar, factors
        self.kl_j = closed_form_kl_j(self.factors, posterior)
        check_finite("the KL of mu and logvar to the prior", self.kl_j)  # which may overflow
        self.kl = self.kl_j.sum(1)
        self.log_marginals = _log_marginals(self.mu, self.logvar, division)
        self.entropy_j = _entropies(self.logvar)

    def means(self, group: list[int] | None = None) -> tuple[Tensor | None, Tensor, Tensor]:
        """Return the means of sum_j log q(z_j), entropy and KL, of a group or of all dimensions."""
        log_product = None
        if self.log_marginals is not None:
            log_product = self.log_marginals[slice(None) if group is None else group].sum().cpu()
        if group is None:
            return log_product, _mean(self.entropy_j.sum(1)), _mean(self.kl)
        return log_product, _mean(self.entropy_j[:, group]).sum(), _mean(self.kl_j[:, group]).sum()

    def needs_samples(self, group: list[int]) -> bool:
        """Tell whether a group has a total correlation, or a product whose mean is not known."""
        return len(group) > 1 or self.log_marginals is None

    def sample(self, items: Tensor, generator: Generator | None) -> Tensor:
        """Return a new z of each of the items, shape (S, D)."""
        mu, logvar = self.mu[items], self.logvar[items]
        return Posterior(mu, mu, logvar).sample(generator=generator).z

    def log_densities(self, z: Tensor, items: Tensor, groups: Sequence[list[int]]) -> list[Tensor]:
        """Return log q(z) and sum_j log q(z_j) at z: (S, 4) of the whole, (S, 2) of each group.

        With the whole come two controls: log q(z|n) and log p(z), less their known means for the
        item that z is drawn from. Their mean is 0 whichever items are drawn.
        """
        mu, logvar = self.mu[items], self.logvar[items]
        log_size = math.log(len(self.mu))
        joint, marginals = log_sum(z, Components(self.mu, self.logvar), keep="all")
        joint, marginals = joint - log_size, marginals - log_size
        entropies = _entropies(logvar).sum(1)
        whole: tuple[Tensor, ...] = (
            joint,
            marginals.sum(1),
            log_normal(z, mu, logvar).sum(1) + entropies,
            self._log_prior(z) + entropies + self.kl[items],
        )
        parts = (
            (self._log_joint(z, group, joint, marginals), marginals[:, group].sum(1))
            for group in groups
        )
        if differs_by_item(self.factors):  # whose log p(z|n) is no function of z alone
            whole = whole[:-1]
        return [torch.stack(columns, 1) for columns in (whole, *parts)]

    def _log_prior(self, z: Tensor) -> Tensor:
        return z.new_zeros(len(z)) if differs_by_item(self.factors) else log_prior(self.factors, z)

    def _log_joint(self, z: Tensor, group: list[int], joint: Tensor, marginals: Tensor) -> Tensor:
        """Return log q(z) of a group's dimensions; of one dimension, and of all, it is there."""
        if len(group) == 1:
            return marginals[:, group[0]]
        if len(group) == z.shape[1]:
            return joint
        components = Components(self.mu[:, group], self.logvar[:, group])
        return log_joint(z[:, group], components) - math.log(len(self.mu))


def _log_marginals(mu: Tensor, logvar: Tensor, division: Division) -> Tensor | None:
    """Return the mean log q(z_j) by quadrature, shape (D,); each process does some dimensions."""
    if division.group is None:
        return mean_log_marginals(mu, logvar)
    mine = list(division.mine(mu.shape[1]))
    found = torch.zeros(mu.shape[1], dtype=torch.float64, device=mu.device)
    if mine:
        part = mean_log_marginals(mu[:, mine], logvar[:, mine])
        found[mine] = torch.nan if part is None else part
    total = division.total(found)
    return None if total.isnan().any() else total


def _mean(values: Tensor) -> Tensor:
    """Return the mean over items, in float64 on the CPU."""
    return values.cpu().double().mean(0)


def _entropies(logvar: Tensor) -> Tensor:
    """Return the entropy of each q(z_j|n), shape (N, D)."""
    return 0.5 * (logvar + LOG_2PI + 1)
