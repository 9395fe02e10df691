"""Bias of the estimators against the exact terms, on two data sets with known posteriors.

    python tests/benchmarks/estimator_bias.py [--batches 40]

Prints a Markdown table: the exact terms with their standard error, and for each estimator and
batch size the mean error of one batch with its own. N = 10,000 items, D = 10 dimensions.
"""

import argparse
import math

import torch
from torch import Generator, Tensor

from tcdecomp import Posterior, Terms, decompose, decompose_dataset

N, D = 10_000, 10
ESTIMATORS = ("mws", "inclusive", "mss")
BATCH_SIZES = (64, 256, 1024)
# Live dimensions, variance of their means, and their posterior variance.
CONFIGS = {"A": (5, 0.9, 0.1), "C": (6, 0.99, 0.01)}


def data_set(live: int, variance: float, noise: float) -> tuple[Tensor, Tensor]:
    """Return mu and logvar, (N, D): ``live`` informative dimensions, the rest almost the prior."""
    generator = Generator().manual_seed(0)

    def normal(columns: int) -> Tensor:
        return torch.randn(N, columns, generator=generator, dtype=torch.float64)

    mu, logvar = torch.zeros(2, N, D, dtype=torch.float64)
    mu[:, :live] = normal(live) * math.sqrt(variance)
    logvar[:, :live] = math.log(noise) + 0.1 * normal(live)
    mu[:, live:] = 0.02 * normal(D - live)
    logvar[:, live:] = 0.02 * normal(D - live)
    return mu, logvar


def batch_terms(
    mu: Tensor, logvar: Tensor, size: int, batches: int, generator: Generator
) -> dict[str, Tensor]:
    """Return (batches, 3) for each estimator, all from the same batches and samples."""
    results: dict[str, list[Tensor]] = {name: [] for name in ESTIMATORS}
    for _ in range(batches):
        rows = torch.randperm(N, generator=generator)[:size]
        posterior = Posterior(mu[rows], mu[rows], logvar[rows]).sample(generator=generator)
        for name, terms in results.items():
            estimate = decompose(posterior.z, posterior.mu, posterior.logvar, N, estimator=name)
            terms.append(torch.stack(estimate[:3]))
    return {name: torch.stack(terms) for name, terms in results.items()}


def mean_and_error(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over the first dimension, and its standard error."""
    return samples.mean(0), samples.std(0) / math.sqrt(len(samples))


def row(*cells: str) -> None:
    """Print one line of a Markdown table."""
    print("| " + " | ".join(cells) + " |", flush=True)


def shown(values: Tensor, errors: Tensor, sign: str = "+") -> list[str]:
    """Return "value (error)" for each of the three terms."""
    return [
        f"{v:{sign}.3f} ({e:.3f})" for v, e in zip(values.tolist(), errors.tolist(), strict=True)
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=int, default=40, help="batches for each cell")
    parser.add_argument("--samples", type=int, default=20_000, help="samples of the exact terms")
    options = parser.parse_args()
    generator = Generator().manual_seed(1)
    row("data", "estimator", "M", *Terms._fields[:3])
    row(*["---"] * 6)
    for config, parameters in CONFIGS.items():
        mu, logvar = data_set(*parameters)
        exact = decompose_dataset(mu, logvar, num_samples=options.samples, generator=generator)
        truth, truth_error = (torch.stack(terms[:3]) for terms in exact[:2])
        row(config, "exact", "N", *shown(truth, truth_error, ""))
        for size in BATCH_SIZES:
            for name, terms in batch_terms(mu, logvar, size, options.batches, generator).items():
                mean, error = mean_and_error(terms)
                row(
                    config,
                    name,
                    str(size),
                    *shown(mean - truth, (error**2 + truth_error**2).sqrt()),
                )


if __name__ == "__main__":
    main()
