"""Draw three data sets of posteriors with two latents: one for each term of the KL.

python docs/pictures/terms.py    # seconds; writes terms-light.svg and terms-dark.svg
"""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse
from style import BLUE, GREEN, GREY, ORANGE, save
from torch import Tensor

from tcdecomp import decompose_dataset

N, SHOWN = 1000, 30
COLOURS = {"MI": BLUE, "TC": ORANGE, "DWKL": GREEN}


def toys() -> dict[str, tuple[Tensor, Tensor]]:
    """Return mu and logvar of each data set, as the page makes them."""
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(N, 2, generator=g, dtype=torch.float64)
    narrow, wider = torch.full((N, 2), -4.0).double(), torch.full((N, 2), -3.0).double()
    line = 0.975 * noise[:, :1].expand(N, 2)
    return {
        "high MI": (0.99 * noise, narrow),
        "high TC": (line, wider),
        "high DWKL": (torch.full_like(noise, 1.5), narrow + 2),
    }


def panel(axes: Axes, name: str, mu: Tensor, logvar: Tensor) -> None:
    """Draw some posteriors as ellipses of one standard deviation, over the prior."""
    for radius in (1, 2):
        axes.add_patch(Circle((0, 0), radius, fill=False, color=GREY, linestyle=":", linewidth=1))
    sd = (0.5 * logvar).exp()
    for centre, radius in zip(mu[:SHOWN], sd[:SHOWN], strict=True):
        width, height = (2 * radius).tolist()
        axes.add_patch(
            Ellipse(centre.tolist(), width, height, fill=True, color=BLUE, alpha=0.25, linewidth=0)
        )
    axes.set(xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal")
    axes.set_title(name, fontsize=13, fontweight="bold")
    axes.spines[:].set_visible(False)


def bars(axes: Axes, mu: Tensor, logvar: Tensor) -> None:
    """Draw the three terms, in nats."""
    terms = decompose_dataset(mu, logvar, generator=torch.Generator().manual_seed(0)).terms
    values = [terms.index_code_mi, terms.total_correlation, terms.dimension_wise_kl]
    for row, (name, value) in enumerate(zip(COLOURS, values, strict=True)):
        axes.barh(row, max(value.item(), 0), color=COLOURS[name], height=0.7)
        axes.text(max(value.item(), 0) + 0.1, row, f"{abs(value.item()):.2f}", va="center")
    axes.set_yticks(range(3), COLOURS)
    axes.set(xlim=(0, 4.6), ylim=(2.6, -0.6), xticks=[])
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)


def draw() -> Figure:
    """Draw a column for each data set."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots(2, 3, height_ratios=(3, 1))
    for (top, bottom), (name, toy) in zip(axes.T, toys().items(), strict=True):
        panel(top, name, *toy)
        bars(bottom, *toy)
    return figure


if __name__ == "__main__":
    save(draw, "terms.svg")
