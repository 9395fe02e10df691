"""One batch cut among processes, against one process: ``python several_processes.py CUTS FOLDER``.

Each process writes what it found: of the differences, none may depend on how the batch was cut.
"""

import json
import sys
from pathlib import Path

import torch
from torch import distributed, multiprocessing, nn
from torch.distributions import Normal
from torch.nn.parallel import DistributedDataParallel

from tcdecomp import Posterior, TCDecomposition, decompose, decompose_dataset, mutual_info_gap
from tcdecomp.dataset import DensityTables, density_mutual_info_gap
from tcdecomp.dataset.groups import decompose_groups
from tcdecomp.minibatch.bank import PosteriorBank

SIZE, PIXELS, DIM, N = 12, 5, 3, 100
LOSSES = {
    "mss": {"beta": 6.0, "alpha": 0.5},
    "jackknife": {"beta": 6.0, "estimator": "mss-jackknife"},
    "inclusive": {"beta": 0.0, "gamma": 2.0, "estimator": "inclusive"},
}


def batch(step):
    g = torch.Generator().manual_seed(step)
    x, noise = (torch.randn(SIZE, d, generator=g, dtype=torch.float64) for d in (PIXELS, DIM))
    return x, noise, torch.arange(SIZE) + SIZE * step


def encoder():
    torch.manual_seed(0)
    return nn.Linear(PIXELS, 2 * DIM).double()


def train(network, rows, group, options, bank):
    """Return this process's losses over some steps, and the weights after them."""
    criterion = TCDecomposition(**options, process_group=group)
    losses = []
    for step in range(3):
        x, noise, items = (part[rows] for part in batch(step))
        mu, logvar = network(x).chunk(2, dim=1)
        z = mu + (0.5 * logvar).exp() * noise
        loss = criterion(z, mu, logvar, N, items=items, bank=bank)
        loss.backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= 0.01 * parameter.grad
                parameter.grad = None
        if bank is not None:
            bank.push(Posterior(z, mu, logvar), items)
        losses.append(loss.detach())
    return torch.stack(losses), nn.utils.parameters_to_vector(network.parameters())


def compare(rows, options, with_bank):
    """Return the largest differences of the averaged loss and of the weights to one process's."""
    alone_bank = PosteriorBank(20) if with_bank else None
    shared_bank = PosteriorBank(20, process_group="world") if with_bank else None
    want = train(encoder(), slice(None), None, options, alone_bank)
    network = DistributedDataParallel(encoder())
    losses, weights = train(network, rows, "world", options, shared_bank)
    distributed.all_reduce(losses)
    losses = losses / distributed.get_world_size()
    pairs = (losses, want[0]), (weights, want[1])
    return [(got - expected).abs().max().item() for got, expected in pairs]


def evaluate(rows):
    """Return the terms over a data set whose items the processes share, and over all of it."""
    g = torch.Generator().manual_seed(0)
    mu = torch.randn(SIZE, DIM, generator=g, dtype=torch.float64)
    logvar = torch.randn(SIZE, DIM, generator=g, dtype=torch.float64) - 2
    groups = {"a": [0, 2], "b": [1]}
    differences = {}
    for name, spread in (("quadrature", 0), ("samples alone", 30)):
        logvar[0, 0] -= spread  # standard deviations too far apart for one grid
        results = [
            decompose_groups(
                mu[part],
                logvar[part],
                groups,
                num_samples=3000,
                generator=torch.Generator().manual_seed(1),
                process_group=group,
            )
            for part, group in ((slice(None), None), (rows, "world"))
        ]
        values = [
            torch.tensor([*r.whole.terms, *r.whole.standard_error, *r.between]) for r in results
        ]
        differences[name] = (values[0] - values[1]).abs().max().item()
    return differences


def densities(rows):
    """Return how far the information in all processes' tables is from that of one process."""
    g = torch.Generator().manual_seed(0)
    mu = torch.randn(SIZE, DIM, generator=g, dtype=torch.float64)
    factors = torch.arange(SIZE) // 3  # of which no process has all values
    want = density_mutual_info_gap(mu, mu - 4, factors).mutual_info
    tables = DensityTables()
    tables.update(mu[rows], mu[rows] - 4, factors[rows])
    shared = tables.tables(process_group="world")
    got = density_mutual_info_gap(mu[rows], mu[rows] - 4, factors[rows], process_group="world")
    return [float(abs(x.mutual_info - want).max()) for x in (mutual_info_gap(shared), got)]


def without_a_generator(rows):
    """Return a term as each process gives it that draws from a seed of the first one's."""
    torch.manual_seed(distributed.get_rank())
    mu = torch.arange(SIZE * DIM, dtype=torch.float64).view(SIZE, DIM).sin()[rows]
    result = decompose_dataset(mu, mu - 2, num_samples=100, process_group="world")
    return result.terms.total_correlation.item()


