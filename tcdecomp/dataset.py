"""The decomposition over a whole data set, with q(z) the mixture of all N posteriors."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from typing import NamedTuple, SupportsIndex

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution
from tqdm.auto import tqdm

from tcdecomp.autocast import no_autocast
from tcdecomp.components import Components
from tcdecomp.kernels import log_sum
from tcdecomp.posterior import LOG_2PI, Posterior, check_finite, check_tensors, log_normal
from tcdecomp.priors import Prior, closed_form_kl, factors_of, log_prior
from tcdecomp.quadrature import mean_log_marginals
from tcdecomp.terms import Terms

__all__ = ["DatasetTerms", "decompose_dataset"]

POINTS = 1024  # samples between two steps of the progress bar
FEWEST = 100  # samples from which a standard error can be told


class DatasetTerms(NamedTuple):
    """The terms over a data set, and how far they may be off.

    Attributes
    ----------
    terms : Terms
        The three terms, which sum to the closed-form KL, and the KL: float64 scalars on the CPU,
        in nats.
    standard_error : Terms
        The Monte Carlo standard error of each.
    num_samples : int
        How many samples z the terms come from.
    """

    terms: Terms
    standard_error: Terms
    num_samples: int

    def __str__(self) -> str:
        """Return a table of the terms, in nats."""
        rows = [f"{'':20}{'nats':>10}{'+-':>10}"]
        for name, value, error in zip(Terms._fields, self.terms, self.standard_error, strict=True):
            if value is not None and error is not None:
                rows.append(f"{name:20}{value.item():10.4f}{error.item():10.4f}")
        return "\n".join(rows)


def decompose_dataset(
    mu: Tensor,
    logvar: Tensor,
    *,
    num_samples: SupportsIndex = 10_000,
    generator: Generator | None = None,
    prior: Prior = None,
) -> DatasetTerms:
    r"""Evaluate the three terms over a data set from all its posteriors.

    No minibatch stands for the data set: the mixture is the whole of it, so that the terms lack
    the estimators' bias, and their standard error is told. Memory is linear in N; the time is that
    of N * num_samples * D exponentials, with a progress bar if it is long.

    Of the four mean log-densities that the terms are made of, those of q(z|n) and p(z) are known
    in closed form and that of the marginals by quadrature. Only that of q(z) is sampled, with the
    others as regression control variates, at a bias of the order 1 / num_samples. The
    dimension-wise KL is then exact, and the three terms sum to the closed-form KL. (Where the
    standard deviations within a dimension are too far apart for quadrature, that mean is sampled
    too.)

    Parameters
    ----------
    mu, logvar : Tensor, shape (N, D)
        Means and log-variances of all N items' posteriors, on the device that is to do the work.
        Half precision is raised to float32.
    num_samples : int
        Samples z in total, at least 100: each item is drawn equally often, up to one.
    generator : torch.Generator, optional
        Source of the samples, on the device of ``mu``; None takes torch's global one.
    prior : Distribution or callable, optional
        As in :func:`tcdecomp.decompose`.

    Returns
    -------
    DatasetTerms
        The terms, their standard errors, and the number of samples.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the shapes differ, a value is not finite, ``num_samples`` is too small, or the prior
        does not factorise or has no closed-form KL.

    References
    ----------
    Chen, Li, Grosse, Duvenaud (2018). Isolating Sources of Disentanglement in VAEs. Eq. 2.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import decompose_dataset
    >>> g = torch.Generator().manual_seed(0)
    >>> mu, logvar = torch.randn(500, 3, generator=g), torch.full((500, 3), -3.0)
    >>> terms, error, _ = decompose_dataset(mu, logvar, num_samples=1000, generator=g)
    >>> bool(terms.total_correlation.abs() < 1 and error.total_correlation < 0.1)
    True
    """
    samples = _checked_samples(num_samples)
    check_tensors(mu=mu, logvar=logvar)
    check_finite("mu", mu)
    check_finite("logvar", logvar)
    data = Posterior(mu, mu, logvar).detach().in_working_precision()
    with torch.no_grad(), no_autocast(mu.device):
        factors = factors_of(prior, data)
        kl = closed_form_kl(factors, data)
        log_product = mean_log_marginals(data.mu, data.logvar)
        chunks = [
            _log_densities(data, kl, items, factors, generator)
            for items in _progress(_items(data, samples, generator))
        ]
    known = None if log_product is None else log_product.sum().cpu()
    return _estimate(torch.cat(chunks), _entropies(data).double().mean().cpu(), kl, known)


def _checked_samples(num_samples: SupportsIndex) -> int:
    try:
        if isinstance(num_samples, bool):
            raise TypeError
        samples = operator.index(num_samples)
    except TypeError:
        raise TypeError(
            f"num_samples must be an int; got {num_samples!r} ({type(num_samples).__name__})"
        ) from None
    if samples < FEWEST:
        raise ValueError(f"num_samples must be at least {FEWEST}; got {samples}")
    return samples


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
    return iter(tqdm(chunks, "decompose_dataset", delay=2, disable=None, leave=False))


def _entropies(data: Posterior) -> Tensor:
    """Return the entropy of each q(z|n), shape (N,)."""
    return 0.5 * (data.logvar + LOG_2PI + 1).sum(1)


def _log_densities(
    data: Posterior,
    kl: Tensor,
    items: Tensor,
    factors: Distribution | None,
    generator: Generator | None,
) -> Tensor:
    """Return log q(z), sum_j log q(z_j) and two controls at new z, shape (S, 4).

    The controls are log q(z|n) and log p(z), less their known means for the item that z is drawn
    from: their mean is 0 whichever items are drawn.
    """
    own = Posterior(data.mu[items], data.mu[items], data.logvar[items]).sample(generator=generator)
    log_size = math.log(data.mu.shape[0])
    joint, marginals = log_sum(own.z, Components(data.mu, data.logvar), keep="all")
    entropies = _entropies(own)
    columns = (
        joint - log_size,
        (marginals - log_size).sum(1),
        log_normal(own.z, own.mu, own.logvar).sum(1) + entropies,
        log_prior(factors, own.z) + entropies + kl[items],
    )
    return torch.stack(columns, 1).cpu().double()


def _estimate(
    densities: Tensor, entropy: Tensor, kl: Tensor, log_product: Tensor | None
) -> DatasetTerms:
    """Put the terms together from the means of log q(z) and of the marginals' log-densities."""
    joint, marginals, *controls = densities.unbind(1)
    mean_kl = kl.cpu().double().mean()
    # The differences of log-densities that TC and the dimension-wise KL are.
    tc, dimension_wise = joint - marginals, marginals + entropy + mean_kl
    if log_product is not None:
        controls.append(marginals - log_product)
    tc, tc_error = _regressed(tc, torch.stack(controls, 1))
    if log_product is None:
        dimension_wise, dimension_wise_error = _regressed(dimension_wise, torch.stack(controls, 1))
        mi_error = _regressed(joint, torch.stack(controls, 1))[1]
    else:
        dimension_wise = log_product + entropy + mean_kl
        dimension_wise_error, mi_error = torch.zeros_like(tc_error), tc_error
    return DatasetTerms(
        Terms(mean_kl - tc - dimension_wise, tc, dimension_wise, mean_kl),
        Terms(mi_error, tc_error, dimension_wise_error, torch.zeros_like(tc_error)),
        len(densities),
    )


def _regressed(values: Tensor, controls: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of values where the controls have mean 0, and its standard error.

    Ordinary least squares; the error has the leverage of that point in it, so that a sample whose
    controls lie far from 0 says so.
    """
    centre = controls.mean(0)
    # Controls may coincide (one item, one dimension): the pseudo-inverse minds it least.
    inverse = torch.linalg.pinv(controls - centre)
    slopes = inverse @ (values - values.mean())
    residuals = values - values.mean() - (controls - centre) @ slopes
    degrees = len(values) - 1 - controls.shape[1]
    leverage = 1 / len(values) + (centre @ inverse).square().sum()
    error = (residuals.square().sum() / degrees * leverage).sqrt()
    return values.mean() - centre @ slopes, error
