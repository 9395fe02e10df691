"""Scores of codes against known factors of variation.

Built on numpy and scikit-learn, which is imported when the first score is computed.
"""

from tcdecomp.metrics.mig import MutualInfoGap, mig_score, mutual_info_gap
from tcdecomp.metrics.scorer import mig_scorer
from tcdecomp.metrics.tables import Tables, contingency_tables

__all__ = [
    "MutualInfoGap",
    "Tables",
    "contingency_tables",
    "mig_score",
    "mig_scorer",
    "mutual_info_gap",
]
