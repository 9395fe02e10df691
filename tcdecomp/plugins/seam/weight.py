"""The weight of the KL in a model's loss: when to measure it again, and what to refuse."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Sequence

from torch import Tensor
from torch._compile import _disable_dynamo

from tcdecomp.loss import TCDecomposition
from tcdecomp.plugins.seam.fit import REMEDY, Fit, NoPathError, fit
from tcdecomp.plugins.seam.reading import Reading
from tcdecomp.posterior import Posterior

__all__ = ["KLWeight"]

FULL, QUICK = 100, 10  # steps from one measurement to the next
_MEAN = "the KL, mean over the batch"


class KLWeight:
    """The weight of the KL in a model's loss, measured again from time to time.

    The loss is asked as it is, by a backward through the layers behind z, in the first ten steps,
    at every tenth, within ten steps of a change of the weight, for the first batch of a size, also
    after a change, and as long as the weight is 0. At the first step and at every hundredth, the
    model also runs three more times, with this KL, a smaller and a larger one, if it can be run
    again.

    Parameters
    ----------
    stated : float, callable or None
        The weight that the user states: used in every step, and checked against the measured one.
        A callable returns it, without arguments or for the number of steps so far.

    Attributes
    ----------
    value : float or None
        The weight in the last step; None if it is not known yet.
    """

    def __init__(self, stated: float | Callable[..., float] | None = None) -> None:
        self.stated = stated
        self.value: float | None = None
        # The last and the first weight since the last change, by the rows of the batch.
        self._known: dict[int, float] = {}
        self._first: dict[int, float] = {}
        self._shape = (0, 0)
        self._step = self._changed = 0
        self._proven = self._warned = False

    @_disable_dynamo
    def of_posterior(self, loss: Tensor, posterior: Posterior, criterion: TCDecomposition) -> float:
        """Return the weight for a loss that was computed from this posterior.

        For adapters. The weight is measured when that is due. Whatever takes z counts as a part of
        the reconstruction. If the graph does not lead from the loss to the posterior, the weight is
        1, with a warning.

        Parameters
        ----------
        loss : Tensor
            A scalar, with its graph.
        posterior : Posterior
            z, mu and logvar, with their graph.
        criterion : TCDecomposition
            Its prior and its kind of KL are those of the loss.

        Raises
        ------
        ValueError
            If the loss holds no multiple of the KL.
        """
        z, mu, logvar = posterior.z, posterior.mu, posterior.logvar
        taken = z if z.dim() == mu.dim() else z[0]  # of several samples
        reading = Reading((mu, logvar), 1, "logvar", taken, (z,), z)
        shape = mu.shape[0], mu.shape[1]
        try:
            return self.measured(shape, lambda: fit(loss, reading, None, criterion), None)
        except NoPathError:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    "the weight of the KL in the loss cannot be measured in this step, which is "
                    "compiled or computes its loss from other tensors than its posterior: it is "
                    "taken to be 1. attach(..., seam=find_seam(model, batch)) measures it",
                    stacklevel=2,
                )
            return 1.0

    def measured(
        self,
        shape: tuple[int, int],
        here: Callable[[], Fit],
        elsewhere: Callable[[], list[Fit]] | None,
    ) -> float:
        """Return the weight for the loss of this step, 0 if it is not known yet.

        ``shape`` is (M, D). ``here`` measures this loss, ``elsewhere`` that of further runs, if
        there can be any. A weight that is negative, differs with the KL, or is not the stated one
        is an error.
        """
        rows, stated = shape[0], self._stated()
        recent = self._step - self._changed < QUICK
        if recent or self._step % QUICK == 0 or not self._known.get(rows):
            self._measure(rows, here, elsewhere, stated)
        self._step, self._shape = self._step + 1, shape
        self.value = self._known.get(rows) if stated is None else stated
        if not self.value and self._step in (1, QUICK) and not self._warned:
            self._warned = True
            what = "the KL is too small for its weight to be measured"
            warnings.warn(
                f"{what if self.value is None else 'the loss holds no KL'} in this step, and the "
                "criterion adds nothing. It is measured again in every step. If the KL is in "
                "another loss, name the method that returns that loss: Seam(loss=...)",
                stacklevel=2,
            )
        return self.value or 0.0

    def _measure(
        self,
        rows: int,
        here: Callable[[], Fit],
        elsewhere: Callable[[], list[Fit]] | None,
        stated: float | None,
    ) -> None:
        fits = [here()]
        due = self._step % FULL == 0 or (not self._proven and fits[0].weight)
        again = elsewhere() if elsewhere is not None and due else []
        for group in (fits, again):  # a step apart: the weight may be annealed
            _check_one_weight(group)
        told = [fit for fit in (*fits, *again) if fit.weight is not None]
        if not told:
            return
        weight, allowed = told[0].weight or 0.0, told[0].error
        if stated is not None and abs(weight - stated) > allowed * max(weight, stated):
            raise ValueError(
                f"kl_weight must be the weight of the KL in the loss, {weight:.6g} for its mean "
                f"over this batch; got {stated:.6g}. Leave it out, and it is measured"
            )
        # Compared with the first one, the small changes of a slow schedule add up.
        if abs(weight - self._first.setdefault(rows, weight)) > allowed * weight:
            self._changed, self._first, self._known = self._step, {rows: weight}, {}
        self._known[rows] = weight
        self._proven |= weight > 0 and bool(again)

    def _stated(self) -> float | None:
        if not callable(self.stated):
            return self.stated
        parameters = inspect.signature(self.stated).parameters.values()
        takes_step = any(parameter.default is parameter.empty for parameter in parameters)
        weight = float(self.stated(self._step) if takes_step else self.stated())
        if not 0 <= weight < math.inf:
            raise ValueError(f"kl_weight must return a finite number of at least 0; got {weight}")
        return weight

    def __str__(self) -> str:
        if self.value is None:
            return "a KL whose weight is not known yet"
        rows, dim = self._shape
        known = {
            "no KL": 0.0,
            _MEAN: 1.0,
            f"the KL, summed over the batch of {rows}": rows,
            f"{_MEAN} and over the {dim} dimensions": 1 / dim,
        }
        matches = (text for text, w in known.items() if math.isclose(self.value, w, rel_tol=1e-3))
        return next(matches, f"{self.value:.4g} x {_MEAN}")


def _check_one_weight(fits: Sequence[Fit]) -> None:
    """Refuse weights that are negative, or differ with the KL."""
    told = {fit.kl: fit.weight for fit in fits if fit.weight is not None}
    low, high = min(told.values(), default=0.0), max(told.values(), default=0.0)
    if low < 0 or high - low > 10 * max((fit.error for fit in fits), default=0.0) * high:
        got = ", ".join(f"{weight:.4g} at {kl:.3g} nats" for kl, weight in told.items())
        raise ValueError(
            "the loss must weigh the KL alike whatever it is, and not below 0; got a weight of "
            f"{got}. Free bits, a capacity, a floor or a weight that depends on the KL do that. "
            f"{REMEDY}"
        )
