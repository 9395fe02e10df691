"""Draw the time and the memory of a loss against the batch size, from the table of benchmarks.

    python docs/pictures/speed.py    # seconds; reads ../benchmarks/cpu.md, writes speed-*.svg

``make bench`` measures the table.
"""

import re

from matplotlib.figure import Figure
from style import BLUE, FOLDER, GREEN, GREY, ORANGE, save

DRAWN = {"tcdecomp": ORANGE, "plain": GREEN, "compiled": BLUE, "textbook": GREY}
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
TABLE = FOLDER.parent / "benchmarks" / "cpu.md"


def points() -> dict[str, list[tuple[int, float, float]]]:
    """Return M, milliseconds and MiB of forward and backward at 10 latents, for each code."""
    header, _, *lines = (
        [cell.strip() for cell in line[1:-1].split("|")]
        for line in TABLE.read_text().splitlines()
        if line.startswith("|")
    )
    found: dict[str, list[tuple[int, float, float]]] = {name: [] for name in DRAWN}
    for line in lines:
        row = dict(zip(header, line, strict=True))
        size, dim = row["M x D"].split("\u00a0x\u00a0")
        if (dim, row["posteriors"], row["pass"]) != ("10", "benign", "forward + backward"):
            continue
        ours, unit = re.findall(r"\*\*([\d.]+) (\w+)\*\*", row["tcdecomp"])[0]
        for name in DRAWN:
            ratio = re.match(r"([\d.]+)x", row[name])
            if name == "tcdecomp" or ratio:
                time = float(ours) * UNITS[unit] * (float(ratio[1]) if ratio else 1)
                mebibytes = float(re.findall(r"(\d+) MiB", row[name])[0])
                found[name].append((int(size), time, max(mebibytes, 1)))
    return found


def draw() -> Figure:
    """Draw a panel of the time, and one of the memory."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    for name, values in points().items():
        sizes, times, memory = zip(*values, strict=True)
        for axes, column in zip(panels, (times, memory), strict=True):
            axes.loglog(sizes, column, color=DRAWN[name], marker="o", markersize=4, label=name)
    for axes, title in zip(panels, ("time, ms", "peak memory, MiB (1: at most)"), strict=True):
        axes.set_title(title, fontsize=12)
        axes.set_xlabel("batch size M, 10 latents", fontsize=12)
        axes.tick_params(labelsize=11)
        axes.margins(y=0.08)
    lines = panels[0].get_lines()
    figure.legend(handles=lines, loc="outside upper center", ncols=len(lines), frameon=False)
    return figure


if __name__ == "__main__":
    save(draw, "speed.svg")
