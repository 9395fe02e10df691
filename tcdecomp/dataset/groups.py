r"""Groups of dimensions: total correlation within them and between them.

A partition of the latent dimensions into groups g divides the total correlation,

    KL(q(z) || prod_j q(z_j)) = sum_g KL(q(z_g) || prod_{j in g} q(z_j))
                              + KL(q(z) || prod_g q(z_g)),

into what is within the groups and what is between them. Each group has a decomposition of its own,
KL_g = I(n; z_g) + TC_g + DWKL_g, so that

    KL = sum_g KL_g,    DWKL = sum_g DWKL_g,
    TC = sum_g TC_g + between,    MI = sum_g I(n; z_g) - between.

A single dimension is the smallest group: its TC is 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple, SupportsIndex

import torch
from torch import Generator, Tensor

from tcdecomp._checks import check_tensors, integer
from tcdecomp._processes import Division, Group, resolve_group, shared_refusal
from tcdecomp._text import decimal
from tcdecomp.dataset.decomposition import DatasetTerms, checked_samples
from tcdecomp.dataset.sampling import sample_densities
from tcdecomp.kernels import Kernel
from tcdecomp.minibatch.batch import Batch
from tcdecomp.minibatch.conditional import DatasetSize
from tcdecomp.minibatch.estimators import Weights
from tcdecomp.minibatch.options import Options, Reduction
from tcdecomp.priors import Prior
from tcdecomp.terms import Estimate

__all__ = ["GroupTerms", "Groups", "SplitTC", "decompose_groups", "split_tc"]

Groups = Mapping[str, Iterable[SupportsIndex]]


class GroupTerms(NamedTuple):
    """The terms over a data set, divided by groups of dimensions: float64 on the CPU, in nats.

    Attributes
    ----------
    whole : DatasetTerms
        Those of all dimensions, as :func:`tcdecomp.decompose_dataset` returns them.
    groups : dict
        The ``DatasetTerms`` of each group, by its name.
    dimensions : tuple
        The ``DatasetTerms`` of each dimension: its share of the KL is I(n; z_j), how much it tells
        of the item, and KL(q(z_j) || p(z_j)).
    between : Estimate
        KL(q(z) || prod_g q(z_g)), the total correlation of the groups, with its standard error. Of
        two groups it is their mutual information.
    """

    whole: DatasetTerms
    groups: dict[str, DatasetTerms]
    dimensions: tuple[DatasetTerms, ...]
    between: Estimate

    def __str__(self) -> str:
        """Return a table, in nats, whose columns sum to the last row: all but the errors of TC."""
        width = max(map(len, (*self.groups, "(between)")))
        lines = [f"{'':{width}}{'KL':>10}{'DWKL':>10}{'MI':>10}{'TC':>10}{'+-':>10}"]
        value, error = self.between
        between = 0.0, 0.0, -value, value, error
        rows = {name: _row(result) for name, result in self.groups.items()}
        for name, row in (*rows.items(), ("(between)", between), ("(all)", _row(self.whole))):
            lines.append(f"{name:{width}}" + "".join(f"{decimal(cell):>10}" for cell in row))
        return "\n".join(lines)


class SplitTC(NamedTuple):
    """Total correlation within groups of dimensions, and between them, in nats.

    Attributes
    ----------
    within : dict
        KL(q(z_g) || prod_{j in g} q(z_j)) of each group by its name, a Tensor of shape () or (M,).
    between : Tensor, shape () or (M,)
        KL(q(z) || prod_g q(z_g)).
    """

    within: dict[str, Tensor]
    between: Tensor


def decompose_groups(
    mu: Tensor,
    logvar: Tensor,
    groups: Groups,
    *,
    num_samples: SupportsIndex = 10_000,
    generator: Generator | None = None,
    prior: Prior = None,
    process_group: Group = None,
) -> GroupTerms:
    """Evaluate the terms over a data set for all dimensions, for groups of them and for each.

    All come from the same samples, and so sum as they should. What a dimension has for itself is
    exact, and so are the KL and the dimension-wise KL of a group; total correlations, and mutual
    information with them, are sampled. It needs up to twice the densities of
    :func:`tcdecomp.decompose_dataset`.

    Parameters
    ----------
    mu, logvar : Tensor, shape (N, D)
        As in :func:`tcdecomp.decompose_dataset`.
    groups : mapping
        From a name to the group's dimensions, integers of 0 to D - 1. Each dimension is in one
        group.
    num_samples, generator, prior, process_group
        As in :func:`tcdecomp.decompose_dataset`.

    Returns
    -------
    GroupTerms
        The terms of the whole, of the groups and of each dimension, and the total correlation
        between the groups.

    Raises
    ------
    TypeError, ValueError
        If the groups are not a partition of the D dimensions, and where
        :func:`tcdecomp.decompose_dataset` raises them.

    References
    ----------
    Watanabe (1960). Information Theoretical Analysis of Multivariate Correlation.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import decompose_groups
    >>> g = torch.Generator().manual_seed(0)
    >>> mu, logvar = torch.randn(500, 2, generator=g), torch.full((500, 3), -3.0)
    >>> mu = torch.cat([mu, mu[:, :1]], 1)  # the last dimension repeats the first
    >>> result = decompose_groups(mu, logvar, {"a": [0, 2], "b": [1]}, generator=g)
    >>> bool(result.groups["a"].terms.total_correlation > 1 > result.between.value)
    True
    """
    return grouped_terms(
        mu,
        logvar,
        groups,
        num_samples=num_samples,
        generator=generator,
        prior=prior,
        division=Division(process_group),
    )


def grouped_terms(
    mu: Tensor,
    logvar: Tensor,
    groups: Groups,
    *,
    num_samples: SupportsIndex,
    generator: Generator | None,
    prior: Prior,
    division: Division,
) -> GroupTerms:
    """Return what :func:`decompose_groups` does, with the work divided among processes."""
    with shared_refusal(division.group, mu):
        samples = checked_samples(num_samples)
        check_tensors(mu=mu, logvar=logvar)
        parts = _checked(groups, mu.shape[1])
    singles = [[j] for j in range(mu.shape[1])]
    whole, *rest = sample_densities(
        mu,
        logvar,
        [*parts.values(), *singles],
        samples=samples,
        generator=generator,
        prior=prior,
        division=division,
    )
    within = torch.stack([part.joint - part.product for part in rest[: len(parts)]]).sum(0)
    between, error = whole.regression.mean(whole.joint - whole.product - within)
    all_terms, *results = (DatasetTerms(*part.terms(), samples) for part in (whole, *rest))
    named = dict(zip(parts, results, strict=False))
    dimensions = tuple(results[len(parts) :])
    return GroupTerms(all_terms, named, dimensions, Estimate(between.item(), error.item()))


def split_tc(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    dataset_size: DatasetSize,
    groups: Groups,
    *,
    items: Tensor | None = None,
    condition: Tensor | None = None,
    estimator: str | Weights = "mss",
    reduction: Reduction = "mean",
    process_group: Group = None,
    validate: bool = True,
    kernel: Kernel = "auto",
) -> SplitTC:
    """Estimate the total correlation within groups of dimensions and between them from one batch.

    Differentiable in z, mu and logvar, so that a loss can weigh the parts. The parts sum to the
    ``total_correlation`` of :func:`tcdecomp.decompose`, which is also how to have one part alone:
    ``decompose(z[:, g], mu[:, g], logvar[:, g], N).total_correlation`` is that within group g.

    Parameters
    ----------
    z, mu, logvar : Tensor
        As in :func:`tcdecomp.decompose`.
    dataset_size : int or mapping
        As in :func:`tcdecomp.decompose`.
    groups : mapping
        From a name to the group's dimensions, integers of 0 to D - 1. Each dimension is in one
        group.
    items, condition, estimator, reduction, process_group, validate, kernel
        As in :func:`tcdecomp.decompose`.

    Returns
    -------
    SplitTC
        The total correlation within each group, and between them.

    Raises
    ------
    TypeError, ValueError
        If the groups are not a partition of the D dimensions, and where
        :func:`tcdecomp.decompose` raises them.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp.dataset import split_tc
    >>> _ = torch.manual_seed(0)
    >>> mu, logvar = torch.randn(64, 4, requires_grad=True), torch.full((64, 4), -2.0)
    >>> z = mu + (0.5 * logvar).exp() * torch.randn(64, 4)
    >>> tc = split_tc(z, mu, logvar, 10_000, {"style": [0, 1], "content": [2, 3]})
    >>> tc.within["style"].backward()
    >>> mu.grad[:, 2:].abs().max()
    tensor(0.)
    """
    options = Options(estimator, None, "closed", reduction, process_group, validate, kernel)
    with shared_refusal(resolve_group(process_group), mu):
        check_tensors(z=z, mu=mu, logvar=logvar)
        parts = _checked(groups, mu.shape[1])
    rows = {"items": items, "condition": condition}
    whole = Batch(z, mu, logvar, dataset_size, options, **rows).terms().total_correlation  # type: ignore[arg-type]
    within, unseen = {}, replace(options, validate=False)
    for name, part in parts.items():
        own = z[..., part], mu[:, part], logvar[:, part]
        batch = Batch(*own, dataset_size, unseen, doubt=_said_of_the_whole, **rows)  # type: ignore[arg-type]
        within[name] = batch.terms().total_correlation
    return SplitTC(within, whole - sum(within.values()))


def _said_of_the_whole(kind: str, text: str | None) -> None:
    """Do not warn again for a part of the latents."""


def _row(result: DatasetTerms) -> tuple[float, ...]:
    mi, tc, dimension_wise, _ = (term.item() for term in result.terms if term is not None)
    error = result.standard_error.total_correlation.item()
    return mi + tc + dimension_wise, dimension_wise, mi, tc, error


def _checked(groups: Groups, dim: int) -> dict[str, list[int]]:
    """Return the groups as lists, if they are a partition of the dimensions 0 to ``dim`` - 1."""
    if not isinstance(groups, Mapping):
        raise TypeError(
            "groups must map names to lists of latent dimensions; "
            f"got {groups!r} ({type(groups).__name__})"
        )
    parts = {name: _dimensions(name, members, dim) for name, members in groups.items()}
    counts = Counter(j for part in parts.values() for j in part)
    if missing := [j for j in range(dim) if j not in counts]:
        raise ValueError(
            f"groups must hold each of the D = {dim} dimensions; {missing} are in none"
        )
    if doubled := [j for j in range(dim) if counts[j] > 1]:
        raise ValueError(f"groups must hold each dimension once; {doubled} are in them repeatedly")
    return parts


def _dimensions(name: object, members: object, dim: int) -> list[int]:
    if not isinstance(name, str):
        raise TypeError(f"groups must have names of type str; got {name!r}")
    what = f"groups must map {name!r} to a list of dimensions, integers of 0 to {dim - 1}"
    try:
        part = [integer(member) for member in members]  # type: ignore[attr-defined]
    except TypeError:
        raise TypeError(f"{what}; got {members!r}") from None
    if not part or not all(0 <= j < dim for j in part):
        raise ValueError(f"{what}; got {members!r}")
    return part
