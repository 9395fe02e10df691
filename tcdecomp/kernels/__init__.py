"""Log-sums of component densities: the expensive part of every estimate."""

from tcdecomp.kernels.contract import LogSums
from tcdecomp.kernels.dense import log_sums

__all__ = ["LogSums", "log_sums"]
