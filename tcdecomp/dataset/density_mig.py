"""The mutual information gap from posterior densities, without bins and without samples."""

from __future__ import annotations

from numpy.typing import ArrayLike
from torch import Tensor

from tcdecomp._processes import Group, made_by_each, resolve_group
from tcdecomp.dataset.density_tables import DensityTables, join_tables
from tcdecomp.metrics import MutualInfoGap, mutual_info_gap

__all__ = ["density_mig_score", "density_mutual_info_gap"]


def density_mig_score(
    mu: Tensor,
    logvar: Tensor,
    factors: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    process_group: Group = None,
) -> float:
    r"""Return the mutual information gap of a VAE's latents, from its posterior densities.

    .. math::

        \mathrm{MIG} = \frac{1}{K} \sum_{k=1}^{K} \frac{1}{H(v_k)}
        \Bigl( I(z_{j(k)}; v_k) - \max_{j \ne j(k)} I(z_j; v_k) \Bigr), \qquad
        I(z_j; v_k) = \sum_v p(v) \int q(z_j|v) \log \frac{q(z_j|v)}{q(z_j)} \, dz_j

    This is the score of the paper: q(z_j|v) is the mean of the posteriors q(z_j|n) of the items n
    with v_k = v. :func:`tcdecomp.mig_score` bins one number for each item instead. The two differ:
    a latent whose posteriors are all the prior contains nothing here, and can look informative
    there through the tiny differences of its means.

    All integrals are computed by quadrature, with errors below 1e-8. The time is linear in n.

    Parameters
    ----------
    mu, logvar : Tensor, shape (n, D)
        Means and log-variances of the posteriors of n items, of any floating dtype, on the device
        that does the work.
    factors : array_like, shape (n, K) or (n,)
        The true factors of the same items, as in :func:`tcdecomp.mig_score`. Each distinct value
        is a class. Not all combinations of values need to occur, and they may occur unequally
        often: p(v) is the share of the rows.
    sample_weight : array_like, shape (n,), optional
        Weights of the rows, at least 0. A whole number w counts as w equal rows.
    process_group : ProcessGroup or "world", optional
        Processes that hold different items. All of them must call, and return the score of all
        items.

    Returns
    -------
    float
        In [0, 1], without unit.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If shapes do not match; a value is not finite or missing; weights are negative or sum to 0;
        a factor has a single value, looks continuous, or has another value in each row; or
        standard deviations are too small beside the range of the means for tables of 512 MiB.

    References
    ----------
    Chen, Li, Grosse, Duvenaud (2018). Isolating Sources of Disentanglement in Variational
    Autoencoders. NeurIPS. Section 4 and appendix C; equation 1 of the poster.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import density_mig_score
    >>> g = torch.Generator().manual_seed(0)
    >>> factors = torch.randint(0, 5, (10_000, 2), generator=g)
    >>> mu = torch.cat([factors, torch.zeros(10_000, 1)], 1)  # the last latent is collapsed
    >>> logvar = torch.tensor([-4.0, -4.0, 0.0]).expand(10_000, 3)
    >>> round(density_mig_score(mu, logvar, factors), 2)
    1.0
    """
    gap = density_mutual_info_gap(
        mu, logvar, factors, sample_weight=sample_weight, process_group=process_group
    )
    return gap.score


def density_mutual_info_gap(
    mu: Tensor,
    logvar: Tensor,
    factors: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    process_group: Group = None,
) -> MutualInfoGap:
    """Return the mutual information gap of densities with the numbers that it is made of.

    Parameters and errors are those of :func:`~tcdecomp.density_mig_score`.

    Parameters
    ----------
    mu, logvar : Tensor, shape (n, D)
    factors : array_like, shape (n, K) or (n,)
    sample_weight, process_group
        As in :func:`~tcdecomp.density_mig_score`.

    Returns
    -------
    MutualInfoGap
        As :func:`tcdecomp.mutual_info_gap` returns it. It prints as a table.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp.dataset import density_mutual_info_gap
    >>> shape = ["disc", "disc", "square", "square"]
    >>> size = [1, 2, 1, 2]
    >>> mu = torch.tensor([[0.9, 5.0], [0.9, 6.0], [0.1, 5.0], [0.1, 6.0]])
    >>> logvar = torch.tensor([-1.0, -6.0]).expand(4, 2)
    >>> print(density_mutual_info_gap(mu, logvar, list(zip(shape, size))))
    MIG 0.6296 (information in nats)
    factor  gap     entropy  best latent  runner-up
    v0      0.2592  0.6931   z0 0.1797    z1 0.0000
    v1      1.0000  0.6931   z1 0.6931    z0 0.0000
    """

    def made() -> DensityTables:
        tables = DensityTables()
        tables.update(mu, logvar, factors, sample_weight=sample_weight)
        return tables

    parts = made_by_each(made, resolve_group(process_group))
    return mutual_info_gap(join_tables(parts).tables())
