"""Serving any VAE by its layers: find where it keeps its posterior, and weigh its KL.

scales, reading, outputs
    what layers and losses return;
taps, undisturbed, running
    hooks on the layers, and runs of the model;
evidence, fit, weight
    what the gradients prove: that z is a sample, and what the loss multiplies its KL by;
attachment, seam
    the handle and the adapter;
trace, candidates, verdict, search
    :func:`find_seam`.
"""

from tcdecomp.plugins.seam.seam import Seam
from tcdecomp.plugins.seam.search import find_seam
from tcdecomp.plugins.seam.weight import KLWeight

__all__ = ["KLWeight", "Seam", "find_seam"]
