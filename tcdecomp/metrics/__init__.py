"""Scores of codes against known factors of variation.

Built on numpy and scikit-learn, which is imported when the first score is computed.
"""

from tcdecomp.metrics.mig import MutualInfoGap, mig_score, mutual_info_gap
from tcdecomp.metrics.scorer import mig_scorer

__all__ = ["MutualInfoGap", "mig_score", "mig_scorer", "mutual_info_gap"]
