"""What code may compute in place of the terms: the right form, and departures from it.

A form predicts the answers to a probe, so that code can be told by the form that reproduces what
it answers. Everything is written out over the (M, M) pairs, as in the paper, and apart from the
library's kernels: the auditor has to be right by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tcdecomp.auditor.probes import Probe
from tcdecomp.minibatch.estimators import inclusive, mss, mws
from tcdecomp.posterior import LOG_2PI

__all__ = [
    "COUNTED",
    "DENSITIES",
    "JACKKNIFE",
    "MATRICES",
    "MISPLACED",
    "PAPER",
    "SCALES",
    "UNKNOWN",
    "Form",
    "Matrix",
    "paper",
    "symmetric",
]

Matrix = Callable[[int, int], Tensor]


def symmetric(weights: Callable[[int, int], tuple[float, float]]) -> Matrix:
    """Return the function (M, N) -> (M, M) matrix of weights that treats all others alike."""

    def matrix(size: int, dataset_size: int) -> Tensor:
        own, other = weights(size - 1, dataset_size)
        return _filled(size, other).fill_diagonal_(own)

    return matrix


def _filled(size: int, value: float) -> Tensor:
    return torch.full((size, size), value, dtype=torch.float64)


def paper(size: int, dataset_size: int, special: Tensor | None = None) -> Tensor:
    """Return the weights of the paper, appendix C.2.

    Parameters
    ----------
    size, dataset_size : int
        M and N.
    special : Tensor of bool, shape (M, M), optional
        Whether the column's component is special to the row; by default each row's next is.
    """
    if special is None:
        special = torch.eye(size, dtype=torch.bool).roll(1, 1)
    matrix = _filled(size, 1 / (size - 1))
    matrix[special] = _special(size, dataset_size)
    return matrix.fill_diagonal_(1 / dataset_size)


def _wrong_columns(size: int, dataset_size: int) -> Tensor:
    """Weights of much public code, whose stride is one short of the diagonal's."""
    matrix = _filled(size, 1 / (size - 1))
    matrix[:, 0] = 1 / dataset_size
    matrix[:, 1] = _special(size, dataset_size)
    matrix[size - 2, 0] = _special(size, dataset_size)
    return matrix


def _special(size: int, dataset_size: int) -> float:
    others = size - 1
    return (dataset_size - others) / (dataset_size * others)


JACKKNIFE, PAPER = "MSS with jackknife", "MSS of the paper"
MISPLACED, UNKNOWN = "MSS of the paper, misplaced", "unknown"

MATRICES: dict[str, Matrix] = {
    "symmetric MSS": symmetric(mss),
    JACKKNIFE: symmetric(mss),
    PAPER: paper,
    "MSS in the wrong columns": _wrong_columns,
    "MWS": symmetric(mws),
    "inclusive": symmetric(inclusive),
    "leave-one-out": symmetric(lambda others, total: (0.0, 1 / others)),
    "no weights": symmetric(lambda others, total: (1.0, 1.0)),
    "1/N for all": symmetric(lambda others, total: (1 / total, 1 / total)),
    "N/M for all": symmetric(lambda others, total: (total / (others + 1), total / (others + 1))),
    "1/(M-1) for all": symmetric(lambda others, total: (1 / others, 1 / others)),
}


@dataclass(frozen=True)
class Counting:
    """How often the log-weight enters log q(z), and each log q(z_j), given D."""

    joint: Callable[[int], int] = lambda dim: 1
    marginal: Callable[[int], int] = lambda dim: 1


COUNTED = {
    "once": Counting(),
    "D times": Counting(joint=lambda dim: dim),
    "not in q(z)": Counting(joint=lambda dim: 0),
    "not in q(z_j)": Counting(marginal=lambda dim: 0),
}


@dataclass(frozen=True)
class Densities:
    """How log q(z_j|n), and its sums over dimensions and components, are made.

    Attributes
    ----------
    variance : callable
        What is taken for the variance, given logvar.
    q_constant, p_constant : int
        Whether log q and log p have their -0.5 log(2 pi).
    prior : int
        Whether the dimension-wise KL has log p(z).
    summed_over : int
        Dimension of (sign, point, component) that the mixture is summed over.
    joint, marginals, priors : callable
        What is done over the dimensions to log q(z|n), to the log q(z_j) and to the log p(z_j).
    """

    variance: Callable[[Tensor], Tensor] = torch.exp
    q_constant: int = 1
    p_constant: int = 1
    prior: int = 1
    summed_over: int = 2
    joint: Callable[..., Tensor] = torch.sum
    marginals: Callable[..., Tensor] = torch.sum
    priors: Callable[..., Tensor] = torch.sum


