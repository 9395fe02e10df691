"""What one batch of M items says about a data set of N items.

A batch brings the components of q(z), an estimator weighs them, and a kernel sums them. Sites,
conditions, a bank and several processes change the components or the weights, nothing else.
"""

from tcdecomp.minibatch.bank import PosteriorBank
from tcdecomp.minibatch.bracket import Bracket, Interval
from tcdecomp.minibatch.families import decompose_family
from tcdecomp.minibatch.sites import decompose_sites

__all__ = ["Bracket", "Interval", "PosteriorBank", "decompose_family", "decompose_sites"]
