"""Several scores of codes against factors as one report, and several models in one table."""

from tcdecomp.disentanglement.comparison import Comparison, compare
from tcdecomp.disentanglement.report import DisentanglementReport, disentanglement_report

__all__ = ["Comparison", "DisentanglementReport", "compare", "disentanglement_report"]
