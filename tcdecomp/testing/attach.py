"""The contract of an adapter's tcdecomp_attach."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from tcdecomp.loss import TCDecomposition
from tcdecomp.minibatch.batch import Batch
from tcdecomp.plugins.attachment import Attachment
from tcdecomp.plugins.models import attach
from tcdecomp.posterior import Posterior
from tcdecomp.terms import Terms
from tcdecomp.testing.encode import check_noise
from tcdecomp.testing.model import (
    LossFn,
    check_close,
    gradient_of,
    left_as_it_was,
    loss_of,
    module_of,
    require,
)

__all__ = ["check_attach", "copiers"]


def check_attach(
    model: Any,
    loss_fn: LossFn,
    dataset_size: SupportsIndex,
    *,
    kl_weight: float = 1.0,
    stated: bool = False,
) -> None:
    """Check that an adapter makes ``model`` train with a criterion, and undoes it.

    With weights of 1 the loss must not change, up to the rounding of float32. With other weights
    the adapter must add :meth:`TCDecomposition.excess <tcdecomp.TCDecomposition.excess>`, times
    ``kl_weight``, to the loss and to its gradients. The criterion must get the posterior of the
    step itself, with its graph, and N. In this posterior (z - mu) / exp(logvar / 2) must be
    standard normal, and ``logvar`` must have the graph through which it moves z. The handle's
    ``terms()`` must be those of the step. A second attach must be refused. ``detach`` must restore
    the model. If the plain model can be deep-copied or pickled, then the attached model can be,
    too, and its copy trains with a criterion of its own.

    Parameters
    ----------
    model : object
        A model that the adapter serves, in the mode in which it is trained.
    loss_fn : callable
        Runs one training step of the model that it is given, on the same batch each time, and
        returns the loss, a scalar.
    dataset_size : int
        The N that the criterion must get: at least the number of rows of that batch.
    kl_weight : float
        The factor of the KL in the loss, where the KL is in nats per item, summed over dimensions.
        It is beta in a beta-VAE, and the number of rows in a loss that is summed over the batch.
    stated : bool
        Whether the framework states N in each step. The model is then attached to without N.

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
        for recorder in (Recorder(), Recorder(alpha=10), Recorder(beta=100), Recorder(gamma=10)):
            with attach(model, recorder, given) as handle:
                _check_refuses_another(model, given)
                loss = loss_of(loss_fn, model)
                terms = _check_use(recorder, handle, plain, dataset_size)
            excess = kl_weight * recorder.excess(terms)
            what = f"with {recorder} must be the plain one and {kl_weight} times the excess"
            _check_sum(loss, plain, excess, what, kl_weight)
            added = gradient_of(excess, model)
            _check_sum(gradient_of(loss, model), gradient, added, what, kl_weight)
            check_close(loss_of(loss_fn, model), plain, "detach must restore the loss")
        recorder = Recorder(beta=100)
        with attach(model, recorder, given):
            check_noise(lambda: _step(loss_fn, model, recorder))
            _check_graph(_step(loss_fn, model, recorder), model)
            _check_copies(ways, model, recorder, loss_fn, plain)
        require(_attributes(model) == attributes, "detach must restore the model's attributes")


class Recorder(TCDecomposition):
    """A criterion that keeps the last batch that it was asked about, until it is taken."""

    asked: tuple[Any, ...] | None = None

    def _batch(self, *batch: Any, **options: Any) -> Batch:
        self.asked = batch
        return super()._batch(*batch, **options)

    def taken(self) -> tuple[Posterior, Any, Terms]:
        """Return the posterior, N and terms of that batch, and forget them."""
        asked, self.asked = self.asked, None
        if asked is None:
            raise AssertionError("the loss must use the criterion; it did not")
        z, mu, logvar, dataset_size, *_ = asked
        return Posterior(z, mu, logvar), dataset_size, super()._batch(*asked).terms()


