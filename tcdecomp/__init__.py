"""See, steer and measure what the KL term of a variational autoencoder does."""

from tcdecomp import displays as displays
from tcdecomp import metrics as metrics
from tcdecomp import presets as presets
from tcdecomp import schedules as schedules
from tcdecomp import testing as testing
from tcdecomp.auditor import audit
from tcdecomp.dataset import decompose_dataset, decompose_groups, density_mig_score
from tcdecomp.decomposition import decompose
from tcdecomp.density_ratio import DensityRatioTC
from tcdecomp.disentanglement import compare, disentanglement_report
from tcdecomp.loss import TCDecomposition
from tcdecomp.metrics import mig_score, mutual_info_gap
from tcdecomp.minibatch import Bracket, PosteriorBank, decompose_family, decompose_sites
from tcdecomp.minibatch import estimators as estimators
from tcdecomp.plugins import NoAdapterError, Seam, attach, encode, find_seam, hookimpl
from tcdecomp.posterior import Posterior
from tcdecomp.scoring import score
from tcdecomp.terms import Terms

__version__ = "0.1.0"

__all__ = [
    "Bracket",
    "DensityRatioTC",
    "NoAdapterError",
    "Posterior",
    "PosteriorBank",
    "Seam",
    "TCDecomposition",
    "Terms",
    "attach",
    "audit",
    "compare",
    "decompose",
    "decompose_dataset",
    "decompose_family",
    "decompose_groups",
    "decompose_sites",
    "density_mig_score",
    "disentanglement_report",
    "encode",
    "find_seam",
    "hookimpl",
    "mig_score",
    "mutual_info_gap",
    "score",
]
