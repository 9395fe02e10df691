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
from torch.utils.data.distributed import DistributedSampler

from lightning_models import DIM, PIXELS, SIZE, Encoder, data, framework, loader, vae, weights
from tcdecomp import Posterior, TCDecomposition, mig_score


class Prior(nn.Module):
    """A learned location."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(DIM))

    def forward(self):
        return Normal(self.loc, 1.0)


NOISE = []


class Noisy(TCDecomposition):
    """Keeps the noise in the first latent of each batch."""

    def decompose(self, z, mu, logvar, dataset_size):
        NOISE.append(((z - mu) * (-0.5 * logvar).exp())[0, 0].item())
        return super().decompose(z, mu, logvar, dataset_size)


def of_its_item(pl):
    """Return a TCVAE whose noise depends on the item alone, in whichever process it is drawn."""

    class OfItsItem(pl.TCVAE):
        def encode(self, batch, *, generator=None):
            mu, logvar = self.encoder(batch[0])
            noise = 2 * torch.sin(1000 * batch[0][:, :DIM] + batch[0][:, DIM:].sum(1, keepdim=True))
            return Posterior(mu + (0.5 * logvar).exp() * noise, mu, logvar)

    torch.manual_seed(0)
    return OfItsItem(Encoder(), nn.Linear(DIM, PIXELS), TCDecomposition(beta=6), SIZE, lr=0.01)


def difference_to_one_process(pl):
    """Train in two processes and in one; return the largest difference of the weights."""
    apart = of_its_item(pl)
    options = {"strategy": "ddp", "devices": 2, "max_epochs": 3, "use_distributed_sampler": False}
    # Dealt out in order: two processes' batches of 8 are one of 16.
    sampler = DistributedSampler(data(), 2, int(os.environ["LOCAL_RANK"]), shuffle=False)
    pl.Trainer(**options).fit(apart, loader(batch_size=8, sampler=sampler))
    alone = of_its_item(pl)
    optimizer = alone.configure_optimizers()
    for batch in [*loader(batch_size=16)] * 3:
        posterior = alone.encode(batch)
        moments = posterior.z, posterior.mu, posterior.logvar
        loss = alone.reconstruction_loss(posterior.z, batch[0]) + alone.criterion(*moments, SIZE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (weights(apart) - weights(alone)).abs().max().item()


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
    model = vae(pl, Noisy(beta=6, prior=Prior(), estimator="mws"))
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
    result["noise"] = NOISE[-1]
    result["weights"] = weights(model).tolist()
    result["difference"] = difference_to_one_process(pl)
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    # Its threads, left running, can abort the interpreter's exit.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
