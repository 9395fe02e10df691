"""Draw which scores mistake which codes, from the ratings of the benchmark.

    python docs/pictures/stress.py    # reads ../benchmarks/stress.json, writes stress-*.png

``tests/benchmarks/score_stress.py --output docs/benchmarks`` measures the ratings.
"""

import json

import numpy as np
from matplotlib import rcParams
from matplotlib.figure import Figure
from style import FOLDER, ORANGE, save

STRUCTURES = ("independent", "correlated", "dependent", "unbalanced")
GOOD = ("aligned", "moved", "bent", "passive")
BAD = ("rotated", "leaking", "packed", "copied", "incomplete", "unrelated")
LEVEL = 0.8
RATINGS = json.loads((FOLDER.parent / "benchmarks" / "stress.json").read_text("utf-8"))


def draw() -> Figure:
    """Draw a heat map for each structure; a cross marks a mistake."""
    ratings = np.array(list(RATINGS.values()), float)  # scores, structures, encoders
    good = np.arange(len(GOOD + BAD)) < len(GOOD)
    wrong = (ratings >= LEVEL) != good
    figure = Figure(figsize=(13, 6.4), layout="constrained")
    panels = figure.subplots(1, len(STRUCTURES), sharey=True)
    for i, (axes, structure) in enumerate(zip(panels, STRUCTURES, strict=True)):
        heat = axes.imshow(ratings[:, i], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        rows, columns = np.nonzero(wrong[:, i])
        axes.scatter(columns, rows, marker="x", s=22, color=ORANGE, linewidths=1.8)
        axes.axvline(len(GOOD) - 0.5, color=rcParams["figure.facecolor"], linewidth=4)
        axes.set_xticks(range(len(good)), GOOD + BAD, rotation=90)
        axes.set_title(f"{structure} factors")
    panels[0].set_yticks(range(len(RATINGS)), list(RATINGS))
    figure.colorbar(heat, ax=panels, label="rating", pad=0.01)
    return figure


if __name__ == "__main__":
    save(draw, "stress.png")
