"""Pictures for a light and for a dark page: the same drawing in two sets of colours."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

FOLDER = Path(__file__).parent
INK = {"light": "#222222", "dark": "#d6d6d6"}
PAPER = {"light": "#ffffff", "dark": "#131416"}
# Colours that can be told apart by all readers, on either background (Okabe and Ito).
BLUE, ORANGE, GREEN, GREY = "#3d8fd1", "#e58606", "#1fa67a", "#8c8c8c"


def save(draw: Callable[[], Figure], name: str) -> None:
    """Write the figure that ``draw`` makes for each theme; ``name`` is that of a file."""
    stem, ending = name.split(".")
    for theme, ink in INK.items():
        colours = dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), ink
        )
        paper = dict.fromkeys(("figure.facecolor", "axes.facecolor"), PAPER[theme])
        rest = {
            "axes.spines.right": False,
            "axes.spines.top": False,
            "svg.fonttype": "none",
            "svg.hashsalt": "tcdecomp",
        }
        with mpl.rc_context(colours | paper | rest):
            metadata = {"Date": None} if ending == "svg" else None
            path = FOLDER / f"{stem}-{theme}.{ending}"
            box = "tight" if ending == "png" else None
            draw().savefig(path, dpi=110, metadata=metadata, bbox_inches=box, pad_inches=0.05)
