"""Put faults into the source, one by one, and show that the named tests catch each of them.

Run by hand, from the root of a checkout, in the environment of the tests::

    python tests/mutations.py            # all of them
    python tests/mutations.py bank MIG   # those whose names contain one of the words

Each fault is put into a copy of the checkout. The exit status is 1 if a fault survives, and 2 if
the named tests fail without a fault, or the code that a fault replaces is no longer there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutation(NamedTuple):
    """A fault: ``old``, which stands once in the file, becomes ``new``."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = (
    # The estimators and their weights
    Mutation(
        "weight of the others: leave-one-out",
        "tcdecomp/minibatch/estimators.py",
        "(dataset_size - 1) / (dataset_size * max(others, 1))",
        "1 / max(others, 1)",
        "tests/test_decomposition.py",
    ),
    Mutation(
        "own component dropped",
        "tcdecomp/kernels/dense.py",
        "torch.where(items[:, None] == ids, log_own[:, None], log_other[:, None])",
        "torch.where(items[:, None] == ids, -inf, log_other[:, None])",
        "tests/test_decomposition.py",
    ),
    Mutation(
        "factor of the jackknife without the finite population",
        "tcdecomp/minibatch/jackknife.py",
        "factor = others * (population - others + 1) / population",
        "factor = others",
        "tests/minibatch/test_jackknife.py",
    ),
    Mutation(
        "mu and logvar swapped in the components",
        "tcdecomp/minibatch/mixture.py",
        "mu, logvar = rows.mu, rows.logvar",
        "logvar, mu = rows.mu, rows.logvar",
        "tests/test_decomposition.py",
    ),
    Mutation(
        "components cut from the graph",
        "tcdecomp/minibatch/mixture.py",
        "mu, logvar = rows.mu, rows.logvar",
        "mu, logvar = rows.mu.detach(), rows.logvar.detach()",
        "tests/test_decomposition.py",
    ),
    Mutation(
        "log-weight of the others added once for all dimensions",
        "tcdecomp/kernels/blocked.py",
        "(joint + dim * marginal) * log_other",
        "(joint + marginal) * log_other",
        "tests/test_loss.py",
    ),
    # The rare cases: banks, processes, conditions, sites
    Mutation(
        "damping of the bank left out",
        "tcdecomp/minibatch/mixture.py",
        "damped=_damped(rows, attached / (attached + len(held.mu)))",
        "damped=_damped(rows, 1.0)",
        "tests/minibatch/test_bank.py",
    ),
    Mutation(
        "bank holds items of the batch",
        "tcdecomp/minibatch/bank.py",
        "kept = ~torch.isin(self._entries.items.to(items.device), items)",
        "kept = torch.ones_like(self._entries.items, dtype=torch.bool)",
        "tests/minibatch/test_bank.py",
    ),
    Mutation(
        "rows of other processes not gathered",
        "tcdecomp/minibatch/batch.py",
        "others = Posterior(mu, mu, logvar) if len(mu) else None",
        "others = None",
        "tests/test_distributed.py",
    ),
    Mutation(
        "rows of other processes without their gradient",
        "tcdecomp/minibatch/batch.py",
        "mu, logvar = self._world.others(rows).chunk(2, dim=1)",
        "mu, logvar = self._world.others(rows).detach().chunk(2, dim=1)",
        "tests/test_distributed.py",
    ),
    Mutation(
        "share of a process forgotten",
        "tcdecomp/minibatch/batch.py",
        "total if self._world is None else self._world.share * total",
        "total",
        "tests/test_distributed.py",
    ),
    Mutation(
        "labels weighted equally, not by their rows",
        "tcdecomp/minibatch/batch.py",
        "len(rows) / z.shape[-2])",
        "1 / len(self._parts))",
        "tests/minibatch/test_conditional.py",
    ),
    Mutation(
        "own weight not shared by the sites of an image",
        "tcdecomp/minibatch/mixture.py",
        "return log_own - rows.log(), log_other +",
        "return log_own, log_other +",
        "tests/minibatch/test_sites.py",
    ),
    # The loss and its options
    Mutation(
        "sign of the excess",
        "tcdecomp/loss.py",
        "terms.weigh(alpha - 1, beta - 1, gamma - 1)",
        "terms.weigh(1 - alpha, 1 - beta, 1 - gamma)",
        "tests/test_loss.py",
    ),
    Mutation(
        "mean for the sum over the batch",
        "tcdecomp/minibatch/options.py",
        '"sum": torch.sum,',
        '"sum": torch.mean,',
        "tests/test_decomposition.py",
    ),
    Mutation(
        "no reduction reduces",
        "tcdecomp/minibatch/options.py",
        '"none": lambda per_item: per_item,',
        '"none": torch.mean,',
        "tests/test_decomposition.py",
    ),
    Mutation(
        "prior ignored",
        "tcdecomp/minibatch/batch.py",
        "self.prior = factors_of(options.prior, self.posterior)",
        "self.prior = None",
        "tests/test_loss.py",
    ),
    Mutation(
        "sign of the log-variance in the closed-form KL",
        "tcdecomp/priors.py",
        "torch.expm1(logvar) - logvar)",
        "torch.expm1(logvar) + logvar)",
        "tests/test_loss.py",
    ),
    Mutation(
        "detached terms keep their graph",
        "tcdecomp/terms.py",
        "return self.map(Tensor.detach)",
        "return self",
        "tests/test_decomposition.py",
    ),
    Mutation(
        "variance for the standard deviation of a sample",
        "tcdecomp/posterior.py",
        "(0.5 * working.logvar).exp() * noise",
        "working.logvar.exp() * noise",
        "tests/test_posterior.py",
    ),
    # Numerics
    Mutation(
        "half precision not raised",
        "tcdecomp/posterior.py",
        "reduce(torch.promote_types, dtypes, torch.float32)",
        "reduce(torch.promote_types, dtypes)",
        "tests/test_decomposition.py",
    ),
    Mutation(
        "autocast left on",
        "tcdecomp/_autocast.py",
        "return torch.autocast(kind, enabled=False)",
        "return _NOTHING",
        "tests/minibatch/test_families.py::test_autocast_is_off_where_it_would_lower_something",
    ),
    Mutation(
        "NaN swallowed by the blocked kernel",
        "tcdecomp/kernels/blocked.py",
        "residuals = (z[:, rows] - mu).mul_(inv_std)",
        "residuals = (z[:, rows] - mu).mul_(inv_std).nan_to_num_()",
        "tests/kernels/test_kernels.py",
    ),
    Mutation(
        "own component of another block's points",
        "tcdecomp/kernels/blocked.py",
        "logs.diagonal(start, 1, 2).add_(log_own)",
        "logs.diagonal(0, 1, 2).add_(log_own)",
        "tests/kernels/test_kernels.py",
    ),
    Mutation(
        "own component counted twice on the grids",
        "tcdecomp/kernels/compiled/marginals.py",
        "factor = (math.exp(log_ratio) - 1) / SQRT_2PI",
        "factor = math.exp(log_ratio) / SQRT_2PI",
        "tests/kernels/test_kernels.py",
    ),
    Mutation(
        "gradients of mu and logvar swapped",
        "tcdecomp/kernels/operators.py",
        "for t in (of_z, of_mu, of_logvar)]",
        "for t in (of_z, of_logvar, of_mu)]",
        "tests/kernels/test_kernels.py",
    ),
    # The discriminator
    Mutation(
        "density ratio: the estimate trains the discriminator",
        "tcdecomp/density_ratio.py",
        "{name: value.detach() for name, value in self.discriminator.named_parameters()}",
        "dict(self.discriminator.named_parameters())",
        "tests/test_density_ratio.py",
    ),
    Mutation(
        "density ratio: one permutation for all dimensions",
        "tcdecomp/density_ratio.py",
        "torch.rand(z.shape, generator=generator, device=z.device).argsort(dim=0)",
        "torch.rand(len(z), 1, generator=generator, device=z.device).argsort(dim=0).expand_as(z)",
        "tests/test_density_ratio.py",
    ),
    Mutation(
        "density ratio: labels swapped",
        "tcdecomp/density_ratio.py",
        "F.softplus(-joint).mean() + F.softplus(product).mean()",
        "F.softplus(joint).mean() + F.softplus(-product).mean()",
        "tests/test_density_ratio.py",
    ),
    # The data set
    Mutation(
        "log N forgotten",
        "tcdecomp/dataset/sampling.py",
        "joint = joint - log_size",
        "joint = joint * 1",
        "tests/dataset/test_dataset.py",
    ),
    Mutation(
        "grid as coarse as the lattice",
        "tcdecomp/dataset/lattices.py",
        "finest = bands[0][1] / FINER",
        "finest = bands[0][1]",
        "tests/dataset/test_dataset.py",
    ),
    Mutation(
        "weights of a lattice as wide as the component",
        "tcdecomp/dataset/lattices.py",
        "variance = (logvar - 2 * log_step).exp() - FALL",
        "variance = (logvar - 2 * log_step).exp()",
        "tests/dataset",
    ),
    Mutation(
        "samples far out read from the table",
        "tcdecomp/dataset/marginals.py",
        "if (far := away.any(1)).any():",
        "if (far := away.all(1) & ~away.all(1)).any():",
        "tests/dataset/test_dataset.py",
    ),
    Mutation(
        "sign of the regression",
        "tcdecomp/dataset/densities.py",
        "return values.mean() - self._centre @ slopes, error",
        "return values.mean() + self._centre @ slopes, error",
        "tests/dataset",
    ),
    # Metrics
    Mutation(
        "runner-up of MIG: the last latent",
        "tcdecomp/metrics/mig.py",
        'np.argsort(-ranked, axis=0, kind="stable")[:2]',
        'np.argsort(-ranked, axis=0, kind="stable")[[0, -1]]',
        "tests/metrics/test_mig.py",
    ),
    Mutation(
        "one bin too many",
        "tcdecomp/metrics/bins.py",
        "sizes = np.broadcast_to(n_bins, count).tolist()",
        "sizes = np.broadcast_to(n_bins + 1, count).tolist()",
        "tests/metrics/test_mig.py",
    ),
    Mutation(
        "values on an edge in the bin below",
        "tcdecomp/metrics/bins.py",
        'return np.searchsorted(self.edges, column, side="right")',
        'return np.searchsorted(self.edges, column, side="left")',
        "tests/metrics/test_mig.py",
    ),
    Mutation(
        "weights of rows not counted",
        "tcdecomp/metrics/tables.py",
        "table += np.bincount(cells.ravel(), repeated, table.size)",
        "table += np.bincount(cells.ravel(), None, table.size)",
        "tests/metrics/test_mig.py",
    ),
)


