"""Time and memory of one loss evaluation, side by side with what else there is.

    python tests/benchmarks/speed.py [--cases 64x10,1024x64-sharp] [--device cuda] [--output FILE]

A case is a shape and a kind of posteriors. It runs in a subprocess of its own under a memory limit,
so "does not fit" is a result. There all losses take turns, and each time is the best of several: on
one thread its CPU time, which other programs do not change much.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from losses import LOSSES

LIMIT = 16 * 2**30  # bytes that a case may allocate
PATIENCE = 10.0  # seconds for one call
BUDGET = 0.25  # seconds for the calls of one turn
TURNS = 3
SLOW = 1.0  # seconds for one call, from which one turn is enough
PASSES = ("forward", "both")
OURS = "tcdecomp"
Results = dict[str, dict[str, float] | str]


class Case(NamedTuple):
    """The shape of a batch, and how its posteriors are spread."""

    size: int
    dim: int
    kind: str = "benign"

    def __str__(self) -> str:
        return f"{self.size}x{self.dim}" + ("" if self.kind == "benign" else f"-{self.kind}")

    @classmethod
    def read(cls, text: str) -> "Case":
        """Return the case that "1024x10" or "1024x10-sharp" names."""
        shape, _, kind = text.partition("-")
        size, dim = map(int, shape.split("x"))
        return cls(size, dim, kind or "benign")


DEFAULT = [
    *(Case(size, 10) for size in (16, 64, 256, 1024, 4096, 16384)),
    *(Case(size, 64) for size in (256, 1024, 4096)),
    *(Case(1024, dim, kind) for kind in ("sharp", "mixed") for dim in (10, 64)),
]


def batch(size: int, dim: int, device: str, kind: str = "benign") -> list[Tensor]:
    """Return z, mu and logvar, float32."""
    generator = torch.Generator().manual_seed(0)
    mu, noise = torch.randn(2, size, dim, generator=generator)
    spread, centre = {"benign": (0.5, -2.0), "sharp": (0.1, -4.6), "mixed": (3.0, -4.0)}[kind]
    logvar = spread * torch.randn(size, dim, generator=generator) + centre
    z = mu + (0.5 * logvar).exp() * noise
    return [t.to(device).requires_grad_() for t in (z, mu, logvar)]


def seconds(function: Callable[[], object], device: str) -> float:
    """Return the time of the fastest call of one turn."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    if device == "cuda":
        clock = time.perf_counter
    best, end = math.inf, clock() + BUDGET
    while best == math.inf or clock() < end:
        start = clock()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    return best


def peak_memory(device: str) -> int:
    """Return the most memory in use since the last reset, in bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def reset_peak_memory(device: str) -> None:
    """Start a new peak at what is in use now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def run_case(case: Case, names: list[str], device: str) -> Results:
    """Return the seconds of both passes and the peak extra memory of each loss."""
    if device == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    inputs = batch(*case[:2], device, case.kind)
    results: Results = {}
    passes: dict[str, dict[str, Callable[[], object]]] = {}
    for name in names:
        try:
            forward, both = passes_of(name, case.dim, inputs)
            both()  # compiles what there is to compile
            reset_peak_memory(device)
            before = peak_memory(device)
            both()
            results[name] = {"memory": peak_memory(device) - before}
            passes[name] = {"forward": forward, "both": both}
        except ImportError:
            results[name] = "not installed"
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "memory" not in str(error):
                raise
            results[name] = "does not fit"
    for _ in range(TURNS):
        for name, functions in passes.items():
            for key, function in functions.items():
                found: Any = results[name]
                if found.get(key, 0) < SLOW:
                    found[key] = min(seconds(function, device), found.get(key, math.inf))
    return results


def passes_of(
    name: str, dim: int, inputs: list[Tensor]
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return what evaluates a loss, without and with its gradient."""
    loss = LOSSES[name](dim)

    def forward() -> None:
        with torch.no_grad():
            loss(*inputs)

    return forward, lambda: torch.autograd.grad(loss(*inputs), inputs)


def measured(case: Case, names: list[str], options: argparse.Namespace) -> Results:
    """Return a case's results from a subprocess."""
    command = [sys.executable, __file__, "--run", str(case), ",".join(names)]
    command += ["--device", options.device, "--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{case}: {done.stderr or 'killed'}")
    results: Results = json.loads(done.stdout.splitlines()[-1])
    return results


def all_results(options: argparse.Namespace) -> Iterator[tuple[Case, Results]]:
    """Yield the results of all cases. What would take too long by the smaller cases is left out."""
    rates: dict[str, float] = {}
    for case in options.cases:
        pairs = case.size**2 * case.dim
        slow = {n for n in LOSSES if n != OURS and rates.get(n, 0) * pairs > PATIENCE}
        results = measured(case, [name for name in LOSSES if name not in slow], options)
        for name in LOSSES:
            found = results.setdefault(name, "takes too long")
            if not isinstance(found, str):
                rates[name] = found["both"] / pairs
        yield case, results


def rows(case: Case, results: Results) -> Iterator[str]:
    """Yield two lines: our time, and that of others relative to ours, with the peak memory."""
    ours: Any = results[OURS]
    for key in PASSES:
        cells = [f"{case.size}\u00a0x\u00a0{case.dim}", case.kind]  # not broken over lines
        cells.append("forward + backward" if key == "both" else key)
        cells.append(f"**{duration(ours[key])}**" + memory(ours, key))
        for name in LOSSES:
            found: Any = results[name]
            if isinstance(found, str):
                cells.append(found)
            elif name != OURS:
                cells.append(f"{found[key] / ours[key]:.1f}x" + memory(found, key))
        yield "| " + " | ".join(cells) + " |"


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


def memory(result: dict[str, float], key: str) -> str:
    """Return the peak extra memory of forward and backward together."""
    mebibytes = max(result["memory"], 0) / 2**20
    return f", {mebibytes:.0f} MiB" if key == "both" else ""


def machine(options: argparse.Namespace) -> str:
    """Return what the figures were measured on."""
    if options.device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    model = Path("/proc/cpuinfo").read_text().split("model name")[1].split(":")[1]
    threads = "one thread" if options.threads == 1 else f"{options.threads} threads"
    return f"{model.splitlines()[0].strip()}, {threads}, torch {torch.__version__}"


def main() -> None:
    """Print the table, and write it where it was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--cases",
        type=lambda text: [Case.read(part) for part in text.split(",")],
        default=DEFAULT,
        metavar="MxD[-KIND],...",
        help="these only; a KIND is benign, sharp or mixed",
    )
    parser.add_argument("--output", type=Path, help="a Markdown file for the table")
    parser.add_argument("--run", nargs=2, metavar=("CASE", "LOSSES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.run:
        case, names = options.run
        print(json.dumps(run_case(Case.read(case), names.split(","), options.device)))
        return
    others = [name for name in LOSSES if name != OURS]
    lines = [f"Measured on {machine(options)}.", ""]
    lines.append("| M x D | posteriors | pass | tcdecomp | " + " | ".join(others) + " |")
    lines.append("|---" * (len(others) + 4) + "|")
    print(*lines, sep="\n")
    for case, results in all_results(options):
        lines += rows(case, results)
        print(*lines[-2:], sep="\n", flush=True)
    if options.output:
        options.output.parent.mkdir(exist_ok=True)
        options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
