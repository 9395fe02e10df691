"""Draw the displays of `tcdecomp.displays`: run `python docs/pictures/displays.py`."""

import numpy as np
import torch
from matplotlib.figure import Figure
from style import save
from torch import Tensor

from tcdecomp import Bracket, TCDecomposition, mig_score, mutual_info_gap
from tcdecomp.displays import (
    GapsDisplay,
    ImportanceDisplay,
    MutualInfoDisplay,
    SampleSizeDisplay,
    TermsDisplay,
    TraversalDisplay,
)
from tcdecomp.metrics import dci_score

RNG = np.random.default_rng(0)
MIXING = [[1, 0, 0, 0], [0, 1, 0.6, 0], [0, 0, 1, 0]]
FACTORS = RNG.integers(0, 5, (4000, 3))
CODES = FACTORS @ MIXING + 0.2 * RNG.standard_normal((4000, 4))


def disc(z: Tensor) -> Tensor:
    """Decode a position and a size as the image of a disc."""
    y, x = torch.meshgrid(*[torch.linspace(-2, 2, 32)] * 2, indexing="ij")
    place, height, size, *_ = (column[:, None, None] for column in z.T)
    radius = 0.6 + 0.2 * size
    return torch.sigmoid(20 * (radius - ((x - 0.5 * place) ** 2 + (y - 0.5 * height) ** 2).sqrt()))


def training() -> list[dict[str, float]]:
    """Train a linear VAE and return its terms with their brackets, every 10 steps."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 4, generator=g) @ torch.randn(4, 12, generator=g)
    encode, decode = torch.nn.Linear(12, 8), torch.nn.Linear(4, 12)
    for layer in (encode, decode):
        torch.nn.init.normal_(layer.weight, std=0.1, generator=g)
    optimizer = torch.optim.Adam([*encode.parameters(), *decode.parameters()], lr=0.01)
    criterion, logs = TCDecomposition(beta=4.0), []
    for step in range(301):
        if step % 10 == 0:
            logs.append(evaluation(encode, x, g))
        rows = torch.randperm(2000, generator=g)[:256]
        mu, logvar = encode(x[rows]).chunk(2, 1)
        z = mu + (0.5 * logvar).exp() * torch.randn(mu.shape, generator=g)
        loss = (decode(z) - x[rows]).square().sum(1).mean() + criterion(z, mu, logvar, 2000)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return logs


@torch.no_grad()
def evaluation(encode: torch.nn.Module, x: Tensor, g: torch.Generator) -> dict[str, float]:
    """Return the terms and their brackets over 4 batches."""
    bracket, kl = Bracket(), 0.0
    for rows in torch.randperm(2000, generator=g).split(250)[:4]:
        mu, logvar = encode(x[rows]).chunk(2, 1)
        z = mu + (0.5 * logvar).exp() * torch.randn(mu.shape, generator=g)
        kl += bracket.update(z, mu, logvar, 2000).kl.item() / 4
    values = {"kl": kl}
    for name in ("index_code_mi", "total_correlation", "dimension_wise_kl"):
        interval = bracket.interval(name)
        values |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return values


GAP = mutual_info_gap(CODES, FACTORS)
DCI = dci_score(CODES[:1000], FACTORS[:1000], estimator="random-forest", random_state=0)
MU = torch.tensor(CODES - CODES.mean(0), dtype=torch.float32)
SHOWN = [
    MutualInfoDisplay(GAP),
    ImportanceDisplay(DCI.importance),
    GapsDisplay.from_codes(CODES, FACTORS, n_resamples=30, random_state=0),
    SampleSizeDisplay.from_codes(mig_score, CODES, FACTORS),
    TraversalDisplay.from_decoder(
        disc, 0 * MU[:2], torch.tensor([-4.0, -3, -2, 0]).expand(2, 4), steps=7
    ),
    TermsDisplay.from_logs(training(), steps=range(0, 301, 10)),
]


def draw() -> Figure:
    """Draw the displays in two rows."""
    figure = Figure(figsize=(13, 8), layout="constrained")
    for display, axes in zip(SHOWN, figure.subplots(2, 3).flat, strict=True):
        display.plot(axes)
    return figure


if __name__ == "__main__":
    save(draw, "displays.png")
