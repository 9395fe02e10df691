r"""Fitting the weight that a loss gives to its KL, by one backward.

With the gradient stopped at the layers behind z, all that is left in a loss is its KL:

.. math:: \frac{dL}{d\mu} = w \frac{\mu}{M}, \qquad
          \frac{dL}{d \log\mathrm{var}} = w \frac{\exp(\log\mathrm{var}) - 1}{2 M},

for M rows and the standard normal prior: 2 M D equations with one unknown. A least-squares fit
gives w, and a residual that shows whether the loss holds the KL at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from tcdecomp.loss import TCDecomposition
from tcdecomp.minibatch.options import KL
from tcdecomp.plugins.seam.evidence import tolerance
from tcdecomp.plugins.seam.reading import Reading, gradients, stopped
from tcdecomp.priors import Prior

__all__ = ["REMEDY", "Fit", "NoPathError", "fit"]

REMEDY = "Write criterion(z, mu, logvar, dataset_size) in place of the KL then"


class NoPathError(ValueError):
    """The loss was not computed from the moments, as far as its graph shows."""

    def __init__(self) -> None:
        super().__init__(
            "the loss must be computed from the moments; its graph leads to none. Hand over the "
            "loss of this step, and do not detach the moments"
        )


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
        raise NoPathError
    found = _joined([pull for pull in pulls if pull is not None])
    if not found.isfinite().all():
        raise ValueError(
            "the loss must have a finite gradient for the moments; got infinity or NaN. "
            "torch.autograd.set_detect_anomaly(True) shows where it arises"
        )
    want = _kl_gradient(reading, columns, criterion.prior, criterion.kl)
    gradient = _joined([want.gradients[index] for index in used])
    weight, residual = _least_squares(found, gradient)
    error, size = tolerance(*reading.tensors), found.norm().item()
    rounding = max(torch.finfo(tensor.dtype).eps for tensor in reading.tensors)
    noise = 4 * rounding * abs(weight) * want.before_cancelling
    if residual > error * size + noise:
        kind: KL = "sampled" if criterion.kl == "closed" else "closed"
        fits = False
        if kind == "sampled" or criterion.prior is None:  # else there may be no closed form
            other = _kl_gradient(reading, columns, criterion.prior, kind).gradients
            fits = _least_squares(found, _joined([other[i] for i in used]))[1] <= error * size
        _refuse(residual / size, kind if fits else None)
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
    trained = [tensor for tensor in reading.tensors if tensor.requires_grad]
    if not trained:
        raise NoPathError
    retained = [(tensor, tensor.grad) for tensor in trained if tensor.retains_grad]
    try:
        with stopped(reading.gates):
            pulls = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
    finally:
        for tensor, grad in retained:
            tensor.grad = grad
    by_id = dict(zip(map(id, trained), pulls, strict=True))
    return tuple(by_id.get(id(tensor)) for tensor in reading.tensors)


class _KLGradient(NamedTuple):
    """The KL in nats per item, and its gradients for what the layers gave, in float64.

    The last is the size of these before exp(logvar) and 1 cancel: rounding goes with it.
    """

    kl: float
    gradients: tuple[Tensor, ...]
    before_cancelling: float


def _kl_gradient(reading: Reading, columns: Tensor | None, prior: Prior, kind: KL) -> _KLGradient:
    """Differentiate the KL. A KL of the sample moves with z, unless z itself is stopped."""
    held = reading.stopped_z
    leaves = tuple(tensor.detach().double().requires_grad_() for tensor in reading.tensors)
    doubled = reading._replace(tensors=leaves, taken=reading.taken.detach().double())
    with torch.enable_grad():
        batch = doubled.posterior(columns)
        spread = (0.5 * batch.logvar).exp()
        noise = ((batch.z - batch.mu) / spread).detach()
        plain = TCDecomposition(kl=kind, prior=prior, validate=False)
        z = batch.mu + spread * noise if held is None else held.detach().double()
        kl = plain(z, batch.mu, batch.logvar, len(noise))
        size = (1 + spread.square()).detach() / (2 * len(noise))
        sizes = _joined(gradients(batch.logvar, leaves, size))
        return _KLGradient(kl.item(), gradients(kl, leaves), sizes.norm().item())


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def _refuse(off: float, fitting: KL | None) -> NoReturn:
    reasons = {
        "sampled": "It is a KL estimated from the sample z: TCDecomposition(kl='sampled')",
        "closed": "It is a KL in closed form: TCDecomposition(kl='closed')",
        None: "Usual reasons: a total-correlation or MMD term, a discriminator or a classifier "
        "that takes z or mu, a floor for each dimension, or another prior, which the criterion "
        f"has to be given. {REMEDY}",
    }
    raise ValueError(
        "the loss must hold a multiple of the criterion's KL, and nothing else of the posterior "
        f"but what the layers behind z make of it; {off:.1%} of its gradient is something else. "
        f"{reasons[fitting]}"
    )
