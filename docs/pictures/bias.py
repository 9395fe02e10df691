"""Draw the error of total correlation against the batch size, from the table of biases.

    python docs/pictures/bias.py    # seconds; reads ../benchmarks/bias.md, writes bias-*.svg

``tests/benchmarks/estimator_bias.py --output docs/benchmarks`` measures the table.
"""

import re

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import BLUE, FOLDER, GREEN, GREY, ORANGE, save

SIZES = (64, 256, 1024)
DRAWN = {
    "inclusive": GREY,
    "MSS": BLUE,
    "MSS, jackknife": GREEN,
    "MSS, bank of 4096": ORANGE,
}
TABLE = FOLDER.parent / "benchmarks" / "bias.md"


def tables() -> dict[str, dict[str, str]]:
    """Return the column of total correlation of each data set: the estimator's name to its cell."""
    parts = re.split(r"^\*\*(.+)\*\*$", TABLE.read_text(), flags=re.MULTILINE)[1:]
    return {
        title: {cells[0].strip("* "): cells[2].strip() for cells in rows(text)}
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


def rows(text: str) -> list[list[str]]:
    """Return the cells of each row of a Markdown table."""
    return [line[1:-1].split("|") for line in text.splitlines() if line.startswith("|")][2:]


def panel(axes: Axes, column: dict[str, str]) -> None:
    """Draw one data set: the bracket as a band, each estimator as a line."""
    ends = re.findall(r"\[(\S+),\s(\S+)\]", column["bracket"])
    low, high = ([float(end[side]) for end in ends] for side in (0, 1))
    axes.fill_between(SIZES, low, high, color=GREY, alpha=0.2, linewidth=0, label="bracket")
    axes.axhline(0, color=GREY, linewidth=0.8)
    for name, colour in DRAWN.items():
        values = [float(value) for value in re.findall(r"([+-][\d.]+)\(", column[name])]
        axes.plot(SIZES, values, color=colour, marker="o", markersize=4, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(SIZES, [str(size) for size in SIZES])
    axes.minorticks_off()


def draw() -> Figure:
    """Draw a panel for each data set."""
    columns = tables()
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(columns))
    for axes, (title, column) in zip(panels, columns.items(), strict=True):
        panel(axes, column)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("batch size M")
    panels[0].set_ylabel("error of total correlation, nats")
    panels[0].legend(frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    save(draw, "bias.svg")
