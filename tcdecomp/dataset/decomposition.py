"""The decomposition over a whole data set, with q(z) the mixture of all N posteriors."""

from __future__ import annotations

from typing import NamedTuple, SupportsIndex

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from tcdecomp._checks import check_tensors, checked_int, checked_labels
from tcdecomp._processes import Division, Group, shared_refusal
from tcdecomp._text import decimal
from tcdecomp.dataset.sampling import sample_densities
from tcdecomp.posterior import Posterior
from tcdecomp.priors import Prior, differs_by_item, factors_of
from tcdecomp.terms import Terms

__all__ = ["DatasetTerms", "checked_samples", "decompose_dataset"]

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
                rows.append(f"{name:20}{decimal(value.item()):>10}{decimal(error.item()):>10}")
        return "\n".join(rows)


def decompose_dataset(
    mu: Tensor,
    logvar: Tensor,
    *,
    condition: Tensor | None = None,
    num_samples: SupportsIndex = 10_000,
    generator: Generator | None = None,
    prior: Prior = None,
    process_group: Group = None,
) -> DatasetTerms:
    r"""Evaluate the three terms over a data set from all its posteriors.

    q(z) is the mixture of all N posteriors. So the terms do not have the bias of an estimator from
    a minibatch, and their standard errors are known. Memory is linear in N. The time is that of
    N * num_samples exponentials, with a progress bar if it is long.

    The terms are made of four mean log-densities. Those of q(z|n) and p(z) are known in closed
    form. The marginals q(z_j) are tabulated, which gives their mean with an error below 1e-8. Only
    the mean of log q(z) is sampled, with the others as regression control variates, at a bias of
    the order 1 / num_samples. So the dimension-wise KL is exact, and the three terms sum to the
    closed-form KL. If the standard deviations within a dimension are too far apart for a table,
    or too small beside the range of the means (below about 1e-6 of it), the marginals are sampled,
    too, and a pair of a sample and an item costs D + 1 exponentials.

    Parameters
    ----------
    mu, logvar : Tensor, shape (N, D)
        Means and log-variances of all N items' posteriors, on the device that is to do the work.
        Half precision is raised to float32, and float32 to float64 where a standard deviation is
        below 64 floats' distance at its mean.
    condition : Tensor, shape (N,), integer, optional
        A label for each item. q(z|c) is decomposed for each label c from its items, and the terms
        are averaged over items. Each label gets its share of the samples, at least 100.
    num_samples : int
        Samples z in total, at least 100: each item is drawn equally often, up to one.
    generator : torch.Generator, optional
        Source of the samples, on the device of ``mu``; None takes torch's global one.
    prior : Distribution or callable, optional
        As in :func:`tcdecomp.decompose`.
    process_group : ProcessGroup or "world", optional
        Processes that hold different items of the data set, and divide the work. All of them must
        call, with generators in the same state if they give any, and return the same: what one
        process would of all items, in the order of the ranks.

    Returns
    -------
    DatasetTerms
        The terms, their standard errors, and the number of samples. The errors are too large where
        the variances of a dimension's posteriors differ by orders of magnitude.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the shapes differ, a value is not finite, a standard deviation is too small for float64
        at its mean, ``num_samples`` is too small, or the prior does not factorise or has no
        closed-form KL.

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
    if condition is not None:
        return _by_label(mu, logvar, condition, num_samples, generator, prior, process_group)
    division = Division(process_group)
    with shared_refusal(division.group, mu):
        samples = checked_samples(num_samples)
    whole, *_ = sample_densities(
        mu,
        logvar,
        samples=samples,
        generator=generator,
        prior=prior,
        division=division,
    )
    return DatasetTerms(*whole.terms(), samples)


def _by_label(
    mu: Tensor,
    logvar: Tensor,
    condition: Tensor,
    num_samples: SupportsIndex,
    generator: Generator | None,
    prior: Prior,
    process_group: Group,
) -> DatasetTerms:
    """Return the mean over items of the decompositions of q(z|c), each of the items of a label."""
    if process_group is not None:
        raise ValueError(
            f"process_group must be None where a condition is given; got {process_group!r}. Pass "
            "all items to one process"
        )
    samples = checked_samples(num_samples)
    check_tensors(mu=mu, logvar=logvar)
    factors = factors_of(prior, Posterior(mu, mu, logvar).in_working_precision())
    labels = checked_labels("condition", condition, mu)
    parts = []
    for label in torch.unique(labels):
        rows = labels == label
        share = int(rows.sum()) / len(labels)
        own = _of_rows(factors, rows) if differs_by_item(factors) else factors
        options = {"num_samples": max(FEWEST, round(share * samples)), "prior": own}
        part = decompose_dataset(mu[rows], logvar[rows], generator=generator, **options)  # type: ignore[arg-type]
        parts.append((share, part))
    shares = torch.tensor([share for share, _ in parts], dtype=torch.float64, device="cpu")
    values = torch.stack([torch.stack(list(part.terms)) for _, part in parts])  # type: ignore[arg-type]
    errors = torch.stack([torch.stack(list(part.standard_error)) for _, part in parts])  # type: ignore[arg-type]
    return DatasetTerms(
        Terms(*(shares @ values)),
        Terms(*((shares**2) @ errors.square()).sqrt()),
        sum(part.num_samples for _, part in parts),
    )


def _of_rows(factors: Distribution | None, rows: Tensor) -> Distribution:
    """Return the priors of some items, from their parameters."""
    shape, names = factors.batch_shape, factors.arg_constraints  # type: ignore[union-attr]
    try:
        return type(factors)(**{n: getattr(factors, n).expand(shape)[rows] for n in names})  # type: ignore[misc]
    except (AttributeError, TypeError) as error:
        raise ValueError(
            "prior must be made of its parameters, as Normal is, where it differs by item and a "
            f"condition is given; got {type(factors).__name__}: {error}. Call decompose_dataset "
            "for each label, with the posteriors and the priors of its items"
        ) from error


def checked_samples(num_samples: SupportsIndex) -> int:
    """Return the number of samples as an int, or raise an error that says what it must be."""
    return checked_int("num_samples", num_samples, FEWEST)
