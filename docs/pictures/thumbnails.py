"""Draw the thumbnails of the gallery.

python docs/pictures/thumbnails.py    # seconds; writes thumb-*-light.svg and thumb-*-dark.svg
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import BLUE, GREEN, GREY, ORANGE, save

from tcdecomp.schedules import Cyclic, WarmUp

RNG = np.random.default_rng(0)


def groups(axes: Axes) -> None:
    """Draw the dependence of six latents: two groups, and a leak between them."""
    table = np.eye(6)
    table[:2, :2] = table[2:4, 2:4] = 0.7
    table[1, 3] = table[3, 1] = 0.25
    for (i, j), value in np.ndenumerate(table):
        colour = ORANGE if {i, j} == {1, 3} else BLUE
        axes.scatter(j, -i, s=170 * value + 8, color=colour, marker="s", linewidths=0)
    axes.set(xlim=(-0.7, 5.7), ylim=(-5.7, 0.7), aspect="equal")


def schedules(axes: Axes) -> None:
    """Draw a warm-up and a cyclic schedule."""
    steps = range(1000)
    for schedule, colour in ((WarmUp(6, 600), ORANGE), (Cyclic(4, 250), BLUE)):
        axes.plot(steps, [schedule(step) for step in steps], color=colour, linewidth=2)


def conditional(axes: Axes) -> None:
    """Draw codes of two labels, each a cloud of its own."""
    for centre, colour in (((-0.9, -0.4), BLUE), ((0.9, 0.5), ORANGE)):
        axes.scatter(*(RNG.normal(size=(60, 2)) * 0.5 + centre).T, color=colour, s=10, alpha=0.7)


def spatial(axes: Axes) -> None:
    """Draw a feature map: a grid of sites."""
    field = np.add.outer(np.sin(np.arange(5)), np.cos(np.arange(8) / 1.5))
    for (i, j), value in np.ndenumerate(field):
        alpha = float(np.clip((value + 2) / 4, 0.1, 1))
        axes.scatter(j, -i, s=150, color=GREEN, alpha=alpha, marker="s", linewidths=0)
    axes.set(xlim=(-0.7, 7.7), ylim=(-4.7, 0.7), aspect="equal")


def sequences(axes: Axes) -> None:
    """Draw sequences of several lengths with their padding."""
    for row, length in enumerate((7, 4, 8, 3, 6)):
        axes.barh(-row, length, color=BLUE, height=0.6)
        axes.barh(-row, 8 - length, left=length, color=GREY, alpha=0.25, height=0.6)


def densities(axes: Axes) -> None:
    """Draw q(z|v) for three values of a factor."""
    x = np.linspace(-4, 4, 80)
    for centre, colour in ((-2, BLUE), (0, ORANGE), (2, GREEN)):
        y = np.exp(-0.5 * ((x - centre) / 0.6) ** 2)
        axes.fill_between(x, y, color=colour, alpha=0.35, linewidth=0)
        axes.plot(x, y, color=colour, linewidth=1.5)


def audit(axes: Axes) -> None:
    """Draw a matrix of weights whose special weights stand beside the diagonal."""
    table = np.full((6, 6), 0.25)
    for row in range(6):
        table[row, 0 if row % 2 else 1] = 1
    for (i, j), value in np.ndenumerate(table):
        colour = ORANGE if value == 1 else GREY
        axes.scatter(j, -i, s=110, color=colour, alpha=value, marker="s", linewidths=0)
    axes.plot([-0.5, 5.5], [0.5, -5.5], color=BLUE, linestyle=":", linewidth=1.5)
    axes.set(xlim=(-0.7, 5.7), ylim=(-5.7, 0.7), aspect="equal")


def terms(axes: Axes) -> None:
    """Draw a total correlation and its bracket during a training."""
    steps = np.linspace(0, 1, 60)
    value = 2.5 * np.exp(-5 * steps) * (1 - np.exp(-40 * steps))
    axes.fill_between(steps, 0.75 * value, 1.4 * value + 0.1, color=ORANGE, alpha=0.3, linewidth=0)
    axes.plot(steps, value, color=ORANGE, linewidth=2)


def factorvae(axes: Axes) -> None:
    """Draw dependent codes, and the same codes with a dimension permuted."""
    codes = RNG.normal(size=(70, 2)) @ np.array([[1, 0.9], [0, 0.3]])
    for shift, values, colour in (
        (-2.6, codes, ORANGE),
        (2.6, np.column_stack([codes[:, 0], RNG.permutation(codes[:, 1])]), BLUE),
    ):
        axes.scatter(*np.add(values, (shift, 0)).T, color=colour, s=10, alpha=0.7)


def drawn(draw: Callable[[Axes], None]) -> Figure:
    """Return a small figure without ticks."""
    figure = Figure(figsize=(2.6, 1.7), layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return figure


if __name__ == "__main__":
    for draw in (
        groups,
        schedules,
        conditional,
        spatial,
        sequences,
        densities,
        audit,
        terms,
        factorvae,
    ):
        save(partial(drawn, draw), f"thumb-{draw.__name__}.svg")
