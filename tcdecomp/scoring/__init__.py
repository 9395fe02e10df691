"""The score of a model over a data set, and the report that says it."""

from tcdecomp.scoring.evaluation import score
from tcdecomp.scoring.report import Report
from tcdecomp.scoring.units import Estimate, GroupedTC

__all__ = ["Estimate", "GroupedTC", "Report", "score"]
