"""Time and memory of one loss evaluation, side by side with what else there is.

    python tests/benchmarks/speed.py [--shapes 64x10,1024x64] [--device cuda] [--output FILE]

Each case is a subprocess of its own under a memory limit: "does not fit" is a result. A case times
the floor too, 2 M^2 D in-cache exponentials on the same threads (on a GPU, of that many elements),
and every time is taken relative to it, so that a machine's moods cancel in the ratios.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from losses import LOSSES

SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
DIMS = (10, 64, 32)
LIMIT = 16 * 2**30  # bytes that a case may allocate
PATIENCE = 120  # seconds for a case
PASSES = ("forward", "both")


def batch(size: int, dim: int, device: str) -> list[Tensor]:
    """Return z, mu and logvar, float32."""
    generator = torch.Generator().manual_seed(0)
    mu, noise = torch.randn(2, size, dim, generator=generator)
    logvar = 0.5 * torch.randn(size, dim, generator=generator) - 2
    z = mu + (0.5 * logvar).exp() * noise
    return [t.to(device).requires_grad_() for t in (z, mu, logvar)]


def timed(function: Callable[[], object], device: str, budget: float) -> float:
    """Return the median time of a call, in seconds; at least three calls."""
    times: list[float] = []
    while len(times) < 3 or (sum(times) < budget and len(times) < 200):
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def floor(size: int, dim: int, device: str) -> float:
    """Return the time of 2 M^2 D exponentials."""
    count = 2 * size**2 * dim
    elements = 2**16 if device == "cpu" else min(count, 2**26)
    x, out = torch.randn(elements, device=device), torch.empty(elements, device=device)
    return timed(lambda: torch.exp(x, out=out), device, 0.1) * count / elements


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


def run_case(name: str, size: int, dim: int, device: str) -> dict[str, float]:
    """Return times over the floor, seconds and peak extra memory of one case."""
    loss, inputs = LOSSES[name](dim), batch(size, dim, device)

    def forward() -> None:
        with torch.no_grad():
            loss(*inputs)

    def both() -> None:
        torch.autograd.grad(loss(*inputs), inputs)

    both()  # compiles what there is to compile
    reset_peak_memory(device)
    before = peak_memory(device)
    both()
    result: dict[str, float] = {"memory": peak_memory(device) - before}
    for key, function in zip(PASSES, (forward, both), strict=True):
        function()
        around = [floor(size, dim, device)]
        seconds = timed(function, device, 0.5)
        around.append(floor(size, dim, device))
        result[key] = seconds
        result[f"{key}/floor"] = seconds / statistics.mean(around)
    return result


def limited_case(name: str, size: int, dim: int, device: str) -> None:
    """Run one case in this process, under the limit, and print its result as JSON."""
    if device == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    try:
        print(json.dumps(run_case(name, size, dim, device)))
    except ImportError:
        print(json.dumps("not installed"))
    except (MemoryError, RuntimeError) as error:
        fits = not any(word in str(error) for word in ("allocate", "memory"))
        if fits and not isinstance(error, MemoryError):
            raise
        print(json.dumps("does not fit"))


def case(name: str, size: int, dim: int, options: argparse.Namespace) -> dict[str, float] | str:
    """Return a case's result from a subprocess, or why there is none."""
    command = [sys.executable, __file__, "--case", name, str(size), str(dim)]
    command += ["--device", options.device, "--threads", str(options.threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return "took too long"
    if done.returncode < 0:
        return "does not fit"  # killed for its memory
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return "failed"
    result: dict[str, float] | str = json.loads(done.stdout.splitlines()[-1])
    return result


def table(options: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of a Markdown table, as they are measured."""
    names = list(LOSSES)
    yield "| M x D | pass | exp floor | " + " | ".join(names) + " | tcdecomp over floor |"
    yield "|---" * (len(names) + 4) + "|"
    for size, dim in options.shapes:
        results = {name: case(name, size, dim, options) for name in names}
        for key in PASSES:
            yield row(f"{size} x {dim}", key, results)


def row(label: str, key: str, results: dict[str, dict[str, float] | str]) -> str:
    """Return a line: times relative to ours, with the peak extra memory of both passes."""
    ours = results["tcdecomp"]
    if isinstance(ours, str):
        raise SystemExit(f"tcdecomp at {label}: {ours}")
    over = {
        name: r if isinstance(r, str) else r[f"{key}/floor"] / ours[f"{key}/floor"]
        for name, r in results.items()
    }
    cells = [label, "forward + backward" if key == "both" else key]
    cells.append(duration(ours[key] / ours[f"{key}/floor"]))
    for name, ratio in over.items():
        if isinstance(ratio, str):
            cells.append(ratio)
        elif name == "tcdecomp":
            cells.append(f"**{duration(ours[key])}**" + memory(ours, key))
        else:
            cells.append(f"{ratio:.1f}x" + memory(results[name], key))
    cells.append(f"{ours[f'{key}/floor']:.2f}")
    return "| " + " | ".join(cells) + " |"


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


def memory(result: dict[str, float] | str, key: str) -> str:
    """Return the peak extra memory of forward and backward together."""
    if key != "both" or isinstance(result, str):
        return ""
    return f", {result['memory'] / 2**20:.0f} MiB"


def shapes(text: str) -> list[tuple[int, int]]:
    """Return the pairs that "64x10,1024x64" names."""
    pairs = (part.split("x") for part in text.split(","))
    return [(int(size), int(dim)) for size, dim in pairs]


def machine(options: argparse.Namespace) -> str:
    """Return what the figures were measured on."""
    if options.device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    model = Path("/proc/cpuinfo").read_text().split("model name")[1].split(":")[1]
    return (
        f"{model.splitlines()[0].strip()}, {options.threads} thread(s), torch {torch.__version__}"
    )


def main() -> None:
    """Print the table, and write it where it was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--shapes",
        type=shapes,
        default=[(m, d) for d in DIMS for m in SIZES],
        metavar="MxD,...",
        help="these sizes only",
    )
    parser.add_argument("--output", type=Path, help="a Markdown file for the table")
    parser.add_argument("--case", nargs=3, metavar=("LOSS", "M", "D"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.case:
        name, size, dim = options.case
        limited_case(name, int(size), int(dim), options.device)
        return
    lines = [f"Measured on {machine(options)}.", ""]
    print(*lines, sep="\n")
    for line in table(options):
        print(line, flush=True)
        lines.append(line)
        if options.output:
            options.output.parent.mkdir(exist_ok=True)
            options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
