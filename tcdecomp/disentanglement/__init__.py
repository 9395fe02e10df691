"""Several scores of codes against factors as one report, and several models in one table."""

from tcdecomp.disentanglement.comparison import Comparison, compare
from tcdecomp.disentanglement.evaluation import disentanglement_report
from tcdecomp.disentanglement.report import DisentanglementReport

__all__ = ["Comparison", "DisentanglementReport", "compare", "disentanglement_report"]
