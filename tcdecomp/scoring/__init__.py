"""The score of a model over a data set, and the report that says it."""

from tcdecomp.scoring import loaders as loaders
from tcdecomp.scoring.evaluation import score
from tcdecomp.scoring.report import Report
from tcdecomp.scoring.units import GroupedTC

__all__ = ["GroupedTC", "Report", "score"]