DENSITIES = {
    "right": Densities(),
    "logvar taken for log-std": Densities(variance=lambda logvar: (2 * logvar).exp()),
    "logvar halved": Densities(variance=lambda logvar: (0.5 * logvar).exp()),
    "logvar taken for variance": Densities(variance=lambda logvar: logvar),
    "logvar taken for std": Densities(variance=lambda logvar: (2 * logvar.log()).exp()),
    "no log(2 pi) in q": Densities(q_constant=0),
    "no log(2 pi) in p": Densities(p_constant=0),
    "no prior": Densities(prior=0),
    "sum over points": Densities(summed_over=1),
    "densities averaged": Densities(joint=torch.mean, marginals=torch.mean, priors=torch.mean),
    "marginals averaged": Densities(marginals=torch.mean),
    "marginals and prior averaged": Densities(marginals=torch.mean, priors=torch.mean),
}

# What is multiplied into all three terms, given (M, D).
SCALES: dict[str, Callable[[int, int], float]] = {
    "mean": lambda size, dim: 1.0,
    "sum over the batch": lambda size, dim: float(size),
    "mean over dimensions": lambda size, dim: 1 / dim,
    "bits": lambda size, dim: 1 / math.log(2),
}


@dataclass(frozen=True)
class Form:
    """One way to compute the terms; the default is the right one.

    Attributes
    ----------
    estimator : str
        Name of the weights.
    matrix : callable
        (M, N) -> weights, shape (M, M): of the component in the column, at the row's point.
    counted, densities, scale : str
        Keys of COUNTED, DENSITIES and SCALES.
    order : tuple of int
        Which of (MI, TC, DWKL) comes first, second and third.
    signs : tuple of int
        Signs of MI, TC and DWKL.
    """

    estimator: str = "symmetric MSS"
    matrix: Matrix = MATRICES["symmetric MSS"]
    counted: str = "once"
    densities: str = "right"
    scale: str = "mean"
    order: tuple[int, int, int] = (0, 1, 2)
    signs: tuple[int, int, int] = (1, 1, 1)

    @property
    def takes_negative_logvar(self) -> bool:
        """Whether the form has an answer for variances below 1."""
        return bool(DENSITIES[self.densities].variance(torch.tensor(-1.0)) > 0)

    def predict(self, probe: Probe) -> Tensor:
        """Return the three answers to a probe, shape (3,)."""
        terms = self.terms(probe) * torch.tensor(self.signs) * SCALES[self.scale](*probe.shape)
        return terms[list(self.order)]

    def undo(self, answers: Tensor, probe: Probe) -> Tensor:
        """Return MI, TC and DWKL from three answers: undo scale, order and signs."""
        terms = answers[[self.order.index(term) for term in range(3)]]
        return terms * torch.tensor(self.signs) / SCALES[self.scale](*probe.shape)

    def terms(self, probe: Probe) -> Tensor:
        """Return MI, TC and DWKL as the form's weights and densities make them, shape (3,)."""
        density, count = DENSITIES[self.densities], COUNTED[self.counted]
        size, dim = probe.shape
        mu, logvar = probe.mu.double(), probe.logvar.double()
        z = torch.stack([sample.double() for sample in probe.samples()])
        pairs = _log_normal(
            z[:, :, None], mu, density.variance(logvar), density.q_constant
        )  # (sign, point, component, D)
        prior = density.prior * _log_normal(z, 0.0, torch.ones(()), density.p_constant)
        joint = density.joint(pairs, -1)
        log_weights = self.matrix(size, probe.dataset_size).log()
        log_qz = self._mixed(joint + count.joint(dim) * log_weights, probe)
        log_qz_j = self._mixed(pairs + count.marginal(dim) * log_weights[:, :, None], probe)
        log_qz_n = joint.diagonal(dim1=1, dim2=2)
        log_product = density.marginals(log_qz_j, -1)
        log_pz = density.priors(prior, -1)
        return torch.stack(
            [
                (log_qz_n - log_qz).mean(),
                (log_qz - log_product).mean(),
                (log_product - log_pz).mean(),
            ]
        )

    def _mixed(self, weighted: Tensor, probe: Probe) -> Tensor:
        """Return the log-density of the mixture at each point, from its weighted components."""
        if self.estimator == JACKKNIFE:
            return _jackknife(weighted, probe.dataset_size)
        return torch.logsumexp(weighted, DENSITIES[self.densities].summed_over)


def _log_normal(z: Tensor, mu: Tensor | float, variance: Tensor, constant: int) -> Tensor:
    return -0.5 * ((z - mu).square() / variance + variance.log() + constant * LOG_2PI)


def _jackknife(weighted: Tensor, dataset_size: int) -> Tensor:
    """Return MSS with its delete-one jackknife for a finite population; see the theory page."""
    size = weighted.shape[2]
    others, left = size - 1, dataset_size - size + 1
    factor = others * left / (dataset_size - 1)
    full = torch.logsumexp(weighted, 2)
    sum_of_deleted = torch.zeros_like(full)
    for k in range(size):
        rows = torch.arange(size) != k  # the own component stays
        deleted = weighted + math.log(others / (others - 1))
        deleted.diagonal(dim1=1, dim2=2).copy_(weighted.diagonal(dim1=1, dim2=2))
        deleted[:, :, k] = -torch.inf
        sum_of_deleted[:, rows] += torch.logsumexp(deleted, 2)[:, rows]
    return factor * full - (factor - 1) * sum_of_deleted / others