def main(words: list[str]) -> int:
    """Print a table of what became of each fault, and return the exit status."""
    chosen = [m for m in MUTATIONS if not words or any(word in m.name for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "checkout")
        ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "_build")
        shutil.copytree(ROOT, copy, ignore=ignored)
        if failed := first_failure(copy, *dict.fromkeys(m.tests for m in chosen)):
            print(f"{failed} fails without a fault")
            return 2
        verdicts = [verdict(copy, mutation) for mutation in chosen]
    print(f"{verdicts.count('caught')} of {len(chosen)} caught")
    return 2 if "stale" in verdicts else int("survived" in verdicts)


def verdict(copy: Path, mutation: Mutation) -> str:
    """Tell, and print, what the tests make of a fault."""
    path, began, failed, result = copy / mutation.file, time.monotonic(), "", "stale"
    source = path.read_text()
    if source.count(mutation.old) == 1:
        path.write_text(source.replace(mutation.old, mutation.new))
        failed = first_failure(copy, mutation.tests)
        path.write_text(source)
        result = "caught" if failed else "survived"
    seconds = time.monotonic() - began
    print(f"{result:9}{seconds:4.0f} s  {mutation.name}: {failed or mutation.tests}", flush=True)
    return result


def first_failure(copy: Path, *tests: str) -> str:
    """Return the name of the first test that fails, or an empty string."""
    paths = os.pathsep.join(str(copy / folder) for folder in ("", "adapters"))
    options = ["-x", "-q", "-rfE", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=copy,
        env={
            **os.environ,
            "PYTHONPATH": paths,
            "PYTHONDONTWRITEBYTECODE": "1",
            # What numba compiled before the fault would be served with it, too.
            "NUMBA_CACHE_DIR": tempfile.mkdtemp(dir=copy),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::\S+)", done.stdout, re.MULTILINE)
    if failed is None:  # the tests could not be run
        print(done.stdout, done.stderr)
        done.check_returncode()
    return failed[1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
