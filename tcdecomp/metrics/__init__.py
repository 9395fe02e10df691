"""Scores of codes against known factors of variation.

Built on numpy and scikit-learn, which is imported when the first score is computed.
"""

from tcdecomp.metrics.dci import DCI, dci_score
from tcdecomp.metrics.gaps import dcimig_score, jemmig_score, mig_sup_score
from tcdecomp.metrics.infomec import InfoMEC, infomec_score
from tcdecomp.metrics.intervals import Interval, interval_of_mean, score_interval
from tcdecomp.metrics.interventions import beta_vae_score, factor_vae_score
from tcdecomp.metrics.irs import irs_score
from tcdecomp.metrics.latents import (
    active_units_score,
    pairwise_information,
    pairwise_information_score,
)
from tcdecomp.metrics.matched import MatchedInformation, matched_information_score
from tcdecomp.metrics.mcc import linear_r2_score, mcc_score
from tcdecomp.metrics.mig import mig_score, mutual_info_gap
from tcdecomp.metrics.mig_report import MutualInfoGap
from tcdecomp.metrics.modularity import explicitness_score, modularity_score
from tcdecomp.metrics.neighbours import neighbour_information
from tcdecomp.metrics.sap import sap_score
from tcdecomp.metrics.scorer import mig_scorer
from tcdecomp.metrics.tables import Tables, contingency_tables

__all__ = [
    "DCI",
    "InfoMEC",
    "Interval",
    "MatchedInformation",
    "MutualInfoGap",
    "Tables",
    "active_units_score",
    "beta_vae_score",
    "contingency_tables",
    "dci_score",
    "dcimig_score",
    "explicitness_score",
    "factor_vae_score",
    "infomec_score",
    "interval_of_mean",
    "irs_score",
    "jemmig_score",
    "linear_r2_score",
    "matched_information_score",
    "mcc_score",
    "mig_score",
    "mig_scorer",
    "mig_sup_score",
    "modularity_score",
    "mutual_info_gap",
    "neighbour_information",
    "pairwise_information",
    "pairwise_information_score",
    "sap_score",
    "score_interval",
]
