"""The same loss, MI + 6 TC + DWKL of one batch, as several codes compute it.

Each maker returns a function of (z, mu, logvar), or raises an ImportError if its package is not
installed. N is 1,000,000 throughout.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

N = 1_000_000
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def log_normal(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Return the log-densities as the paper's code writes them."""
    return -0.5 * ((z - mu) ** 2 * torch.exp(-logvar) + logvar + math.log(2 * math.pi))


def textbook(dim: int) -> Loss:
    """Broadcast to (M, M, D), as every public code does, with the right weights."""

    def loss(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        size = z.shape[0]
        log_weights = torch.full((size, size), (N - 1) / (N * (size - 1)), device=z.device)
        log_weights = log_weights.fill_diagonal_(1 / N).log()
        pairs = log_normal(z[:, None], mu[None], logvar[None])
        log_qz = torch.logsumexp(pairs.sum(2) + log_weights, 1)
        log_qz_j = torch.logsumexp(pairs + log_weights[..., None], 1).sum(1)
        log_qz_n = log_normal(z, mu, logvar).sum(1)
        log_pz = log_normal(z, torch.zeros_like(z), torch.zeros_like(z)).sum(1)
        return (log_qz_n - log_qz + 6 * (log_qz - log_qz_j) + log_qz_j - log_pz).mean()

    return loss


def compiled_textbook(dim: int) -> Loss:
    """The same through torch.compile."""
    return torch.compile(textbook(dim), fullgraph=True)


def pythae(dim: int) -> Loss:
    """pythae's BetaTCVAE, its reconstruction of one pixel included."""
    from pythae.models import BetaTCVAE, BetaTCVAEConfig

    model = BetaTCVAE(BetaTCVAEConfig(input_dim=(1,), latent_dim=dim, beta=6.0, use_mss=True))

    def loss(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        pixel = z.new_zeros(z.shape[0], 1)
        return model.loss_function(pixel, pixel, mu, logvar, z, N)[0]

    return loss


def keops(dim: int) -> Loss:
    """KeOps reductions of the joint and the marginal log-densities, own component included."""
    from pykeops.torch import LazyTensor

    def loss(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        size = z.shape[0]
        points, centres, logs = (
            LazyTensor(z[:, None]),
            LazyTensor(mu[None].contiguous()),
            LazyTensor(logvar[None].contiguous()),
        )
        joint = -0.5 * ((points - centres) ** 2 * (-logs).exp() + logs).sum(-1)
        log_qz = joint.logsumexp(1).flatten()
        columns = [t.T.contiguous() for t in (z, mu, logvar)]
        points = LazyTensor(columns[0][:, :, None, None])
        centres, logs = (LazyTensor(t[:, None, :, None]) for t in columns[1:])
        marginal = -0.5 * ((points - centres) ** 2 * (-logs).exp() + logs)
        log_qz_j = marginal.logsumexp(2).reshape(dim, size).sum(0)
        log_qz_n = log_normal(z, mu, logvar).sum(1)
        log_pz = log_normal(z, torch.zeros_like(z), torch.zeros_like(z)).sum(1)
        return (log_qz_n - log_qz + 6 * (log_qz - log_qz_j) + log_qz_j - log_pz).mean()

    return loss


def plain(dim: int) -> Loss:
    """This library without its compiled kernel, as where numba is not installed."""
    from tcdecomp import kernels

    ours, is_usable = tcdecomp(dim), kernels._is_usable

    def loss(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        kernels._is_usable = lambda name: False  # type: ignore[assignment]
        try:
            return ours(z, mu, logvar)
        finally:
            kernels._is_usable = is_usable

    return loss


def tcdecomp(dim: int) -> Loss:
    """This library, with the checks that are its default."""
    from tcdecomp import TCDecomposition

    criterion = TCDecomposition(beta=6)
    return lambda z, mu, logvar: criterion(z, mu, logvar, N)


LOSSES: dict[str, Callable[[int], Loss]] = {
    "textbook": textbook,
    "compiled": compiled_textbook,
    "pythae": pythae,
    "KeOps": keops,
    "plain": plain,
    "tcdecomp": tcdecomp,
}
