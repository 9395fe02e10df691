"""Bias of the estimators against the exact terms, on two data sets with known posteriors.

    python tests/benchmarks/estimator_bias.py [--rows 64000] [--output docs/benchmarks]

N = 10,000 items, D = 10 dimensions. Prints Markdown tables: the exact terms with their standard
error, and for each estimator and batch size the mean error of a batch with its own; then whether
the bracket holds the truth. With --output they become bias.md in that folder;
docs/pictures/bias.py draws it.
"""

import argparse
import math
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from tcdecomp import Posterior, Terms, decompose, decompose_dataset
from tcdecomp.minibatch.bank import PosteriorBank
from tcdecomp.minibatch.bracket import Bracket, Interval

N, D = 10_000, 10
BATCH_SIZES = (64, 256, 1024)
CAPACITY = 4096  # of the bank
# Live dimensions, variance of their means, and their posterior variance.
CONFIGS = {"A": (5, 0.9, 0.1), "B": (6, 0.99, 0.01)}
TITLES = {
    "A": "A: 5 live latents, posterior variance 0.1",
    "B": "B: 6 live latents, posterior variance 0.01",
}
TERMS = Terms._fields[:3]
BETWEEN = "\N{NO-BREAK SPACE}/ "  # the figures of a cell: no line starts with the slash


def leave_one_out(others: int, dataset_size: int) -> tuple[float, float]:
    """Take the rest of the batch for the data set, without the own component."""
    return 0.0, 1 / others


ESTIMATORS = {
    "MWS": "mws",
    "inclusive": "inclusive",
    "leave-one-out": leave_one_out,
    "MSS": "mss",
    "MSS, jackknife": "mss-jackknife",
}
BANK = f"MSS, bank of {CAPACITY}"
STALE, ALL_STALE = "the same, live latents stale", "the same, all latents stale"


class Cell(NamedTuple):
    """Mean errors of the three terms at one batch size, with standard errors, and the brackets."""

    errors: dict[str, tuple[Tensor, Tensor]]
    bracket: list[Interval]


class Result(NamedTuple):
    """The exact terms of a data set, their standard errors, and a cell for each batch size."""

    truth: Tensor
    truth_error: Tensor
    cells: dict[int, Cell]


def data_set(live: int, variance: float, noise: float) -> Posterior:
    """Return N posteriors: ``live`` informative dimensions, the rest almost the prior."""
    generator = Generator().manual_seed(0)

    def normal(columns: int) -> Tensor:
        return torch.randn(N, columns, generator=generator, dtype=torch.float64)

    mu, logvar = torch.zeros(2, N, D, dtype=torch.float64)
    mu[:, :live] = normal(live) * math.sqrt(variance)
    logvar[:, :live] = math.log(noise) + 0.1 * normal(live)
    mu[:, live:] = 0.02 * normal(D - live)
    logvar[:, live:] = 0.02 * normal(D - live)
    return Posterior(mu, mu, logvar)


def of_items(data: Posterior, items: Tensor) -> Posterior:
    """Return the posteriors of some items, in the precision of a training run."""
    mu, logvar = data.mu[items].float(), data.logvar[items].float()
    return Posterior(mu, mu, logvar)


def moved(posterior: Posterior, dims: int, generator: Generator) -> Posterior:
    """Move the means of the first dimensions by 0.3 to 1 standard deviations, either way."""
    shape = len(posterior.mu), dims
    way = torch.randint(2, shape, generator=generator) * 2 - 1
    share = torch.empty(shape).uniform_(0.3, 1, generator=generator)
    mu = posterior.mu.clone()
    mu[:, :dims] += way * share * (0.5 * posterior.logvar[:, :dims]).exp()
    return Posterior(mu, mu, posterior.logvar)


def estimates(
    data: Posterior, live: int, size: int, bracket: Bracket, generator: Generator
) -> dict[str, Tensor]:
    """Return each estimator's three terms from one batch; the banks hold other items."""
    order = torch.randperm(N, generator=generator)
    items, earlier = order[:size], order[size : size + CAPACITY]
    drawn, fresh = of_items(data, items).sample(generator=generator), of_items(data, earlier)
    batch = drawn.z, drawn.mu, drawn.logvar, N
    bracket.update(*batch)
    terms = {name: decompose(*batch, estimator=how) for name, how in ESTIMATORS.items()}
    for name, stale in ((BANK, 0), (STALE, live), (ALL_STALE, D)):
        bank = PosteriorBank(CAPACITY)
        bank.push(moved(fresh, stale, generator), earlier)
        terms[name] = decompose(*batch, items=items, bank=bank)
    return {name: torch.stack(estimate[:3]).double() for name, estimate in terms.items()}


