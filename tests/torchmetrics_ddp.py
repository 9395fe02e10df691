"""Two processes with the metrics of torchmetrics: ``python torchmetrics_ddp.py RANK FOLDER``.

Each takes its own batches and writes what the metrics computed.
"""

import json
import sys
from pathlib import Path

import torch

from tcdecomp_adapters.torchmetrics import MIG, KLTerms

N = 200
SIZES = [24, 16, 17]  # of the batches: the first two are one process's, the last another's


def batches(dtype=torch.float32):
    """Return (z, mu, logvar) of each batch."""
    generator = torch.Generator().manual_seed(0)
    draw = {"generator": generator, "dtype": torch.float64}
    mu = torch.randn(sum(SIZES), 3, **draw)
    logvar = torch.randn(sum(SIZES), 3, **draw) - 1
    z = mu + (0.5 * logvar).exp() * torch.randn(sum(SIZES), 3, **draw)
    return list(zip(*(tensor.to(dtype).split(SIZES) for tensor in (z, mu, logvar)), strict=True))


def codes_and_factors():
    generator = torch.Generator().manual_seed(1)
    factors = torch.stack(
        [torch.randint(4, (sum(SIZES),), generator=generator) for _ in range(2)], 1
    )
    codes = factors.float() @ torch.tensor([[1.0, 0.2], [0.1, 1.0]])
    codes = codes + 0.2 * torch.randn(codes.shape, generator=generator)
    return list(zip(codes.split(SIZES), factors.split(SIZES), strict=True))


def updated(metric, inputs):
    for batch in inputs:
        metric.update(*batch)
    return metric


def main(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    mine = slice(0, 2) if rank == 0 else slice(2, 3)
    terms, gap = KLTerms(N), MIG(n_bins=5)
    updated(terms, batches()[mine]), updated(gap, codes_and_factors()[mine])
    result = {"uneven": values_of(terms, gap)}
    result["again"] = values_of(terms, gap)
    terms.reset(), gap.reset()
    if rank == 0:
        updated(terms, batches()[mine]), updated(gap, codes_and_factors()[mine])
    result["one without"] = values_of(terms, gap)
    gap.reset()
    try:
        gap.compute()
    except ValueError as error:
        result["both without"] = str(error)
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def values_of(terms, gap):
    values = {name: value.item() for name, value in terms.compute().items()}
    terms._computed = gap._computed = None  # what is cached would not be gathered again
    return {**values, "mig": gap.compute().item()}


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
