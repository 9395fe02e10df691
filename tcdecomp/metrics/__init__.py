"""How well latents line up with known factors of variation.

Nothing here imports scikit-learn before a metric is computed.
"""

from tcdecomp.metrics.mig import MutualInfoGap, mig_score, mutual_info_gap
from tcdecomp.metrics.scorer import mig_scorer

__all__ = ["MutualInfoGap", "mig_score", "mig_scorer", "mutual_info_gap"]
