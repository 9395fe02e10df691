"""What code may compute in place of the terms: the right form, and departures from it.

A form predicts the answers to a probe. The code has the form whose predictions are its answers.
The formulas are those of the paper, over all (M, M) pairs. They share nothing with the library's
kernels, which may be under audit themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from tcdecomp.auditor.probes import Probe
from tcdecomp.minibatch.estimators import inclusive, mss, mws
from tcdecomp.posterior import LOG_2PI

__all__ = ["COUNTED", "DENSITIES", "MATRICES", "RIGHT", "SCALES", "Form", "Matrix", "log_normal"]

Matrix = Callable[[int, float], Tensor]  # (M, N) -> weights: row is the point, column the component

SYMMETRIC, JACKKNIFE, PAPER = "symmetric MSS", "MSS with jackknife", "MSS of the paper"
WRONG_COLUMNS, MISPLACED = "MSS in the wrong columns", "MSS of the paper, misplaced"
UNKNOWN, NONE = "unknown", "none"


def symmetric(weights: Callable[[int, Any], tuple[float, float]]) -> Matrix:
    """Return the matrix whose own weight and other weight ``weights`` gives for (M - 1, N)."""

    @lru_cache(64)
    def matrix(size: int, dataset_size: float) -> Tensor:
        own, other = weights(size - 1, dataset_size)
        return constant(size, other).fill_diagonal_(own)

    return matrix


def constant(size: int, value: float) -> Tensor:
    """Return a matrix of one weight."""
    return torch.full((size, size), value, dtype=torch.float64)


def paper(special: Callable[[int], Tensor]) -> Matrix:
    """Return the weights of the paper, appendix C.2, given which components are special."""

    @lru_cache(64)
    def matrix(size: int, dataset_size: float) -> Tensor:
        matrix = constant(size, 1 / (size - 1))
        matrix[special(size)] = _special(size, dataset_size)
        return matrix.fill_diagonal_(1 / dataset_size)

    return matrix


def _special(size: int, dataset_size: float) -> float:
    return 1 / (size - 1) - 1 / dataset_size


def _beside(size: int, offset: int = 1) -> Tensor:
    return torch.eye(size, dtype=torch.bool).roll(offset, 1)


def _first(size: int) -> Tensor:
    """Return the mask of column 0; the first row, which has its own component there, the last."""
    special = torch.zeros(size, size, dtype=torch.bool)
    special[:, 0] = special[0, -1] = True
    return special


@lru_cache(64)
def _wrong_columns(size: int, dataset_size: float) -> Tensor:
    """Return the weights of much public code. Its stride is one less than the diagonal's."""
    matrix = constant(size, 1 / (size - 1))
    matrix[:, 0] = 1 / dataset_size
    matrix[:, 1] = matrix[size - 2, 0] = _special(size, dataset_size)
    return matrix


# Which component is special to a row: a free choice. Without one of its own, a row is biased.
CHOICES: tuple[Callable[[int], Tensor], ...] = (
    _beside,
    lambda size: _beside(size, -1),
    lambda size: _beside(size, 2),
    _first,
    lambda size: _first(size).flip(0, 1),
)
WITHOUT: tuple[Callable[[int], Tensor], ...] = (
    lambda size: _beside(size).triu(),
    lambda size: _beside(size, -1).tril(),
    lambda size: _first(size).tril(),
    lambda size: _first(size).T,
    lambda size: _first(size).T.flip(0, 1),
)
MATRICES: tuple[tuple[str, Matrix], ...] = (
    (SYMMETRIC, symmetric(mss)),
    (JACKKNIFE, symmetric(mss)),
    *((PAPER, paper(choice)) for choice in CHOICES),
    (WRONG_COLUMNS, _wrong_columns),
    *((MISPLACED, paper(choice)) for choice in WITHOUT),
    ("MWS", symmetric(mws)),
    ("inclusive", symmetric(inclusive)),
    ("leave-one-out", symmetric(lambda others, total: (0.0, 1 / others))),
    ("no weights", symmetric(lambda others, total: (1.0, 1.0))),
    ("1/N for all", symmetric(lambda others, total: (1 / total, 1 / total))),
    ("N/M for all", symmetric(lambda others, total: (total / (others + 1), total / (others + 1)))),
    ("1/(M-1) for all", symmetric(lambda others, total: (1 / others, 1 / others))),
)

