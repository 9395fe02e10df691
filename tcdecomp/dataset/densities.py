"""What samples of q(z) tell: means by regression on controls, and the terms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tcdecomp.terms import Terms

__all__ = ["Densities", "Regression"]


class Regression:
    """The mean of values where controls, shape (S, C), have their known mean of 0.

    Ordinary least squares; the standard error has the leverage of that point in it, so that a
    sample whose controls lie far from 0 says so. Means are linear in the values.
    """

    def __init__(self, controls: Tensor) -> None:
        self._centre = controls.mean(0)
        self._centred = controls - self._centre
        # Controls may coincide (one item, one dimension): the pseudo-inverse minds it least.
        self._inverse = torch.linalg.pinv(self._centred)
        self._degrees = len(controls) - 1 - controls.shape[1]
        self._leverage = 1 / len(controls) + (self._centre @ self._inverse).square().sum()

    def mean(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean of values, shape (S,), and its standard error."""
        slopes = self._inverse @ (values - values.mean())
        residuals = values - values.mean() - self._centred @ slopes
        error = (residuals.square().sum() / self._degrees * self._leverage).sqrt()
        return values.mean() - self._centre @ slopes, error


class Densities(NamedTuple):
    """The log-densities of some dimensions, float64 on the CPU.

    Attributes
    ----------
    joint, product : Tensor, shape (S,)
        log q(z) and sum_j log q(z_j) at S samples.
    log_product : Tensor, shape (), or None
        The mean of ``product`` by quadrature, where there is one grid for each dimension.
    entropy, kl : Tensor, shape ()
        Means over items of the entropy of q(z|n) and of KL(q(z|n) || p(z)).
    regression : Regression
        On controls of all dimensions, whichever these are: what sums in each sample then sums in
        the means.
    """

    joint: Tensor
    product: Tensor
    log_product: Tensor | None
    entropy: Tensor
    kl: Tensor
    regression: Regression

    def terms(self) -> tuple[Terms, Terms]:
        """Return the terms, which sum to the closed-form KL, and their standard errors."""
        mean = self.regression.mean
        # The differences of log-densities that TC and the dimension-wise KL are.
        tc, tc_error = mean(self.joint - self.product)
        if self.log_product is None:
            dimension_wise, dimension_wise_error = mean(self.product + self.entropy + self.kl)
            mi_error = mean(self.joint)[1]
        else:
            dimension_wise = self.log_product + self.entropy + self.kl
            dimension_wise_error, mi_error = torch.zeros_like(tc_error), tc_error
        return (
            Terms(self.kl - tc - dimension_wise, tc, dimension_wise, self.kl),
            Terms(mi_error, tc_error, dimension_wise_error, torch.zeros_like(tc_error)),
        )
