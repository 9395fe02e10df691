r"""Spatial latents and sequences, with every site of an image as a row.

For N images with S sites each, q(z) = 1/(N S) sum_n sum_s q(z|n, s), over C channels: each site is
a row, and the image is its item. With M images in the batch and an estimator's weights (own, other)
for M - 1 others of N items,

    q(z) ~ own/S sum_s q(z|n, s) + other/S sum_{m != n} sum_s q(z|m, s),

where n is the image that z is from. For "mss" the weights are 1/(N S) on each site of the own
image, and (N - 1)/(N (M - 1) S) on each other site. The estimate is unbiased if the estimator is.
With a mask, images differ in their number of sites; see :mod:`tcdecomp.minibatch.mixture`.
"""

from __future__ import annotations

from typing import SupportsIndex

import torch
from torch import Tensor

from tcdecomp.kernels import Kernel
from tcdecomp.minibatch.batch import Batch
from tcdecomp.minibatch.estimators import Weights
from tcdecomp.minibatch.options import KL, Options, Reduction
from tcdecomp.priors import Prior
from tcdecomp.terms import Terms

__all__ = ["decompose_sites"]


def decompose_sites(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    dataset_size: SupportsIndex,
    *,
    mask: Tensor | None = None,
    channels_last: bool | None = None,
    estimator: str | Weights = "mss",
    prior: Prior = None,
    kl: KL = "closed",
    reduction: Reduction = "mean",
    validate: bool | None = True,
    kernel: Kernel = "auto",
) -> Terms:
    """Estimate the terms of the channels, with every site of an image as a row.

    Total correlation is then that of the C channels at any one site. Index-code MI is what a
    site's channels tell of image and place, at most log(N S). The terms and the KL are nats per
    *site*: multiply by S to get nats per image. To decompose images as wholes, with D = C S
    latents, call :func:`tcdecomp.decompose` with ``z.flatten(1)`` and so on.

    The cost is that of a batch of M S rows. Differentiable in z, mu and logvar; dtypes, devices
    and autocast are as in :func:`tcdecomp.decompose`.

    Parameters
    ----------
    z, mu, logvar : Tensor, shape (M, C, ...)
        A sample from each site's posterior, its mean and log-variance: (M, C, H, W) for images,
        with S = H W sites.
    dataset_size : int
        N, the number of images (not of sites) that this batch was drawn from without replacement.
    mask : Tensor, shape (M, ...), bool, optional
        True for the sites that count, such as the time steps of a sequence that are not padding.
        Every image needs one. Values at the other sites are not looked at, and have no gradient.
    channels_last : bool, optional
        Whether the tensors have shape (M, ..., C), as sequences (M, T, C) have. It must be given
        for tensors of three dimensions, which may be (M, C, T) or (M, T, C); by default images
        are (M, C, H, W).
    estimator : {"mss", "mws", "inclusive"} or callable
        How the batch stands for the data set, from M and N; see
        :mod:`tcdecomp.minibatch.estimators`.
    prior : Distribution or callable, optional
        A prior that factorises over the C channels; None is the standard normal.
    kl, validate, kernel
        As in :func:`tcdecomp.decompose`. A row, in errors, is a site that counts.
    reduction : {"mean", "sum", "none"}
        Over the sites that count; "none" gives terms of shape (M, ...), 0 at all other sites.

    Returns
    -------
    Terms
        The three terms and the KL, in nats per site.

    Raises
    ------
    TypeError, ValueError
        If the shapes are not one shape (M, C, ...) with at least one dimension of sites, if the
        mask does not fit them, if the estimator is "mss-jackknife", and where
        :func:`tcdecomp.decompose` raises them.

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
    _check_shapes(z=z, mu=mu, logvar=logvar)
    if channels_last is None and z.dim() == 3:
        raise ValueError(
            f"channels_last must be given for three dimensions; got shape {tuple(z.shape)}: "
            f"channels_last=True for {z.shape[1]} sites of {z.shape[2]} channels, False for "
            f"{z.shape[1]} channels at {z.shape[2]} sites"
        )
    tensors = [t if channels_last else t.movedim(1, -1) for t in (z, mu, logvar)]
    places = tensors[0].shape[:-1]
    images = torch.arange(len(z), device=z.device).reshape(-1, *[1] * (len(places) - 1))
    images = images.expand(places)
    if mask is None:
        mask = torch.ones(places, dtype=torch.bool, device=z.device)
    _check_mask(mask, places, z)
    z, mu, logvar = (t[mask] for t in tensors)
    options = Options(estimator, prior, kl, reduction, None, validate, kernel)
    terms = Batch(z, mu, logvar, dataset_size, options, items=images[mask]).terms()
    if reduction != "none":
        return terms
    return terms.map(lambda term: term.new_zeros(places).masked_scatter(mask, term))


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


def _check_mask(mask: Tensor, places: torch.Size, z: Tensor) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a torch.Tensor of dtype bool; got {got}")
    if mask.shape != places or mask.device != z.device:
        raise ValueError(
            f"mask must have the shape of the sites, {tuple(places)}, on the device {z.device}; "
            f"got {tuple(mask.shape)} on {mask.device}"
        )
    if not (counts := mask.flatten(1).any(1)).all():
        image = int((~counts).nonzero()[0])
        raise ValueError(
            f"mask must keep at least one site of every image; image {image} has none. Leave the "
            "image out of the batch"
        )