# How often the log-weight is in log q(z), and in each log q(z_j), given D.
COUNTED: dict[str, Callable[[int], tuple[int, int]]] = {
    "once": lambda dim: (1, 1),
    "D times": lambda dim: (dim, 1),
    "not in q(z)": lambda dim: (0, 1),
    "not in q(z_j)": lambda dim: (1, 0),
}

# The factor of all answers, given (M, D).
SCALES: dict[str, Callable[[int, int], float]] = {
    "mean": lambda size, dim: 1.0,
    "sum over the batch": lambda size, dim: float(size),
    "mean over dimensions": lambda size, dim: 1 / dim,
    "bits": lambda size, dim: 1 / math.log(2),
}


@dataclass(frozen=True)
class Densities:
    """How code makes its log-densities, and the sums over them."""

    variance: Callable[[Tensor], Tensor] = torch.exp  # of logvar
    q_constant: int = 1  # whether log q has its -0.5 log(2 pi)
    p_constant: int = 1  # whether log p has
    prior: int = 1  # whether the dimension-wise KL has log p(z)
    summed_over: int = 2  # the mixture's dimension of (sign, point, component)
    joint: Callable[..., Tensor] = torch.sum  # of log q(z|n) over the dimensions
    marginals: Callable[..., Tensor] = torch.sum  # of log q(z_j)
    priors: Callable[..., Tensor] = torch.sum  # of log p(z_j)


DENSITIES = {
    "right": Densities(),
    "logvar as the log standard deviation": Densities(variance=lambda logvar: (2 * logvar).exp()),
    "the standard deviation as the variance": Densities(
        variance=lambda logvar: (0.5 * logvar).exp()
    ),
    "logvar as the variance": Densities(variance=lambda logvar: logvar),
    "logvar as the standard deviation": Densities(variance=lambda logvar: (2 * logvar.log()).exp()),
    "no log(2 pi) in q": Densities(q_constant=0),
    "no log(2 pi) in p": Densities(p_constant=0),
    "no prior": Densities(prior=0),
    "sum over points": Densities(summed_over=1),
    "densities averaged": Densities(joint=torch.mean, marginals=torch.mean, priors=torch.mean),
    "marginals averaged": Densities(marginals=torch.mean),
    "marginals and prior averaged": Densities(marginals=torch.mean, priors=torch.mean),
}


