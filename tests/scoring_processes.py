"""A data set scored by two processes: ``python scoring_processes.py FOLDER``.

Each process writes the reports that it got, and what it was told of calls that one of them, or
both, get wrong.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import distributed, multiprocessing
from torch.utils.data import BatchSampler, DataLoader, Subset, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from tcdecomp import score

SIZE, DIM, CUT, PROCESSES = 251, 4, 170, 2
# Fewer samples than items, so that the order of the items matters.
OPTIONS = {"num_samples": 150, "seed": 3}


def data():
    g = torch.Generator().manual_seed(0)
    factors = torch.stack([torch.arange(SIZE) % 4, torch.arange(SIZE) // 4 % 3], 1)
    x = 0.05 * torch.randn(SIZE, DIM, generator=g, dtype=torch.float64)
    x[:, :2] += factors
    return x, factors


X, FACTORS = data()
DATA = TensorDataset(X, FACTORS)
LABELS = pd.DataFrame({"shape": np.array(list("abcd"))[FACTORS[:, 0]], "size": FACTORS[:, 1]})


def model(x):
    return x, -3 - x.abs()


def dealt(rank, batch_size=32, **options):
    sampler = DistributedSampler(DATA, PROCESSES, rank, **{"shuffle": False, **options})
    return DataLoader(DATA, batch_size, sampler=sampler)


def in_batches(rank):
    sampler = DistributedSampler(DATA, PROCESSES, rank, shuffle=False)
    return DataLoader(DATA, batch_sampler=BatchSampler(sampler, 32, False))


def cut(rank):
    """Return which items a process has that are not dealt out by a sampler."""
    return slice(0, CUT) if rank == 0 else slice(CUT, SIZE)


# What a process passes, and what one process alone does.
REPORTS = {
    "dealt": lambda rank: (model, dealt(rank)),
    "dealt in batches": lambda rank: (model, in_batches(rank)),
    "an array": lambda rank: (model, dealt(rank), FACTORS[rank::PROCESSES]),
    "uneven": lambda rank: (model, DataLoader(Subset(DATA, range(SIZE)[cut(rank)]), 32)),
    "labels": lambda rank: (model(X[cut(rank)]), None, LABELS[cut(rank)]),
    "no factors": lambda rank: (model(X[cut(rank)]),),
    "codes": lambda rank: (X[cut(rank)], None, LABELS[cut(rank)]),
}
ALONE = {
    "labels": (model(X), None, LABELS),
    "no factors": (model(X),),
    "codes": (X, None, LABELS),
}


def alone(kind):
    return score(*ALONE.get(kind, (model, DataLoader(DATA, 32))), **OPTIONS).to_dict()


def not_a_number(x):
    return x * float("nan"), x


def fails(x):
    raise RuntimeError("out of memory")


# What a process passes if it is the one that is wrong, and otherwise.
WRONG = {
    "no batches": lambda wrong: (model, [] if wrong else [X]),
    "pair": lambda wrong: (model, (X, FACTORS) if wrong else [X]),
    "nan": lambda wrong: (not_a_number if wrong else model, [X]),
    "failure": lambda wrong: (fails if wrong else model, [X]),
    "length": lambda wrong: (model, [X], FACTORS[: 9 if wrong else SIZE]),
    "width": lambda wrong: (model, [X[:, : 3 if wrong else 4]]),
    "codes": lambda wrong: (X if wrong else model(X),),
    "columns": lambda wrong: (X, None, LABELS[["size"]] if wrong else LABELS),
    "names": lambda wrong: (pd.DataFrame(X, columns=list("efgh" if wrong else "abcd")),),
    "some factors": lambda wrong: (X, None, None if wrong else LABELS),
    "asked": lambda wrong: (model, [(X, FACTORS)], None if wrong else lambda batch: batch[1]),
    "same share": lambda _: (model, dealt(0)),
    "epochs": lambda wrong: (model, dealt(int(wrong), shuffle=True, seed=3 + wrong)),
    "shuffled": lambda _: (model, dealt(0, shuffle=True), FACTORS[::2]),
}
WEIGHT = np.ones(2 * SIZE)
OTHER = np.where(np.arange(2 * SIZE) == SIZE, 2.0, WEIGHT)
DIFFERENT = {
    "seed": ({"seed": 1}, {"seed": 2}),
    "active_threshold": ({"active_threshold": 0.1}, {"active_threshold": 0.2}),
    "num_samples": ({"num_samples": 100}, {"num_samples": 99}),
    "bins": ({"mig": {"n_bins": 9}}, {}),
    "weights": ({"mig": {"sample_weight": WEIGHT}}, {"mig": {"sample_weight": OTHER}}),
    "same": ({"num_samples": 100}, {"num_samples": np.int64(100)}),
}


def told(*arguments, **options):
    try:
        score(*arguments, process_group="world", **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main(rank, folder):
    store = distributed.FileStore(str(Path(folder, "store")), PROCESSES)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES)
    torch.set_num_threads(1)
    result = {
        kind: score(*make(rank), process_group="world", **OPTIONS).to_dict()
        for kind, make in REPORTS.items()
    }
    result["told"] = {kind: told(*make(rank == 1)) for kind, make in WRONG.items()}
    for name, options in DIFFERENT.items():
        result["told"][name] = told(X, **options[rank])
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    multiprocessing.spawn(main, (sys.argv[1],), PROCESSES)