def _check_refuses_another(model: Any, dataset_size: SupportsIndex | None) -> None:
    try:
        attach(model, TCDecomposition(), dataset_size)
    except ValueError:
        return
    raise AssertionError("attach must refuse a model that carries an attachment, by a ValueError")


def _check_use(
    recorder: Recorder, handle: Attachment, plain: Tensor, dataset_size: SupportsIndex
) -> Terms:
    """Check what the criterion got in a step, and return the terms of it."""
    (z, mu, _), size, terms = recorder.taken()
    require(size == dataset_size, f"the criterion must get N = {dataset_size}; got {size}")
    attached = not plain.requires_grad or (z.requires_grad and mu.requires_grad)
    require(attached, "z and mu must reach the criterion with their graph")
    got = handle.terms()
    same = got is not None and torch.allclose(_vector(got), _vector(terms), 1e-4, 1e-4)
    require(same, "the handle's terms() must be those of the step: use its loss() or excess()")
    return terms


def _vector(terms: Terms) -> Tensor:
    return torch.stack([term for term in terms if term is not None])


def _check_sum(got: Tensor, plain: Tensor, added: Tensor, what: str, kl_weight: float) -> None:
    # Weights of up to 100 magnify the rounding of float32. Weights of 1 add nothing.
    slack = 1e-3 * (kl_weight + added.norm().item()) if added.any() else 0.0
    check_close(got, plain + added, f"the loss {what}", slack)


def _step(loss_fn: LossFn, model: Any, recorder: Recorder) -> Posterior:
    loss_fn(model)
    return recorder.taken()[0]


def _check_graph(posterior: Posterior, model: Any) -> None:
    """Check that logvar moves what it moves in z: d(z - mu)^2 = (z - mu)^2 dlogvar."""
    square = (posterior.z - posterior.mu).square()
    want = gradient_of(square.sum(), model)
    got = gradient_of((square.detach() * posterior.logvar).sum(), model)
    what = "logvar must reach the criterion with its graph, that by which it moves z"
    check_close(got, want, what, slack=0.01 * want.norm().item())


def _attributes(model: Any) -> set[str]:
    return {*vars(model), *dict(module_of(model).named_modules())}


def copiers(model: Any) -> dict[str, Callable[[Any], Any]]:
    """Return the ways, deep copy and pickle, in which the model as it is can be copied."""
    ways: dict[str, Callable[[Any], Any]] = {
        "deep": copy.deepcopy,
        "pickled": lambda model: pickle.loads(pickle.dumps(model)),
    }
    for name, copied in list(ways.items()):
        try:
            copied(model)
        except Exception:  # of any part of the model
            del ways[name]
    return ways


def _check_copies(
    ways: dict[str, Callable[[Any], Any]],
    model: Any,
    recorder: Recorder,
    loss_fn: LossFn,
    plain: Tensor,
) -> None:
    """Check that copies of an attached model train by themselves, and detach to its plain loss."""
    loss = loss_of(loss_fn, model)
    gradient = gradient_of(loss, model)
    for name, copied in ways.items():
        what = f"a {name} copy of an attached model"
        recorder.taken()  # a copy cannot take its graph along
        try:
            other = copied(model)
        except Exception as error:
            message = f"{what} must be possible, as it is of the plain one: {error}"
            raise AssertionError(message) from error
        parts = (other, *vars(other).values(), *module_of(other).modules())
        own = next(filter(None, map(Attachment.of, parts)), None)
        if own is None:
            raise AssertionError(f"{what} must carry an attachment of its own; it carries none")
        copy_loss = loss_of(loss_fn, other)
        require(recorder.asked is None, f"{what} must use its own criterion, not the original's")
        same = f"the loss of {what} must be that of the original"
        check_close(copy_loss, loss, same)
        check_close(gradient_of(copy_loss, other), gradient, same)
        own.detach()
        check_close(loss_of(loss_fn, other), plain, f"detach must restore the loss of {what}")
        loss_of(loss_fn, model)
