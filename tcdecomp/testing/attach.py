"""What an adapter's tcdecomp_attach must hold to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn

from tcdecomp.loss import TCDecomposition
from tcdecomp.plugins import attach
from tcdecomp.terms import Terms
from tcdecomp.testing.require import require
from tcdecomp.testing.state import left_as_it_was

__all__ = ["check_attach"]


def check_attach(model: Any, loss_fn: Callable[[Any], Tensor], dataset_size: SupportsIndex) -> None:
    """Check that an adapter makes ``model`` train with a criterion, and undoes it.

    Weights of 1 change nothing; other weights add :meth:`TCDecomposition.excess
    <tcdecomp.TCDecomposition.excess>` of the step's own posterior, with its graph and N, to the
    loss and to its gradients; a model is not attached twice; ``detach`` gives back what was there.

    Parameters
    ----------
    model : object
        A model that the adapter serves, in whose loss the KL to the standard normal has weight 1.
    loss_fn : callable
        Returns the model's loss of one training step, a scalar in nats per item, on the same
        batch each time.
    dataset_size : int
        N, at least the rows of that batch.

    Raises
    ------
    AssertionError
        If one of these does not hold.
    NoAdapterError
        If no adapter serves the model.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp.testing import check_attach
    >>> class VAE(torch.nn.Linear):
    ...     def kl_loss(self, z, mu, logvar):
    ...         return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1).mean()
    >>> def loss_fn(model):
    ...     mu, logvar = model(torch.eye(5)).chunk(2, dim=1)
    ...     z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
    ...     return model.kl_loss(z, mu, logvar)
    >>> check_attach(VAE(5, 6), loss_fn, 100)
    """
    with left_as_it_was(model):
        plain = _seeded(loss_fn, model)
        gradient = _gradient(plain, model)
        attributes = _attributes(model)
        _check_close(_seeded(loss_fn, model), plain, "loss_fn must give the same loss twice")
        for recorder in _recorders():
            with attach(model, recorder, dataset_size):
                _check_refuses_another(model, dataset_size)
                loss = _seeded(loss_fn, model)
            _check_use(recorder, plain, dataset_size)
            excess = recorder.excess(recorder.terms())
            what = f"the loss with {recorder} must be the plain one and the excess"
            _check_close(loss, plain + excess, what)
            _check_gradient(_gradient(loss - excess, model), gradient, what)
        require(_attributes(model) == attributes, "detach must restore the model's attributes")
        _check_close(_seeded(loss_fn, model), plain, "detach must restore the loss")


class _Recorder(TCDecomposition):
    """A criterion that keeps the last batch that it was asked about."""

    batch: tuple[Any, ...] = ()

    def forward(self, *batch: Any, **options: Any) -> Tensor:
        self.batch = batch
        return super().forward(*batch, **options)

    def decompose(self, *batch: Any, **options: Any) -> Terms:
        self.batch = batch
        return super().decompose(*batch, **options)

    def excess_of(self, *batch: Any, **options: Any) -> Tensor:
        self.batch = batch
        return super().excess_of(*batch, **options)

    def terms(self) -> Terms:
        return super().decompose(*self.batch)


def _recorders() -> tuple[_Recorder, ...]:
    return _Recorder(), _Recorder(alpha=10), _Recorder(beta=100), _Recorder(gamma=10)


def _check_refuses_another(model: Any, dataset_size: SupportsIndex) -> None:
    try:
        attach(model, TCDecomposition(), dataset_size)
    except ValueError:
        return
    raise AssertionError("attach must refuse a model that carries an attachment, by a ValueError")


def _check_use(recorder: _Recorder, plain: Tensor, dataset_size: SupportsIndex) -> None:
    require(bool(recorder.batch), "the loss must use the criterion; it did not")
    z, mu, _, size = recorder.batch
    require(size == dataset_size, f"the criterion must get N = {dataset_size}; got {size}")
    attached = not plain.requires_grad or (z.requires_grad and mu.requires_grad)
    require(attached, "z and mu must reach the criterion with their graph")


def _check_close(got: Tensor, want: Tensor, what: str) -> None:
    # The weights, up to 100, magnify the rounding of a float32 loss.
    close = torch.allclose(got, want, rtol=1e-4, atol=1e-3)
    require(close, f"{what}: expected {want.item():.6g}; got {got.item():.6g}")


def _check_gradient(got: Tensor, want: Tensor, what: str) -> None:
    off = (got - want).norm().item()
    close = off <= 1e-3 * (1 + want.norm().item())
    require(close, f"{what}, in its gradients, too: they are off by {off:.3g}")


def _gradient(loss: Tensor, model: Any) -> Tensor:
    """Return the gradient for all of the model's own parameters, as one vector."""
    owned = model.parameters() if isinstance(model, nn.Module) else ()
    parameters = [parameter for parameter in owned if parameter.requires_grad]
    if not (parameters and loss.requires_grad):
        return torch.zeros(())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def _seeded(loss_fn: Callable[[Any], Tensor], model: Any) -> Tensor:
    torch.manual_seed(0)
    return loss_fn(model)


def _attributes(model: Any) -> set[str]:
    return {*vars(model), *getattr(model, "_modules", ())}
