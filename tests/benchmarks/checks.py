"""What the checks of a default criterion cost, beside a training step of the demo's networks.

    python tests/benchmarks/checks.py

The steps with and without checks take turns; the figures are the thread's CPU time, the median of
several rounds of 200 steps each.
"""

import itertools
import statistics
import time

import torch
from torch import nn

from tcdecomp import TCDecomposition

STEPS, ROUNDS, SIZE, DIM = 200, 9, 256, 10


def networks():
    def mlp(*sizes):
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        return nn.Sequential(*(m for layer in layers[:-1] for m in (layer, nn.ReLU())), layers[-1])

    return mlp(256, 256, 256, 2 * DIM), mlp(DIM, 256, 256, 256)


def seconds(criterion, encoder, decoder, adam, images):
    """Return the CPU time of one training step."""
    start = time.thread_time()
    for _ in range(STEPS):
        mu, logvar = encoder(images).chunk(2, 1)
        z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
        bce = nn.functional.binary_cross_entropy_with_logits(decoder(z), images, reduction="sum")
        loss = bce / SIZE + criterion(z, mu, logvar, 512)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return (time.thread_time() - start) / STEPS


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder, decoder = networks()
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-4)
    images = torch.rand(SIZE, 256)
    criteria = {
        "checked": TCDecomposition(beta=6),
        "unchecked": TCDecomposition(beta=6, validate=False),
    }
    taken = {name: [] for name in criteria}
    for _ in range(ROUNDS):
        for name, criterion in criteria.items():
            taken[name].append(seconds(criterion, encoder, decoder, adam, images))
    pairs = zip(taken["checked"], taken["unchecked"], strict=True)
    more = 100 * statistics.median(a / b - 1 for a, b in pairs)
    step = 1e3 * statistics.median(taken["unchecked"])
    print(f"a step of {SIZE} x {DIM}: {step:.2f} ms without checks, {more:.1f} % more with them")


if __name__ == "__main__":
    main()
