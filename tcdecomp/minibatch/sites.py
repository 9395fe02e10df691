r"""Spatial latents with every site as an item: q(z) is that of the channels at any one site.

For S sites of N images, q(z) = 1/(N S) sum_n sum_s q(z|n, s), over C channels. A batch has all
sites of M images, so that with an estimator's weights (own, other) for M - 1 others of N items

    q(z) ~ own/S sum_s q(z|n, s) + other/S sum_{m != n} sum_s q(z|m, s),

n being the image that z is from: for "mss" 1/(N S) on each site of the own image, and
(N - 1)/(N (M - 1) S) on each other. It is unbiased if the estimator is.
"""

from __future__ import annotations

from typing import SupportsIndex

import torch
from torch import Tensor

from tcdecomp._autocast import no_autocast
from tcdecomp.kernels import Kernel, log_sums
from tcdecomp.kernels.components import Components
from tcdecomp.minibatch.batch import KL, REDUCE, Reduction, check_options, checked_size
from tcdecomp.minibatch.estimators import Estimator, mss_jackknife, resolve
from tcdecomp.minibatch.mixture import log_mixture
from tcdecomp.posterior import Posterior, log_normal
from tcdecomp.priors import Prior, closed_form_kl, factors_of, log_prior
from tcdecomp.terms import Terms

__all__ = ["decompose_sites"]


def decompose_sites(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    dataset_size: SupportsIndex,
    *,
    estimator: str | Estimator = "mss",
    prior: Prior = None,
    kl: KL = "closed",
    reduction: Reduction = "mean",
    validate: bool = True,
    kernel: Kernel = "auto",
) -> Terms:
    """Estimate the terms of the channels, with every site of an image as an item.

    Total correlation is then that of the C channels, wherever they are looked at, and index-code
    MI is what a site's channels tell of image and place, at most log(N S). The terms, and the KL,
    are of one *site*: S times as much is of an image. To decompose images as wholes, with
    D = C S latents, call :func:`tcdecomp.decompose` with ``z.flatten(1)`` and so on.

    The cost is that of a batch of M S rows. Differentiable in z, mu and logvar; dtypes, devices
    and autocast are as in :func:`tcdecomp.decompose`.

    Parameters
    ----------
    z, mu, logvar : Tensor, shape (M, C, ...)
        A sample from each site's posterior, its mean and log-variance: (M, C, H, W) for images,
        with S = H W sites.
    dataset_size : int
        N, the number of images (not of sites) that this batch was drawn from without replacement.
    estimator : {"mss", "mws", "inclusive"} or callable
        How the batch stands for the data set, from M and N; see
        :mod:`tcdecomp.minibatch.estimators`.
    prior : Distribution or callable, optional
        A prior that factorises over the C channels; None is the standard normal.
    kl, kernel
        As in :func:`tcdecomp.decompose`.
    reduction : {"mean", "sum", "none"}
        Over the M S sites; "none" gives terms of shape (M, ...), as the sites are.
    validate : bool
        As in :func:`tcdecomp.decompose`. A row, in errors, is a site: image * S + place.

    Returns
    -------
    Terms
        The three terms and the KL, in nats per site.

    Raises
    ------
    TypeError, ValueError
        If the shapes are not one shape (M, C, ...) with at least one dimension of sites, if the
        estimator is "mss-jackknife", and where :func:`tcdecomp.decompose` raises them.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import decompose_sites
    >>> _ = torch.manual_seed(0)
    >>> mu, logvar = torch.randn(8, 4, 3, 3), torch.full((8, 4, 3, 3), -2.0)
    >>> z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
    >>> decompose_sites(z, mu, logvar, 1000, reduction="none").total_correlation.shape
    torch.Size([8, 3, 3])
    """
    check_options(kl, reduction, kernel)
    weights = resolve(estimator)
    if weights is mss_jackknife:
        raise ValueError(
            "estimator must not be 'mss-jackknife' for sites: it would leave out one site at a "
            "time, and sites of an image are not drawn one by one"
        )
    _check_shapes(z=z, mu=mu, logvar=logvar)
    given = Posterior(*(t.flatten(2).transpose(1, 2).flatten(0, 1) for t in (z, mu, logvar)))
    batch_size, sites = len(z), z.shape[2:]
    size = checked_size(dataset_size, batch_size)
    own, other = (weight / sites.numel() for weight in weights(batch_size - 1, size))
    if validate and not torch.compiler.is_compiling():
        given.check_values()
    rows = given.in_working_precision()
    with no_autocast(z.device):
        factors = factors_of(prior, rows)
        images = torch.arange(batch_size, device=z.device).repeat_interleave(sites.numel())
        sums = log_sums(rows.z, Components(rows.mu, rows.logvar, images), images, kernel=kernel)
        log_qz, log_qz_j = log_mixture(sums, own, other)
        per_site = Terms.from_log_densities(
            log_normal(rows.z, rows.mu, rows.logvar).sum(1),
            log_qz,
            log_qz_j.sum(1),
            log_prior(factors, rows.z),
            closed_form_kl(factors, rows) if kl == "closed" else None,
        )
    if reduction == "none":
        return per_site.map(lambda term: term.view(batch_size, *sites))
    return per_site.map(REDUCE[reduction])


def _check_shapes(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor; got {type(tensor).__name__}")
    shapes = [tuple(tensor.shape) for tensor in tensors.values()]
    if len(set(shapes)) > 1 or len(shapes[0]) < 3 or 0 in shapes[0]:
        got = ", ".join(map(str, shapes))
        raise ValueError(
            "z, mu and logvar must share one shape (M, C, ...) with dimensions of sites, and must "
            f"not be empty; got {got}"
        )
