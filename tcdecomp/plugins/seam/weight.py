r"""The weight that a loss gives to its KL, measured.

With the gradient stopped at the layers behind z, all that is left in a loss is its KL:

.. math:: \frac{dL}{d\mu} = w \frac{\mu}{M}, \qquad
          \frac{dL}{d \log\mathrm{var}} = w \frac{\exp(\log\mathrm{var}) - 1}{2 M},

for M rows and the standard normal prior: 2 M D equations with one unknown. A least-squares fit
gives w, and a residual that shows whether the loss holds the KL at all.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from tcdecomp.loss import TCDecomposition
from tcdecomp.minibatch.options import KL
from tcdecomp.plugins.seam.evidence import tolerance
from tcdecomp.plugins.seam.reading import Reading, gradients, stopped
from tcdecomp.posterior import Posterior
from tcdecomp.priors import Prior

__all__ = ["Fit", "KLWeight", "fit"]

FULL, QUICK = 100, 10  # steps from one measurement to the next
_MEAN = "the KL, mean over the batch"
_REMEDY = "Write criterion(z, mu, logvar, dataset_size) in place of the KL then"


class _NoPathError(ValueError):
    """The loss was not computed from the moments, as far as its graph shows."""

    def __init__(self) -> None:
        super().__init__("the loss must be computed from the moments; its graph leads to none")


class Fit(NamedTuple):
    """What a loss shows in one run: its KL in nats per item, the weight, and its relative error.

    The weight is None where the gradient of the KL is too small to tell.
    """

    kl: float
    weight: float | None
    error: float


def fit(
    loss: Tensor,
    reading: Reading,
    columns: Tensor | None,
    criterion: TCDecomposition,
) -> Fit:
    """Measure by how much a loss weighs the KL of a batch, in nats per item.

    That is a backward through the layers behind z. The graph is kept. A tensor of the reading that
    the loss was not computed from is left out.

    Raises
    ------
    ValueError
        If the rest of the loss, other than what the layers behind z make of z, is no multiple of
        the criterion's KL.
    """
    pulls = _stopped_gradients(loss, reading)
    used = [index for index, pull in enumerate(pulls) if pull is not None]
    if not used:
        raise _NoPathError
    found = _joined([pull for pull in pulls if pull is not None])
    if not found.isfinite().all():
        raise ValueError("the loss must have a finite gradient; got one that is not")
    want = _kl_gradient(reading, columns, criterion.prior, criterion.kl)
    gradient = _joined([want.gradients[index] for index in used])
    weight, residual = _least_squares(found, gradient)
    error, size = tolerance(*reading.tensors), found.norm().item()
    rounding = max(torch.finfo(tensor.dtype).eps for tensor in reading.tensors)
    noise = 4 * rounding * abs(weight) * want.before_cancelling
    if residual > error * size + noise:
        other = _kl_gradient(reading, columns, criterion.prior, "sampled").gradients
        sampled = _joined([other[index] for index in used])
        _refuse(residual / size, _least_squares(found, sampled)[1] <= error * size)
    # The noise in so many equations, relative to the weight.
    blur = noise / (math.sqrt(found.numel()) * gradient.norm().item() or 1)
    told = bool(gradient.any()) and blur <= error * abs(weight)
    return Fit(want.kl, weight if told else None, error)


def _least_squares(found: Tensor, want: Tensor) -> tuple[float, float]:
    """Return the factor from ``want`` to ``found``, 0 if there is none, and the residual."""
    factor = (found @ want / (want @ want)).nan_to_num(0)
    return factor.item(), (found - factor * want).norm().item()


def _stopped_gradients(loss: Tensor, reading: Reading) -> tuple[Tensor | None, ...]:
    """Return the gradients for the moments, without what passes the layers behind z."""
    retained = [(tensor, tensor.grad) for tensor in reading.tensors if tensor.retains_grad]
    try:
        with stopped(reading.gates):
            return torch.autograd.grad(loss, reading.tensors, retain_graph=True, allow_unused=True)
    finally:
        for tensor, grad in retained:
            tensor.grad = grad


class _KLGradient(NamedTuple):
    """The KL in nats per item, and its gradients for what the layers gave, in float64.

    The last is the size of these before exp(logvar) and 1 cancel: rounding goes with it.
    """

    kl: float
    gradients: tuple[Tensor, ...]
    before_cancelling: float


def _kl_gradient(reading: Reading, columns: Tensor | None, prior: Prior, kind: KL) -> _KLGradient:
    leaves = tuple(tensor.detach().double().requires_grad_() for tensor in reading.tensors)
    doubled = reading._replace(tensors=leaves, taken=reading.taken.detach().double())
    with torch.enable_grad():
        batch = doubled.posterior(columns)
        spread = (0.5 * batch.logvar).exp()
        noise = ((batch.z - batch.mu) / spread).detach()
        plain = TCDecomposition(kl=kind, prior=prior, validate=False)
        kl = plain(batch.mu + spread * noise, batch.mu, batch.logvar, len(noise))
        size = (1 + spread.square()).detach() / (2 * len(noise))
        sizes = _joined(gradients(batch.logvar, leaves, size))
        return _KLGradient(kl.item(), gradients(kl, leaves), sizes.norm().item())


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def _refuse(off: float, fits_sample: bool) -> NoReturn:
    reasons = (
        "It is a KL estimated from the sample z: TCDecomposition(kl='sampled')"
        if fits_sample
        else "Usual reasons: a total-correlation or MMD term, a discriminator or a classifier that "
        "takes z or mu, a floor for each dimension, or another prior, which the criterion has to "
        f"be given. {_REMEDY}"
    )
    raise ValueError(
        "the loss must hold a multiple of the criterion's KL, and nothing else of the posterior "
        f"but what the layers behind z make of it; {off:.1%} of its gradient is something else. "
        f"{reasons}"
    )


class KLWeight:
    """The weight of the KL in a model's loss, measured again from time to time.

    The loss is asked as it is, by a backward through the layers behind z, in the first ten steps,
    at every tenth, within ten steps of a change of the weight, for the first batch of a size, and
    as long as the weight is 0. At the first step and at every hundredth, the model also runs
    three more times, with this KL, a smaller and a larger one, if it can be run again. While the
    weight is constant, all this takes less than a twentieth of the time of training.

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
        self._known: dict[int, float] = {}  # by the rows of the batch
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
        reading = Reading((mu, logvar), 1, "logvar", z, (z,))
        shape = mu.shape[0], mu.shape[1]
        try:
            return self.measured(shape, lambda: fit(loss, reading, None, criterion), None)
        except _NoPathError:
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

        Parameters
        ----------
        shape : (int, int)
            M and D of this batch.
        here, elsewhere : callable
            Measure this loss; and that of further runs, if there can be any.

        Raises
        ------
        ValueError
            If the weight is negative, differs with the KL, or is not the stated one.
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
                f"{what if self.value is None else 'the loss holds no KL'} in this step: the "
                "criterion adds nothing until it is. Is the KL in another loss than this one?",
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
        if abs(weight - self._known.get(rows, weight)) > allowed * weight:
            self._changed = self._step
        self._known[rows] = weight
        self._proven |= weight > 0 and bool(again)

    def _stated(self) -> float | None:
        if not callable(self.stated):
            return self.stated
        parameters = inspect.signature(self.stated).parameters.values()
        takes_step = any(parameter.default is parameter.empty for parameter in parameters)
        return float(self.stated(self._step) if takes_step else self.stated())

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
            f"{_REMEDY}"
        )
