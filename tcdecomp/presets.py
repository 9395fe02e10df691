"""The published systems that the decomposition contains, by name.

Each returns a :class:`~tcdecomp.TCDecomposition`; further options (``estimator``, ``prior``, ...)
are handed on to it. The reconstruction term stays the caller's.
"""

from __future__ import annotations

from typing import Any

from tcdecomp.loss import TCDecomposition

__all__ = [
    "beta_tcvae",
    "beta_vae",
    "factor_vae",
    "info_vae",
    "infomax_vae",
    "information_dropout",
    "vae",
]


def vae(**options: Any) -> TCDecomposition:
    """Return the KL of the ordinary VAE (Kingma & Welling 2014)."""
    return TCDecomposition(**options)


def beta_vae(beta: float, **options: Any) -> TCDecomposition:
    """Return beta * KL (Higgins et al. 2017): all three terms alike."""
    return TCDecomposition(alpha=beta, beta=beta, gamma=beta, **options)


def beta_tcvae(beta: float, **options: Any) -> TCDecomposition:
    """Return MI + beta * TC + DWKL (Chen et al. 2018)."""
    return TCDecomposition(beta=beta, **options)


def factor_vae(gamma: float, **options: Any) -> TCDecomposition:
    """Return FactorVAE's objective, KL + gamma * TC (Kim & Mnih 2018), without its discriminator.

    ``gamma`` is that paper's weight, added to the 1 that the KL already puts on TC. The
    discriminator is :class:`tcdecomp.DensityRatioTC`.
    """
    return TCDecomposition(beta=1 + gamma, **options)


def information_dropout(beta: float, **options: Any) -> TCDecomposition:
    """Return beta * (MI + TC), the bottleneck of Achille & Soatto (2018).

    It is beta * KL(q(z|n) || prod_j q(z_j)): their prior is the best factorised one, which
    leaves no dimension-wise KL.
    """
    return TCDecomposition(alpha=beta, beta=beta, gamma=0, **options)


def info_vae(alpha: float, lambda_: float, **options: Any) -> TCDecomposition:
    """Return InfoVAE's (1 - alpha) * MI + lambda * KL(q(z) || p(z)) (Zhao et al. 2019).

    This is equation 6 of the paper.
    """
    return TCDecomposition(alpha=1 - alpha, beta=lambda_, gamma=lambda_, **options)


def infomax_vae(alpha: float, **options: Any) -> TCDecomposition:
    """Return KL - alpha * MI (Rezaabad & Vishwanath 2020), with MI estimated from the batch."""
    return TCDecomposition(alpha=1 - alpha, **options)
