"""The runs: which methods, weights, data and seeds, the most important first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["PARTS", "Run", "runs"]

BETAS = (2, 3, 4, 6, 10)


@dataclass(frozen=True)
class Run:
    """One training.

    Parameters
    ----------
    part : str
        The part of the grid, a key of :data:`PARTS`.
    method : str
        The name of the objective.
    weight : float
        The weight that is varied: the beta of the figures.
    alpha, beta, gamma : float
        Weights of index-code MI, total correlation and dimension-wise KL.
    data : str
        "squares", "objects" or "dsprites".
    sigma : float
        How closely the positions x and y follow each other in the training set; 0 is the full grid.
    seed : int
        Of the initial weights, the order of the batches, the noise, and the correlated draw.
    """

    part: str
    method: str
    weight: float
    alpha: float
    beta: float
    gamma: float
    data: str
    sigma: float
    seed: int

    @property
    def key(self) -> str:
        """A name for files, without the part: a run that two parts share is trained once."""
        weights = f"{self.alpha:g}_{self.beta:g}_{self.gamma:g}"
        name = self.method.replace(" ", "-")
        return f"{self.data}_{name}_{weights}_sigma{self.sigma:g}_seed{self.seed}"


Weights = tuple[str, float, float, float, float]  # method, weight, alpha, beta, gamma


def methods(betas: Sequence[float]) -> Iterator[Weights]:
    """Yield the VAE, and the paper's methods at each beta."""
    yield "VAE", 1, 1, 1, 1
    for b in betas:
        yield "beta-VAE", b, b, b, b
        yield "beta-TCVAE", b, 1, b, 1
        # Kim and Mnih's gamma is b - 1: the KL already holds the total correlation once.
        yield "FactorVAE", b, 1, b, 1


def single_weights() -> Iterator[Weights]:
    """Yield the objectives that change alpha or gamma in place of beta."""
    for weight in (3, 6, 10):
        yield "alpha alone", weight, weight, 1, 1
        yield "gamma alone", weight, 1, 1, weight
    yield "InfoMax", -1, -1, 1, 1
    yield "InfoMax", 0, 0, 1, 1
    yield "information dropout", 1, 1, 1, 0
    yield "information dropout", 6, 6, 6, 0


# Data, strengths of the correlation, and objectives of each part.
PARTS = {
    "squares": ("squares", (0.0,), tuple(methods(BETAS))),
    "weights": ("squares", (0.0,), tuple(single_weights())),
    "objects": ("objects", (0.0,), tuple(methods((3, 6, 10)))),
    "correlated": ("squares", (math.inf, 0.4, 0.2, 0.1), tuple(methods((6,)))),
    "dsprites": ("dsprites", (0.0,), tuple(methods((2, 4, 6)))),
}


def runs(part: str, seeds: Sequence[int]) -> Iterator[Run]:
    """Yield the runs of a part, one seed after the other: a grid that was stopped is balanced."""
    data, sigmas, objectives = PARTS[part]
    for seed in seeds:
        for sigma in sigmas:
            for objective in objectives:
                yield Run(part, *objective, data, sigma, seed)
