"""See, steer and measure what the KL term of a variational autoencoder does."""

from tcdecomp import presets as presets
from tcdecomp.auditor import audit
from tcdecomp.dataset import decompose_dataset
from tcdecomp.decomposition import decompose
from tcdecomp.hooks import hookimpl
from tcdecomp.loss import TCDecomposition
from tcdecomp.metrics import mig_score
from tcdecomp.plugins import attach, encode
from tcdecomp.posterior import Posterior
from tcdecomp.scoring import score
from tcdecomp.terms import Terms

__all__ = [
    "Posterior",
    "TCDecomposition",
    "Terms",
    "attach",
    "audit",
    "decompose",
    "decompose_dataset",
    "encode",
    "hookimpl",
    "mig_score",
    "score",
]