def complaint(own, **change):
    """Return what this process is told of a call that one process gets wrong."""
    x, noise, _ = (part[own] for part in batch(0))
    z, mu, logvar = noise, x[:, :DIM], noise
    size, given = change.get("everywhere", N), {}
    if distributed.get_rank() == 1:
        z, mu, logvar = (t[:, : change.get("dim")][: change.get("rows")] for t in (z, mu, logvar))
        size = change.get("size", size)
        z, mu, logvar = (t.to(change.get("dtype", t.dtype)) for t in (z, mu, logvar))
        if "items" in change:
            given = {"items": torch.arange(len(z))}
        if "value" in change:
            mu = mu.clone()
            mu[0, 0] = change["value"]
    return told(TCDecomposition(beta=6, process_group="world"), z, mu, logvar, size, **given)


def repeated(own):
    """Return how far the loss of items with several rows is from that of one process."""
    x, noise, _ = batch(0)
    mu, items = x[:, :DIM], torch.arange(SIZE) % 5
    whole = mu + (0.5 * noise).exp() * noise, mu, noise
    options = {"beta": 6, "validate": False}
    want = TCDecomposition(**options)(*whole, N, items=items)
    dtype = (torch.int32, torch.int64)[distributed.get_rank() % 2]
    criterion = TCDecomposition(**options, process_group="world")
    loss = criterion(*(t[own] for t in whole), N, items=items[own].to(dtype))
    distributed.all_reduce(loss)
    return (loss / distributed.get_world_size() - want).abs().item()


def told(function, *arguments, **options):
    """Return the error's text."""
    try:
        function(*arguments, **options)
    except ValueError as error:
        return str(error)


def complaints_of_one(own):
    """Return what this process is told where one process's options are refused."""
    x, noise, _ = (part[own] for part in batch(0))
    z, mu, logvar = noise, x[:, :DIM], noise
    wrong = distributed.get_rank() == 1

    def prior():
        if wrong:
            raise ValueError("no such prior")
        return Normal(0.0, 1.0)

    world = {"process_group": "world"}
    criterion = TCDecomposition(beta=6, prior=prior, **world)
    groups = {"a": [0] if wrong else range(DIM)}
    return {
        "prior": told(criterion, z, mu, logvar, N),
        "flat": told(decompose, z[:, 0] if wrong else z, mu, logvar, N, **world),
        "samples": told(decompose_dataset, mu, logvar, num_samples=50 if wrong else 100, **world),
        "groups": told(decompose_groups, mu, logvar, groups, **world),
        "factors": told(
            density_mutual_info_gap, mu, logvar, torch.arange(len(mu) + wrong) % 2, **world
        ),
        "data set": told(decompose_dataset, mu * torch.nan if wrong else mu, logvar, **world),
    }


def bank_complaints(own):
    """Return what this process is told of banks that one process, or all, get wrong."""
    x, noise, items = (part[own] for part in batch(0))
    posterior = Posterior(noise, x[:, :DIM], noise)
    criterion = TCDecomposition(beta=6, process_group="world")
    shared, local = PosteriorBank(9, process_group="world"), PosteriorBank(9)
    first = distributed.get_rank() == 0

    def use(bank):
        criterion(posterior.z, posterior.mu, posterior.logvar, N, items=items, bank=bank)

    calls = {
        "push": lambda: shared.push("nothing" if first else posterior, items),
        "push items": lambda: shared.push(posterior, None if first else items),
        "local": lambda: use(local),
        "one process": lambda: use(None if first else filled),
    }
    filled = PosteriorBank(9, process_group="world")
    filled.push(posterior, items + SIZE)
    said = {}
    for name, call in calls.items():
        try:
            call()
        except (TypeError, ValueError) as error:
            said[name] = str(error)
    return {**said, "held": len(shared)}


def main(rank, cuts, folder):
    store = distributed.FileStore(str(Path(folder, "store")), len(cuts) - 1)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=len(cuts) - 1)
    rows = slice(cuts[rank], cuts[rank + 1])
    torch.set_num_threads(1)
    result = {name: compare(rows, options, False) for name, options in LOSSES.items()}
    result["bank"] = compare(rows, LOSSES["mss"], True)
    result["evaluation"] = evaluate(rows)
    result["densities"] = densities(rows)
    result["shared seed"] = without_a_generator(rows)
    result["no rows"] = complaint(rows, rows=0)
    result["dim"] = complaint(rows, dim=2)
    result["size"] = complaint(rows, size=99)
    result["dtype"] = complaint(rows, dtype=torch.float32)
    result["items"] = complaint(rows, items=True)
    result["repeated"] = repeated(rows)
    result |= complaints_of_one(rows)
    result["small"] = complaint(rows, everywhere=SIZE - 1)
    result["bank"] = {"train": result["bank"], **bank_complaints(rows)}
    result["nan"] = complaint(rows, value=float("nan"))
    if rank == 0:  # equal weights ask nobody: this would wait for the others if they did
        z, mu, logvar = (part[rows] for part in torch.randn(3, SIZE, DIM))
        TCDecomposition(process_group="world")(z, mu, logvar, N)
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    places = [int(place) for place in sys.argv[1].split(",")]
    multiprocessing.spawn(main, (places, sys.argv[2]), len(places) - 1)
