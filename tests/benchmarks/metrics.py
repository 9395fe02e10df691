"""Time of MIG and of all table scores, beside disentanglement_lib's formula, in one process.

python tests/benchmarks/metrics.py [--rows 100000] [--repeats 5]
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import numpy as np
from sklearn.metrics import mutual_info_score

from tcdecomp import metrics


def published(codes: np.ndarray, factors: np.ndarray) -> float:
    """disentanglement_lib's formula: bins of equal width, and scikit-learn's score of each pair."""
    bins = [np.digitize(z, np.histogram(z, 20)[1][:-1]) for z in codes.T]
    mutual = np.array([[mutual_info_score(v, z) for v in factors.T] for z in bins])
    entropy = np.array([mutual_info_score(v, v) for v in factors.T])
    ranked = np.sort(mutual, axis=0)
    return float(np.mean((ranked[-1] - ranked[-2]) / entropy))


def all_table_scores(codes: np.ndarray, factors: np.ndarray) -> float:
    tables = metrics.contingency_tables(codes, factors)
    metrics.mig_sup_score(tables)
    metrics.jemmig_score(tables)
    metrics.dcimig_score(tables)
    metrics.modularity_score(tables)
    return metrics.mig_score(tables)


def problem(n: int, n_latents: int, cards: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    factors = np.stack([rng.integers(0, card, n) for card in cards], 1)
    codes = rng.standard_normal((n, n_latents))
    codes[:, : len(cards)] += factors
    return codes, factors


def best(function: Callable[[], float], repeats: int) -> tuple[float, float]:
    """Return the least processor time, and the result."""
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        result = function()
        times.append(time.thread_time() - start)
    return min(times), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(platform.processor() or platform.machine())
    print(f"{'rows x latents, factors':34}{'published':>11}{'mig_score':>11}{'ratio':>7}{'all':>9}")
    dsprites = (3, 6, 40, 32, 32)
    for n, n_latents, cards in (
        (options.rows // 10, 10, dsprites),
        (options.rows, 10, dsprites),
        (options.rows, 10, (10,) * 5),
        (options.rows, 64, dsprites),
        (737_280, 10, dsprites),
        (737_280, 64, dsprites),
    ):
        codes, factors = problem(n, n_latents, cards)
        new, score = best(lambda c=codes, f=factors: metrics.mig_score(c, f), options.repeats)
        every, _ = best(lambda c=codes, f=factors: all_table_scores(c, f), options.repeats)
        name = f"{n:,} x {n_latents}, {'x'.join(map(str, cards))}"
        if n > options.rows:  # the published formula would need a minute
            print(f"{name:34}{'':11}{new:9.3f} s{'':7}{every:7.3f} s")
            continue
        old, expected = best(lambda c=codes, f=factors: published(c, f), options.repeats)
        if abs(score - expected) > 1e-12:
            raise ValueError(f"the scores differ: {score} and {expected}")
        print(f"{name:34}{old:9.3f} s{new:9.3f} s{old / new:6.1f}x{every:7.3f} s")


if __name__ == "__main__":
    main()
