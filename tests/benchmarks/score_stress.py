"""Which scores of disentanglement mistake which codes: 4 structures of factors, 10 encoders.

    python tests/benchmarks/score_stress.py [--rows 2000] [--output docs/benchmarks]

Prints a Markdown table: how many of the 16 disentangled codes each score rates too low, how many
of the 24 others it rates too high, and which. With --output it becomes stress.md in that folder,
beside stress.json, all ratings, from which docs/pictures/stress.py draws. The design follows
Joshi et al. (2026), Who Guards the Guardians?, arXiv 2602.24278, which varies data and encoders
separately. Data and encoders here are our own.
"""

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tcdecomp import disentanglement_report
from tcdecomp.disentanglement.scores import VALUES

Array = NDArray[np.float64]
VALUES_OF_A_FACTOR = 5
LEVEL = 0.8  # a rating of at least this says "disentangled"


def independent(rng: Generator, n: int) -> Array:
    """Draw four independent factors."""
    return rng.integers(0, VALUES_OF_A_FACTOR, (n, 4)).astype(float)


def correlated(rng: Generator, n: int) -> Array:
    """Draw factors of which each repeats the one before it in half of the rows."""
    factors = independent(rng, n)
    for k in range(1, 4):
        same = rng.random(n) < 0.5
        factors[same, k] = factors[same, k - 1]
    return factors


def dependent(rng: Generator, n: int) -> Array:
    """Draw factors of which two follow from the others, but do not correlate with them."""
    factors = independent(rng, n)
    folded = rng.random((2, n)) < 0.7
    factors[folded[0], 2] = 2 * np.abs(factors[folded[0], 0] - 2)
    factors[folded[1], 3] = 2 * np.abs(factors[folded[1], 1] - 2)
    return factors


def unbalanced(rng: Generator, n: int) -> Array:
    """Draw factors that have one value in 80 % of the rows."""
    factors = independent(rng, n)
    factors[rng.random((n, 4)) < 0.75] = 0
    return factors


STRUCTURES: dict[str, Callable[[Generator, int], Array]] = {
    "independent": independent,
    "correlated": correlated,
    "dependent": dependent,
    "unbalanced": unbalanced,
}


def aligned(v: Array, rng: Generator) -> Array:
    return v


def moved(v: Array, rng: Generator) -> Array:
    return v[:, ::-1] * [-1, 10, 0.1, -100]


def bent(v: Array, rng: Generator) -> Array:
    return np.exp(v)


def passive(v: Array, rng: Generator) -> Array:
    """Add four latents of noise."""
    return np.column_stack([v, rng.standard_normal(v.shape)])


def rotated(v: Array, rng: Generator) -> Array:
    return np.column_stack([v[:, :2] @ [[1, 1], [1, -1]], v[:, 2:] @ [[1, 1], [1, -1]]])


def leaking(v: Array, rng: Generator) -> Array:
    """Add half of the next factor to each."""
    return v + 0.5 * np.roll(v, 1, axis=1)


def packed(v: Array, rng: Generator) -> Array:
    """Write two factors into each of two latents, as digits."""
    return v[:, :2] * VALUES_OF_A_FACTOR + v[:, 2:]


def copied(v: Array, rng: Generator) -> Array:
    return np.column_stack([v, v])


def incomplete(v: Array, rng: Generator) -> Array:
    """Lose two factors."""
    return np.column_stack([v[:, :2], rng.standard_normal((len(v), 2))])


def unrelated(v: Array, rng: Generator) -> Array:
    return rng.standard_normal(v.shape)


GOOD = (aligned, moved, bent, passive)
BAD = (rotated, leaking, packed, copied, incomplete, unrelated)


def measure(n: int, scores: str | None = "all", seed: int = 0) -> dict[str, Array]:
    """Return for each score its values, shape (structures, encoders)."""
    shape = len(STRUCTURES), len(GOOD + BAD)
    found: dict[str, Array] = {}
    for i, draw in enumerate(STRUCTURES.values()):
        factors = draw(np.random.default_rng(seed), n)
        for j, encode in enumerate(GOOD + BAD):
            rng = np.random.default_rng((seed, i, j))
            clean = encode(factors, rng)
            codes = clean + 0.05 * clean.std(0) * rng.standard_normal(clean.shape)
            report = disentanglement_report(codes, factors, scores=scores, confidence=None)
            for name, interval in report.scores.items():
                found.setdefault(name, np.full(shape, np.nan))[i, j] = interval.value
    return {name: values for name, values in found.items() if VALUES[name].higher}


def rated(values: Array) -> Array:
    """Return values on a scale from unrelated codes, 0, to aligned ones, 1, of independent factors.

    The two ends are those of the score, whatever the structure: a reader has no others.
    """
    low, high = values[0, -1], values[0, 0]
    return (values - low) / (high - low)


def mistakes(values: Array) -> NDArray[np.bool_]:
    """Tell which codes a score takes for the opposite of what they are."""
    good = np.arange(values.shape[1]) < len(GOOD)
    return (rated(values) >= LEVEL) != good


def table(found: dict[str, Array]) -> list[str]:
    """Return the lines of a Markdown table, a line for each score."""
    lines = [
        f"| score | too low, of {len(STRUCTURES) * len(GOOD)} | too high, of "
        f"{len(STRUCTURES) * len(BAD)} | which |",
        "|---|---|---|---|",
    ]
    for name, values in found.items():
        wrong = mistakes(values)
        low, high = (int(part.sum()) for part in np.split(wrong, [len(GOOD)], axis=1))
        lines.append(f"| {VALUES[name].label} | {low} | {high} | {named(wrong)} |")
    return lines


def named(wrong: NDArray[np.bool_]) -> str:
    """Name the mistakes: an encoder alone where all structures are concerned."""
    parts = []
    for encode, column in zip(GOOD + BAD, wrong.T, strict=True):
        where = [name for name, flag in zip(STRUCTURES, column, strict=True) if flag]
        if where:
            of = "" if len(where) == len(STRUCTURES) else f" ({', '.join(where)})"
            parts.append(encode.__name__ + of)
    return ", ".join(parts)


def exported(found: dict[str, Array]) -> str:
    """Return all ratings as JSON, a line for each score; null where a score is undefined."""
    lines = []
    for name, values in found.items():
        ratings = [[None if r != r else round(r, 3) for r in row] for row in rated(values).tolist()]
        lines.append(f"{json.dumps(VALUES[name].label)}: {json.dumps(ratings)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    """Print the table, and write it and the picture where that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="for stress.md and stress.json"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # of few rows: the structures share one size
    found = measure(options.rows)
    lines = table(found)
    print(*lines, sep="\n")
    if options.output:
        (options.output / "stress.md").write_text("\n".join(lines) + "\n")
        (options.output / "stress.json").write_text(exported(found))


if __name__ == "__main__":
    main()
