"""Log-densities of a data set's q(z) at samples of it, and the terms that they give.

The terms are made of four mean log-densities. Those of q(z|n) and p(z) are known in closed form,
and that of the marginals by quadrature. So their samples serve as regression controls for the one
that has to be sampled, log q(z). The tables of the marginals give log q(z_j) at the samples, too,
so that a pair of a sample and an item costs one exponential.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from tcdecomp._autocast import no_autocast
from tcdecomp._checks import (
    check_finite,
    check_generator,
    check_logvar,
    check_tensors,
    warn_always,
)
from tcdecomp._evidence import doubt_of_logvar
from tcdecomp._processes import Division, shared_refusal
from tcdecomp._progress import progress
from tcdecomp.dataset.densities import Densities, Regression
from tcdecomp.dataset.marginals import Marginals
from tcdecomp.kernels import Components, Kernel, log_joint, log_sum
from tcdecomp.posterior import LOG_2PI, Posterior, log_normal
from tcdecomp.priors import Prior, closed_form_kl_j, differs_by_item, factors_of, log_prior

__all__ = ["sample_densities"]

POINTS = 1024  # samples at a time, and fewer in a large data set:
PAIRS = 2**29  # of samples and items between two steps of the progress bar
MANY = 2**20  # pairs
STEPS = 64  # of floats at mu in a standard deviation: fewer change a log-density by over 1e-5


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
    check_generator(generator)
    posterior, factors = _all_rows(mu, logvar, samples, prior, division)
    with torch.no_grad(), no_autocast(posterior.mu.device):
        data = _DataSet(posterior, factors, division)
        sampled = [group for group in groups if data.needs_samples(group)]
        generator = division.generator(generator, data.mu.device)
        points = data.draw(_items(data.mu, samples, generator), generator)
        chunks = _divided(data, points, sampled, division)
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
    return _told_apart(mu, logvar), factors


def _told_apart(mu: Tensor, logvar: Tensor) -> Posterior:
    """Return the posteriors in a dtype that tells samples from their means, or refuse them."""
    least = STEPS * torch.finfo(mu.dtype).eps * mu.abs()
    if not (coarse := (0.5 * logvar).exp() < least).any():
        return Posterior(mu, mu, logvar)
    if mu.dtype == torch.float32 and mu.device.type != "mps":  # which has no float64
        return _told_apart(mu.double(), logvar.double())
    row, column = coarse.nonzero()[0].tolist()
    items = coarse.any(1).nonzero().flatten().tolist()
    rows = ", ".join(map(str, items[:8])) + ", and others" * (len(items) > 8)
    floor = math.ceil(20 * math.log(least.max().item())) / 10
    raise ValueError(
        f"logvar must not be so small that samples round to mu in {mu.dtype}; got logvar "
        f"{logvar[row, column].item():.4g} beside mu {mu[row, column].item():.4g} at row {row}, "
        f"column {column}. There are {len(items):,} such items of {len(mu):,}: rows {rows}. Leave "
        f"them out, or pass logvar.clamp(min={floor})"
    )


def _divided(
    data: _DataSet, points: list[_Points], groups: Sequence[list[int]], division: Division
) -> list[list[Tensor]]:
    """Return the densities at all points; each process computes some of them."""
    mine, results = set(division.mine(len(points))), []
    for number, part in enumerate(progress(points, "samples of q(z)")):
        if number in mine:
            results.append(data.log_densities(part, groups))
        else:
            widths = [4, *[2] * len(groups)]
            empty = (part.z.new_zeros(len(part.z), n, dtype=torch.float64) for n in widths)
            results.append(list(empty))
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
    points = max(1, min(POINTS, PAIRS // len(mu)))
    return torch.split(torch.cat(rounds)[:samples], points)


class _Points(NamedTuple):
    """Samples, the items that they are drawn from, and log q(z_j) at them where it is tabulated."""

    z: Tensor
    items: Tensor
    log_marginals: Tensor | None


class _DataSet:
    """The posteriors of all items, what is known of them without samples, and samples of them."""

    def __init__(
        self, posterior: Posterior, factors: Distribution | None, division: Division
    ) -> None:
        self.mu, self.logvar, self.factors = posterior.mu, posterior.logvar, factors
        self.kl_j = closed_form_kl_j(self.factors, posterior)
        check_finite("the KL of mu and logvar to the prior", self.kl_j)  # which may overflow
        self.kl = self.kl_j.sum(1)
        self._marginals = Marginals(self.mu, self.logvar, division)
        self.entropy_j = _entropies(self.logvar)

    def means(self, group: list[int] | None = None) -> tuple[Tensor | None, Tensor, Tensor]:
        """Return the means of sum_j log q(z_j), entropy and KL, of a group or of all dimensions."""
        log_product = self._marginals.mean_logs
        if log_product is not None:
            log_product = log_product[slice(None) if group is None else group].sum().cpu()
        if group is None:
            return log_product, _mean(self.entropy_j.sum(1)), _mean(self.kl)
        return log_product, _mean(self.entropy_j[:, group]).sum(), _mean(self.kl_j[:, group]).sum()

    def needs_samples(self, group: list[int]) -> bool:
        """Tell whether a group has a total correlation, or a product whose mean is not known."""
        return len(group) > 1 or self._marginals.mean_logs is None

    def draw(self, chunks: Sequence[Tensor], generator: Generator | None) -> list[_Points]:
        """Return a new z of each of the items in each chunk."""
        z = [self._sample(items, generator) for items in chunks]
        log_marginals: Sequence[Tensor | None] = [None] * len(z)
        if self._marginals.mean_logs is not None:
            found = self._marginals.log_densities(torch.cat(z), torch.cat(list(chunks)))
            log_marginals = torch.split(found, [len(part) for part in z])
        return [_Points(*part) for part in zip(z, chunks, log_marginals, strict=True)]

    def _sample(self, items: Tensor, generator: Generator | None) -> Tensor:
        mu, logvar = self.mu[items], self.logvar[items]
        return Posterior(mu, mu, logvar).sample(generator=generator).z

    def log_densities(self, points: _Points, groups: Sequence[list[int]]) -> list[Tensor]:
        """Return log q(z) and sum_j log q(z_j) at z: (S, 4) of the whole, (S, 2) of each group.

        With the whole come two controls: log q(z|n) and log p(z), less their known means for the
        item that z is drawn from. Their mean is 0 whichever items are drawn.
        """
        z, items, marginals = points
        mu, logvar = self.mu[items], self.logvar[items]
        components, log_size = Components(self.mu, self.logvar), math.log(len(self.mu))
        if marginals is None:
            joint, marginals = log_sum(z, components, keep="all")
            marginals = marginals - log_size
        else:
            joint = log_joint(z, components, kernel=_kernel(z, self.mu))
        joint = joint - log_size
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
        joint = log_joint(z[:, group], components, kernel=_kernel(z, self.mu))
        return joint - math.log(len(self.mu))


def _kernel(z: Tensor, mu: Tensor) -> Kernel:
    """Return the kernel of log q(z): products of matrices in float64, too, where they pay."""
    return "linear" if z.device.type == "cpu" and len(z) * len(mu) >= MANY else "auto"


def _mean(values: Tensor) -> Tensor:
    """Return the mean over items, in float64 on the CPU."""
    return values.cpu().double().mean(0)


def _entropies(logvar: Tensor) -> Tensor:
    """Return the entropy of each q(z_j|n), shape (N, D)."""
    return 0.5 * (logvar + LOG_2PI + 1)