@dataclass(frozen=True)
class Form:
    """One way to compute the terms. The default is the right one."""

    estimator: str = SYMMETRIC  # name of the weights
    matrix: Matrix = MATRICES[0][1]
    counted: str = "once"  # this and the next two are keys of the tables above
    densities: str = "right"
    scale: str = "mean"
    order: tuple[int, ...] = (0, 1, 2)  # which of (MI, TC, DWKL) each answer is
    signs: tuple[int, ...] = (1, 1, 1)  # of each answer
    loss: tuple[float, float, float] | None = None  # weights of the terms in a single answer
    fixed: float | None = None  # N, if it is the same for all batches

    @property
    def right(self) -> Form:
        """The right form with the same answers."""
        right = RIGHT["tc" if len(self.order) == 1 else "terms"]
        return replace(right, loss=self.loss, fixed=self.fixed)

    @property
    def departures(self) -> list[str]:
        """Return the names of the fields that are not right."""
        names = [] if self.estimator in (SYMMETRIC, JACKKNIFE, PAPER) else ["estimator"]
        fields, right = ("counted", "densities", "scale", "order", "signs"), self.right
        return names + [name for name in fields if getattr(self, name) != getattr(right, name)]

    @property
    def cost(self) -> int:
        """The number of departures, where each wrong sign counts."""
        return len(self.departures) + max(self.signs.count(-1) - 1, 0)

    @property
    def takes_negative_logvar(self) -> bool:
        """Whether the form has an answer for variances below 1."""
        return bool(DENSITIES[self.densities].variance(torch.tensor(-1.0)) > 0)

    def predict(self, probe: Probe) -> Tensor:
        """Return the answers to a probe."""
        return SCALES[self.scale](*probe.shape) * self.answers(self.terms(probe))

    def answers(self, terms: Tensor) -> Tensor:
        """Return the answers, shape (..., answers), given the terms, shape (..., 3)."""
        if self.loss:
            return (terms * torch.tensor(self.loss, dtype=terms.dtype)).sum(-1, keepdim=True)
        return terms[..., list(self.order)] * torch.tensor(self.signs)

    def terms(self, probe: Probe) -> Tensor:
        """Return MI, TC and DWKL as the weights and densities make them, shape (3,)."""
        z, pairs = _log_densities(probe, self.densities)
        size = self.fixed or probe.dataset_size
        return self.combine(z, pairs.diagonal(dim1=1, dim2=2).mT, pairs, size)

    def combine(self, z: Tensor, own: Tensor, pairs: Tensor, dataset_size: float) -> Tensor:
        """Return the terms, shape (3,), given log-densities.

        ``z`` and ``own``, log q(z_j|n), have shape (sign, M, D). ``pairs`` is (sign, M, M, D): at
        each point, that of each component.
        """
        density, (_, size, dim) = DENSITIES[self.densities], z.shape
        joint_count, marginal_count = COUNTED[self.counted](dim)
        log_weights = self.matrix(size, dataset_size).log()
        log_qz = self._mixed(density.joint(pairs, -1) + joint_count * log_weights, dataset_size)
        log_qz_j = self._mixed(pairs + marginal_count * log_weights[:, :, None], dataset_size)
        log_qz_n, log_product = density.joint(own, -1), density.marginals(log_qz_j, -1)
        prior = log_normal(z, 0.0, torch.ones(()), density.p_constant)
        log_pz = density.prior * density.priors(prior, -1)
        mi, tc, dimension_wise_kl = log_qz_n - log_qz, log_qz - log_product, log_product - log_pz
        return torch.stack([mi.mean(), tc.mean(), dimension_wise_kl.mean()])

    def _mixed(self, weighted: Tensor, dataset_size: float) -> Tensor:
        """Return the log-density of the mixture, given that of its weighted components."""
        if self.estimator == JACKKNIFE:
            return _jackknife(weighted, dataset_size)
        return torch.logsumexp(weighted, DENSITIES[self.densities].summed_over)


@lru_cache(256)
def _log_densities(probe: Probe, name: str) -> tuple[Tensor, Tensor]:
    """Return z, shape (sign, M, D), and the log-density of each under each posterior."""
    density = DENSITIES[name]
    z = torch.stack([sample.double() for sample in probe.samples()])
    mu, variance = probe.mu.double(), density.variance(probe.logvar.double())
    return z, log_normal(z[:, :, None], mu, variance, density.q_constant)


# The right form, by what the code returns. The weights of a loss are its own.
RIGHT = {
    "terms": Form(),
    "tc": Form(order=(1,), signs=(1,)),
    "loss": Form(loss=(1.0, 1.0, 1.0)),
}


def log_normal(z: Tensor, mu: Tensor | float, variance: Tensor, constant: int = 1) -> Tensor:
    """Return the log-density of a Gaussian, element by element."""
    return -0.5 * ((z - mu).square() / variance + variance.log() + constant * LOG_2PI)


def _jackknife(weighted: Tensor, dataset_size: float) -> Tensor:
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
