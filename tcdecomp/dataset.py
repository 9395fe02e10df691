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

from tcdecomp.components import Components
from tcdecomp.kernels import log_sum
from tcdecomp.posterior import Posterior, check_finite, log_normal
from tcdecomp.priors import Prior, closed_form_kl, factors_of, log_prior
from tcdecomp.quadrature import mean_log_marginals
from tcdecomp.terms import Terms

__all__ = ["DatasetTerms", "decompose_dataset"]

POINTS = 1024  # samples between two steps of the progress bar
FEWEST = 16  # samples from which a standard error can be told


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

    No minibatch stands for the data set: the mixture is the whole of it, so that the terms have no
    bias, and their standard error is told. Memory is linear in N; the time is that of
    N * num_samples * D exponentials, with a progress bar if it is long.

    Of the four mean log-densities that the terms are made of, those of q(z|n) and p(z) are known
    in closed form and that of the marginals by quadrature. Only that of q(z) is sampled, with the
    known ones as regression control variates. The dimension-wise KL is then exact, and the three
    terms sum to the closed-form KL.

    Parameters
    ----------
    mu, logvar : Tensor, shape (N, D)
        Means and log-variances of all N items' posteriors, on the device that is to do the work.
        Half precision is raised to float32.
    num_samples : int
        Samples z in total, at least 16: each item is drawn equally often, up to one.
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
    data = Posterior(mu, mu, logvar).in_working_precision()
    check_finite("mu", data.mu)
    check_finite("logvar", data.logvar)
    factors = factors_of(prior, data)
    with torch.no_grad():
        densities = torch.cat(
            [
                _log_densities(data, items, factors, generator)
                for items in _progress(_items(data, samples, generator))
            ]
        )
        known = _known_means(data, closed_form_kl(factors, data))
    return _estimate(densities, known)


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


def _log_densities(
    data: Posterior, items: Tensor, factors: Distribution | None, generator: Generator | None
) -> Tensor:
    """Return log q(z|n), log q(z), sum_j log q(z_j) and log p(z) at new z, shape (S, 4)."""
    own = Posterior(data.mu[items], data.mu[items], data.logvar[items]).sample(generator=generator)
    log_size = math.log(data.mu.shape[0])
    joint, marginals = log_sum(own.z, Components(data.mu, data.logvar), keep="all")
    columns = (
        log_normal(own.z, own.mu, own.logvar).sum(1),
        joint - log_size,
        (marginals - log_size).sum(1),
        log_prior(factors, own.z),
    )
    return torch.stack(columns, 1).double().cpu()


def _known_means(data: Posterior, kl: Tensor) -> Tensor:
    """Return the means of the four over the data set, NaN where only samples can tell."""
    entropy = 0.5 * (data.logvar.double() + math.log(2 * math.pi) + 1).sum(1).mean()
    marginals = mean_log_marginals(data.mu, data.logvar)
    unknown = torch.full_like(entropy, math.nan)
    product = unknown if marginals is None else marginals.sum()
    return torch.stack([-entropy, unknown, product, -entropy - kl.double().mean()]).cpu()


def _estimate(densities: Tensor, known: Tensor) -> DatasetTerms:
    """Regress each term on the log-densities of known mean, and shift it to where they lie."""
    count = densities.shape[0]
    differences = densities[:, :-1] - densities[:, 1:]  # MI, TC, DWKL
    controls = densities[:, known.isfinite()]
    centred = controls - controls.mean(0)
    # Controls may coincide (one item, one dimension); of LAPACK's drivers gelsd minds it least.
    slopes = torch.linalg.lstsq(centred, differences - differences.mean(0), driver="gelsd").solution
    shift = (known[known.isfinite()] - controls.mean(0)) @ slopes
    residuals = differences - differences.mean(0) - centred @ slopes
    degrees = max(1, count - 1 - controls.shape[1])
    error = (residuals.square().sum(0) / degrees / count).sqrt()
    kl = known[0] - known[3]
    terms, errors = (differences.mean(0) + shift).unbind(), error.unbind()
    return DatasetTerms(
        Terms(terms[0], terms[1], terms[2], kl),
        Terms(errors[0], errors[1], errors[2], torch.zeros_like(kl)),
        count,
    )
