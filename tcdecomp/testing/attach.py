"""What an adapter's tcdecomp_attach must hold to."""

from __future__ import annotations

import math
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from tcdecomp.loss import TCDecomposition
from tcdecomp.plugins.attachment import Attachment
from tcdecomp.plugins.models import attach
from tcdecomp.posterior import Posterior
from tcdecomp.terms import Terms
from tcdecomp.testing.copies import check_copies, copiers
from tcdecomp.testing.noise import check_noise
from tcdecomp.testing.recorder import Asked, Recorder
from tcdecomp.testing.require import require
from tcdecomp.testing.state import left_as_it_was, modules_of
from tcdecomp.testing.step import LossFn, check_close, gradient_of, loss_of

__all__ = ["check_attach"]


def check_attach(
    model: Any,
    loss_fn: LossFn,
    dataset_size: SupportsIndex,
    *,
    kl_weight: float = 1.0,
    stated: bool = False,
) -> None:
    """Check that an adapter makes ``model`` train with a criterion, and undoes it.

    Weights of 1 change nothing, to the rounding of float32; others add
    :meth:`TCDecomposition.excess <tcdecomp.TCDecomposition.excess>` of the step's own posterior,
    with its graph and N, times ``kl_weight``, to the loss and to its gradients. The graph of
    ``logvar`` is that by which it moves z. In that posterior (z - mu) / exp(logvar / 2)
    is standard normal. The handle's ``terms()`` are the step's. A model is not attached to twice,
    and ``detach`` gives back what was there. If the model after a plain step can be deep-copied,
    or pickled, it still can be when attached to: the copy trains with a criterion of its own.

    Parameters
    ----------
    model : object
        A model that the adapter serves, in the mode in which it is trained.
    loss_fn : callable
        Returns the loss of one training step of the model that it is given, a scalar, on the same
        batch each time.
    dataset_size : int
        N that the criterion is to get, at least the rows of that batch.
    kl_weight : float
        What the loss multiplies the KL by, in nats per item, summed over dimensions: beta in a
        beta-VAE, the rows of the batch in a loss that is summed over them.
    stated : bool
        Whether the framework states N in each step. The model is then attached to without it.

    Raises
    ------
    AssertionError
        If one of these does not hold.
    NoAdapterError
        If no adapter serves the model.
    ValueError
        If ``kl_weight`` is not a finite number above 0.

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
    if not 0 < kl_weight < math.inf:
        raise ValueError(f"kl_weight must be finite and above 0; got {kl_weight}")
    given = None if stated else dataset_size
    with left_as_it_was(model):
        plain = loss_of(loss_fn, model)
        gradient = gradient_of(plain, model)
        attributes, ways = _attributes(model), copiers(model)
        check_close(loss_of(loss_fn, model), plain, "loss_fn must give the same loss twice")
        for recorder in _recorders():
            with attach(model, recorder, given) as handle:
                _check_refuses_another(model, given)
                loss = loss_of(loss_fn, model)
                asked = recorder.taken()
                _check_use(asked, plain, dataset_size)
                terms = recorder.terms_of(asked)
                _check_terms(handle, terms)
            excess = kl_weight * recorder.excess(terms)
            what = (
                f"the loss with {recorder} must be the plain one and {kl_weight} times the excess"
            )
            _check_sum(loss, plain, excess, what, kl_weight)
            added = gradient_of(excess, model)
            _check_sum(gradient_of(loss, model), gradient, added, what, kl_weight)
            check_close(loss_of(loss_fn, model), plain, "detach must restore the loss")
        recorder = Recorder(beta=100)
        with attach(model, recorder, given):
            check_noise(lambda: _step(loss_fn, model, recorder))
            _check_graph(_step(loss_fn, model, recorder), model)
            check_copies(ways, model, recorder, loss_fn, plain)
        require(_attributes(model) == attributes, "detach must restore the model's attributes")


def _recorders() -> tuple[Recorder, ...]:
    return Recorder(), Recorder(alpha=10), Recorder(beta=100), Recorder(gamma=10)


def _check_refuses_another(model: Any, dataset_size: SupportsIndex | None) -> None:
    try:
        attach(model, TCDecomposition(), dataset_size)
    except ValueError:
        return
    raise AssertionError("attach must refuse a model that carries an attachment, by a ValueError")


def _check_use(asked: Asked, plain: Tensor, dataset_size: SupportsIndex) -> None:
    (z, mu), size = (asked.posterior.z, asked.posterior.mu), asked.dataset_size
    require(size == dataset_size, f"the criterion must get N = {dataset_size}; got {size}")
    attached = not plain.requires_grad or (z.requires_grad and mu.requires_grad)
    require(attached, "z and mu must reach the criterion with their graph")


def _check_graph(posterior: Posterior, model: Any) -> None:
    """Check that logvar moves what it moves in z: d(z - mu)^2 = (z - mu)^2 dlogvar."""
    square = (posterior.z - posterior.mu).square()
    want = gradient_of(square.sum(), model)
    got = gradient_of((square.detach() * posterior.logvar).sum(), model)
    what = "logvar must reach the criterion with its graph, that by which it moves z"
    check_close(got, want, what, slack=0.01 * want.norm().item())


def _check_terms(handle: Attachment, want: Terms) -> None:
    got = handle.terms()
    same = got is not None and torch.allclose(_vector(got), _vector(want), 1e-4, 1e-4)
    require(same, "the handle's terms() must be those of the step: use its loss() or excess()")


def _vector(terms: Terms) -> Tensor:
    return torch.stack([term for term in terms if term is not None])


def _check_sum(got: Tensor, plain: Tensor, added: Tensor, what: str, kl_weight: float) -> None:
    # Weights of up to 100 magnify the rounding of float32; those of 1 add nothing.
    slack = 1e-3 * (kl_weight + added.norm().item()) if added.any() else 0.0
    check_close(got, plain + added, what, slack)


def _step(loss_fn: LossFn, model: Any, recorder: Recorder) -> Posterior:
    loss_fn(model)
    return recorder.taken().posterior


def _attributes(model: Any) -> set[str]:
    return {*vars(model), *modules_of(model)}
