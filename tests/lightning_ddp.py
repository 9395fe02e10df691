"""Two processes of Lightning on the CPU: ``python lightning_ddp.py PACKAGE FOLDER``.

Lightning starts the second process by running this script again. Each writes what it logged.
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from lightning_models import DIM, SIZE, data, framework, loader, vae, weights
from tcdecomp import TCDecomposition, mig_score


class Prior(nn.Module):
    """A learned location."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(DIM))

    def forward(self):
        return Normal(self.loc, 1.0)


class Noisy(TCDecomposition):
    """Keeps the noise in the first latent of the last batch."""

    def decompose(self, z, mu, logvar, dataset_size):
        self.noise = ((z - mu) * (-0.5 * logvar).exp())[0, 0].item()
        return super().decompose(z, mu, logvar, dataset_size)


def floats(metrics):
    return {name: float(value) for name, value in metrics.items()}


@torch.no_grad()
def direct(model, size=SIZE):
    """Return the KL and the MIG of the whole set, as one process sees them."""
    x, factors = data(size).tensors
    mu, logvar = model.encoder(x)
    kl = kl_divergence(Normal(mu, (0.5 * logvar).exp()), model.criterion.prior())
    return {"kl": kl.sum(1).mean().item(), "mig": mig_score(mu, factors)}


def main(package, folder):
    pl = framework(package)
    model = vae(pl, Noisy(beta=6, prior=Prior()))
    monitor = pl.TCMonitor(val_dataset_size=SIZE)
    options = {"strategy": "ddp", "devices": 2, "callbacks": [monitor]}
    trainer = pl.Trainer(**options)
    trainer.fit(model, loader(shuffle=True), loader())
    fitted, whole = floats(trainer.callback_metrics), direct(model)

    # One process has a single row, from which it cannot estimate: nobody may wait for it.
    rank = int(os.environ["LOCAL_RANK"])
    uneven = loader(SIZE, batch_size=16 if rank else 1)
    trainer = pl.Trainer(**options, use_distributed_sampler=False, limit_val_batches=1)
    lopsided = trainer.validate(model, uneven, verbose=False)[0]
    result = {"fit": fitted, "whole": whole, "lopsided": floats(lopsided)}

    # The sampler repeats an item, since one process would lack it.
    odd = SIZE + 1
    trainer = pl.Trainer(**options | {"callbacks": [pl.TCMonitor()]})
    metrics = trainer.validate(model, loader(odd), verbose=False)[0]
    result["odd"] = {"logged": floats(metrics), "whole": direct(model, odd)}
    result["noise"] = model.criterion.noise
    result["weights"] = weights(model).tolist()
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    # Its threads, left running, can abort the interpreter's exit.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
