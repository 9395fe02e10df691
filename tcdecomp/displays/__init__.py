"""Pictures in the style of scikit-learn: make a display, then ``plot()`` it.

Each display keeps what it shows as attributes. ``plot(ax=None)`` draws into axes of matplotlib, by
default into those of a new figure that pyplot does not know of, and returns the display, with
``ax_`` and ``figure_``. matplotlib is imported when something is drawn.
"""

from tcdecomp.displays.intervals import ComparisonDisplay, GapsDisplay, SampleSizeDisplay
from tcdecomp.displays.matrices import ImportanceDisplay, MutualInfoDisplay
from tcdecomp.displays.terms import TermsDisplay
from tcdecomp.displays.traversals import TraversalDisplay

__all__ = [
    "ComparisonDisplay",
    "GapsDisplay",
    "ImportanceDisplay",
    "MutualInfoDisplay",
    "SampleSizeDisplay",
    "TermsDisplay",
    "TraversalDisplay",
]
