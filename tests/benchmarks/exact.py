"""Time and memory of the exact evaluation over a data set of dSprites' size.

    python tests/benchmarks/exact.py [--samples 10000] [--device cuda]

N = 737,280 items, D = 10 dimensions of which 6 are live, float32. Beside the whole it times its
parts: log q(z) at the samples, whose floor is N * samples exponentials, and the marginals.
The MIG of posterior densities is timed, too, with the factors of dSprites.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from speed import machine, peak_memory, reset_peak_memory
from tcdecomp import decompose_dataset, density_mig_score
from tcdecomp._processes import Division
from tcdecomp.dataset.marginals import Marginals
from tcdecomp.kernels import Components, log_joint

N, D, LIVE = 737_280, 10, 6
VALUES = (3, 6, 40, 32, 32)  # of each factor


def data_set(device: str) -> tuple[Tensor, Tensor]:
    """Return mu and logvar, (N, D)."""
    generator = torch.Generator().manual_seed(0)
    mu, logvar = 0.02 * torch.randn(2, N, D, generator=generator)
    mu[:, :LIVE] *= 50
    logvar[:, :LIVE] = 5 * logvar[:, :LIVE] - 4.6
    return mu.to(device), logvar.to(device)


def timed(label: str, function: Callable[[], object], device: str) -> None:
    """Print the time of the second of two calls; the first compiles what there is to compile."""
    for _ in range(2 if device == "cuda" else 1):
        start, busy = time.perf_counter(), time.process_time()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
    print(f"{label:45} {seconds:9.3f} s, {busy:9.3f} s of processors", flush=True)


def main() -> None:
    """Print the times, and the peak of the memory."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, samples = options.device, options.samples
    mu, logvar = data_set(device)
    z = mu[:samples] + (0.5 * logvar[:samples]).exp() * torch.randn_like(mu[:samples])
    exponentials, out = torch.randn(2**16, device=device), torch.empty(2**16, device=device)
    print(f"{machine(options)}: N = {N:,}, D = {D}, {samples:,} samples")
    reset_peak_memory(device)
    before = peak_memory(device)
    timed("2^16 exponentials, 10,000 times", lambda: exp_often(exponentials, out), device)
    timed("log q(z) at the samples", lambda: at_samples(z, mu, logvar), device)
    timed("entropies of the marginals", lambda: Marginals(mu, logvar, Division()), device)
    factors = torch.cartesian_prod(*map(torch.arange, VALUES))
    timed("density_mig_score", lambda: density_mig_score(mu, logvar, factors), device)
    timed(
        "decompose_dataset",
        lambda: print(decompose_dataset(mu, logvar, num_samples=samples)),
        device,
    )
    print(f"peak memory beyond the data: {(peak_memory(device) - before) / 2**20:.0f} MiB")


def exp_often(x: Tensor, out: Tensor) -> None:
    """Take 6.6e8 exponentials that stay in cache."""
    for _ in range(10_000):
        torch.exp(x, out=out)


def at_samples(z: Tensor, mu: Tensor, logvar: Tensor) -> None:
    """Evaluate the log-densities as decompose_dataset does."""
    for chunk in z.split(1024):
        log_joint(chunk, Components(mu, logvar))


if __name__ == "__main__":
    main()
