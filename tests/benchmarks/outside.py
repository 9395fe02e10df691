"""Total correlation by decompose_dataset beside infomeasure's nearest-neighbour estimate.

    pip install infomeasure
    python tests/benchmarks/outside.py [--items 4000] [--samples 10000]

infomeasure (Kraskov's estimator, k = 4) knows the samples of q(z) alone, not the posteriors. It is
good for up to 5 dimensions. Prints a Markdown table in nats.
"""

import argparse
import math

import numpy as np
import torch
from torch import Generator, Tensor

from tcdecomp import decompose_dataset

DEVIATION = 0.3  # of every posterior


def chain(n: int, d: int, g: Generator) -> Tensor:
    """Draw means of which each repeats 0.8 of the one before it."""
    noise = torch.randn(n, d, generator=g, dtype=torch.float64)
    columns = [noise[:, 0]]
    for column in noise.T[1:]:
        columns.append(0.8 * columns[-1] + 0.6 * column)
    return torch.stack(columns, 1)


def ring(n: int, noise: int, g: Generator) -> Tensor:
    """Draw means on a circle, which do not correlate, beside independent ones."""
    angle = 2 * math.pi * torch.rand(n, generator=g, dtype=torch.float64)
    rest = torch.randn(n, noise, generator=g, dtype=torch.float64)
    return torch.cat([1.5 * torch.stack([angle.cos(), angle.sin()], 1), rest], 1)


def sampled(mu: Tensor, count: int, g: Generator) -> np.ndarray:
    """Draw from the mixture of the posteriors."""
    rows = mu[torch.randint(len(mu), (count,), generator=g)]
    noise = torch.randn(rows.shape, generator=g, dtype=rows.dtype)
    return (rows + DEVIATION * noise).numpy()


def main() -> None:
    """Print a line for each set of posteriors."""
    import infomeasure

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=4000)
    parser.add_argument("--samples", type=int, default=10_000)
    options = parser.parse_args()
    g, n = Generator().manual_seed(0), options.items
    print("| means | D | tcdecomp | infomeasure |\n|---|---|---|---|")
    for name, mu in {
        "chain": chain(n, 2, g),
        "longer chain": chain(n, 5, g),
        "circle": ring(n, 0, g),
        "circle and noise": ring(n, 2, g),
    }.items():
        logvar = torch.full_like(mu, 2 * math.log(DEVIATION))
        found = decompose_dataset(mu, logvar, generator=g)
        value, error = (part.total_correlation for part in (found.terms, found.standard_error))
        columns = sampled(mu, options.samples, g).T
        other = infomeasure.mutual_information(*columns, approach="metric", k=4, normalize=False)
        print(f"| {name} | {mu.shape[1]} | {value:.3f} +- {error:.3f} | {other:.3f} |")


if __name__ == "__main__":
    main()