def measure(config: str, sizes: tuple[int, ...], rows: int, samples: int) -> Result:
    """Return what is found on a data set, from about ``rows`` rows for each batch size."""
    data, generator = data_set(*CONFIGS[config]), Generator().manual_seed(1)
    live = CONFIGS[config][0]
    exact = decompose_dataset(data.mu, data.logvar, num_samples=samples, generator=generator)
    truth, truth_error = (torch.stack(terms[:3]) for terms in exact[:2])
    cells = {}
    for size in sizes:
        bracket = Bracket()
        batches = [estimates(data, live, size, bracket, generator) for _ in range(rows // size)]
        errors = {}
        for name in batches[0]:
            values = torch.stack([batch[name] for batch in batches]) - truth
            error = values.std(0) / math.sqrt(len(values))
            errors[name] = values.mean(0), (error**2 + truth_error**2).sqrt()
        cells[size] = Cell(errors, [bracket.interval(term) for term in TERMS])
    return Result(truth, truth_error, cells)


def shown(value: float, error: float, sign: str = "+") -> str:
    """Return the value with its standard error in units of its last digit: +1.37(2)."""
    digits = 3 if error == 0 else min(max(-math.floor(math.log10(error)), 0), 3)
    rounded = round(value, digits) + 0.0  # no -0.000
    return f"{rounded:{sign}.{digits}f}({math.ceil(error * 10**digits)})"


def table(result: Result) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| estimator | MI | TC | DWKL |"
    yield "|---|---|---|---|"
    exact = zip(result.truth.tolist(), result.truth_error.tolist(), strict=True)
    yield row("*truth*", [shown(value, error, "") for value, error in exact])
    cells = result.cells.values()
    for name in (*ESTIMATORS, BANK, STALE, ALL_STALE):
        columns = zip(*(pairs(*cell.errors[name]) for cell in cells), strict=True)
        yield row(name, [BETWEEN.join(column) for column in columns])
    columns = zip(*(ends(cell.bracket, result.truth) for cell in cells), strict=True)
    yield row("*bracket*", [BETWEEN.join(column) for column in columns])


def pairs(values: Tensor, errors: Tensor) -> list[str]:
    """Return each value with its standard error."""
    return [shown(*pair) for pair in zip(values.tolist(), errors.tolist(), strict=True)]


def ends(intervals: list[Interval], truth: Tensor) -> list[str]:
    """Return the ends of each interval, less the truth."""
    both = [(i.low - t, i.high - t) for i, t in zip(intervals, truth.tolist(), strict=True)]
    return [f"[{low:+.2f},\N{NO-BREAK SPACE}{high:+.2f}]" for low, high in both]


def row(label: str, cells: list[str]) -> str:
    """Return a line of a Markdown table."""
    return f"| {label} | {' | '.join(cells)} |"


def verdict(results: dict[str, Result]) -> str:
    """Say in how many cells the bracket holds the truth, and name those in which it does not."""
    held = {
        f"{config}, M = {size}, {term}": interval.low <= truth <= interval.high
        for config, result in results.items()
        for size, cell in result.cells.items()
        for term, interval, truth in zip(TERMS, cell.bracket, result.truth.tolist(), strict=True)
    }
    missed = "".join(f"; not at {place}" for place, inside in held.items() if not inside)
    return f"The bracket holds the truth in {sum(held.values())} of {len(held)} cells{missed}."


def main() -> None:
    """Print the tables, and write them and the picture where that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=64_000, help="rows for each batch size")
    parser.add_argument("--samples", type=int, default=40_000, help="samples of the exact terms")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for bias.md")
    options = parser.parse_args()
    # Bracket says so of all batch sizes on B; the table does, too.
    warnings.filterwarnings("ignore", "a batch of .* too small", UserWarning)
    results, lines = {}, []
    show = partial(print, sep="\n", end="\n\n", flush=True)
    for config, title in TITLES.items():
        results[config] = measure(config, BATCH_SIZES, options.rows, options.samples)
        lines += [f"**{title}**", "", *table(results[config]), ""]
        show(f"**{title}**", "", *table(results[config]))
    lines.append(verdict(results))
    show(lines[-1])
    if options.output:
        options.output.mkdir(exist_ok=True)
        (options.output / "bias.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
