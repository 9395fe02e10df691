"""Log-densities of a data set's q(z) at samples of it, and the terms that they give.

The terms are made of four mean log-densities. Those of q(z|n) and p(z) are known in closed form,
and that of the marginals by quadrature, so that their samples serve as regression controls for
the one that has to be sampled, log q(z).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution, Normal, kl_divergence
from tqdm.auto import tqdm

from tcdecomp.autocast import no_autocast
from tcdecomp.components import Components
from tcdecomp.kernels import log_sum
from tcdecomp.posterior import LOG_2PI, Posterior, check_finite, check_tensors, log_normal
from tcdecomp.priors import Prior, closed_form_kl, factors_of, log_prior
from tcdecomp.quadrature import mean_log_marginals
from tcdecomp.terms import Terms

__all__ = ["Densities", "Regression", "sample_densities"]

POINTS = 1024  # samples between two steps of the progress bar


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
) -> list[Densities]:
    """Return the densities of all dimensions, and those of each group at the same samples.

    Parameters and errors are those of :func:`tcdecomp.decompose_dataset`; a group is a list of
    distinct dimensions.
    """
    check_tensors(mu=mu, logvar=logvar)
    check_finite("mu", mu)
    check_finite("logvar", logvar)
    data = Posterior(mu, mu, logvar).detach().in_working_precision()
    with torch.no_grad(), no_autocast(mu.device):
        factors = factors_of(prior, data)
        kl, kl_j = closed_form_kl(factors, data), _kl_by_dimension(factors, data)
        entropy_j = _entropies(data)
        log_marginals = mean_log_marginals(data.mu, data.logvar)
        chunks = [
            _log_densities(data, kl, items, factors, generator, groups)
            for items in _progress(_items(data, samples, generator))
        ]

    def log_product(group: list[int] | slice) -> Tensor | None:
        return None if log_marginals is None else log_marginals[group].sum().cpu()

    whole, *parts = (torch.cat(columns) for columns in zip(*chunks, strict=True))
    joint, product, *controls = whole.unbind(1)
    known = log_product(slice(None))
    if known is not None:
        controls.append(product - known)
    regression = Regression(torch.stack(controls, 1))
    means = _mean(entropy_j.sum(1)), _mean(kl)
    results = [Densities(joint, product, known, *means, regression)]
    means_j = _mean(entropy_j), _mean(kl_j)
    for group, part in zip(groups, parts, strict=True):
        joint, product = part.unbind(1)
        entropy, mean_kl = (mean[group].sum() for mean in means_j)
        known = log_product(group)
        results.append(Densities(joint, product, known, entropy, mean_kl, regression))
    return results


def _items(data: Posterior, samples: int, generator: Generator | None) -> tuple[Tensor, ...]:
    """Return the items to draw from, in chunks: whole permutations, as many as it takes."""
    size = data.mu.shape[0]
    rounds = [
        torch.randperm(size, generator=generator, device=data.mu.device)
        for _ in range(math.ceil(samples / size))
    ]
    return torch.split(torch.cat(rounds)[:samples], POINTS)


def _progress(chunks: tuple[Tensor, ...]) -> Iterator[Tensor]:
    # Shown on a terminal only, and only where there is something to wait for.
    return iter(tqdm(chunks, "samples of q(z)", delay=2, disable=None, leave=False))


def _mean(values: Tensor) -> Tensor:
    """Return the mean over items, in float64 on the CPU."""
    return values.cpu().double().mean(0)


def _entropies(data: Posterior) -> Tensor:
    """Return the entropy of each q(z_j|n), shape (N, D)."""
    return 0.5 * (data.logvar + LOG_2PI + 1)


def _kl_by_dimension(factors: Distribution | None, data: Posterior) -> Tensor:
    """Return KL(q(z_j|n) || p(z_j)), shape (N, D), of a prior with a closed form."""
    normal = Normal(data.mu, (0.5 * data.logvar).exp(), validate_args=False)
    zero = data.mu.new_zeros(())
    return kl_divergence(normal, factors or Normal(zero, zero + 1))


def _log_densities(
    data: Posterior,
    kl: Tensor,
    items: Tensor,
    factors: Distribution | None,
    generator: Generator | None,
    groups: Sequence[list[int]],
) -> list[Tensor]:
    """Return log-densities at new z: of all dimensions, shape (S, 4), and each group, (S, 2).

    They are log q(z) and sum_j log q(z_j). The two controls, of all dimensions, are log q(z|n) and
    log p(z), less their known means for the item that z is drawn from: their mean is 0 whichever
    items are drawn.
    """
    own = Posterior(data.mu[items], data.mu[items], data.logvar[items]).sample(generator=generator)
    log_size = math.log(data.mu.shape[0])
    joint, marginals = log_sum(own.z, Components(data.mu, data.logvar), keep="all")
    joint, marginals = joint - log_size, marginals - log_size
    entropies = _entropies(own).sum(1)
    whole = (
        joint,
        marginals.sum(1),
        log_normal(own.z, own.mu, own.logvar).sum(1) + entropies,
        log_prior(factors, own.z) + entropies + kl[items],
    )
    parts = (
        (_joint(data, own.z, joint, marginals, group), marginals[:, group].sum(1))
        for group in groups
    )
    return [torch.stack(columns, 1).cpu().double() for columns in (whole, *parts)]


def _joint(
    data: Posterior, z: Tensor, joint: Tensor, marginals: Tensor, group: list[int]
) -> Tensor:
    """Return log q(z) of a group's dimensions; for one dimension and for all it is there."""
    if len(group) == 1:
        return marginals[:, group[0]]
    if len(group) == z.shape[1]:
        return joint
    components = Components(data.mu[:, group], data.logvar[:, group])
    return log_sum(z[:, group], components, keep="all")[0] - math.log(len(data.mu))
