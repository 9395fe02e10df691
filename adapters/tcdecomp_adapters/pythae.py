"""The adapter of ``pythae``: encode and attach for its VAEs, and a callback that logs the terms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from pythae import models
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor, nn

from tcdecomp import TCDecomposition, hookimpl
from tcdecomp._checks import check_criterion
from tcdecomp.plugins import Attachment, NoAdapterError

__all__ = ["TCMonitor", "tcdecomp_attach", "tcdecomp_encode"]


def _batch(recon_x: Any, x: Any, mu: Tensor, log_var: Tensor, z: Tensor) -> tuple[Tensor, ...]:
    return z, mu, log_var


def _infovae_batch(
    recon_x: Any, x: Any, z: Tensor, z_prior: Any, mu: Tensor, log_var: Tensor
) -> tuple[Tensor, ...]:
    return z, mu, log_var


class _Loss(NamedTuple):
    """The weight of the KL in the loss of a model as it is now, and (z, mu, logvar) of a call."""

    kl_weight: Callable[[Any], float]
    batch: Callable[..., tuple[Tensor, ...]] = _batch


# The models whose loss holds the KL to the standard normal, times a weight.
_LOSSES: dict[type, _Loss] = {
    models.VAE: _Loss(lambda model: 1.0),
    models.BetaVAE: _Loss(lambda model: model.beta),
    models.MSSSIM_VAE: _Loss(lambda model: model.beta),
    models.INFOVAE_MMD: _Loss(lambda model: 1 - model.alpha, _infovae_batch),
}

_SAMPLES = "weighs several samples of each item by their importance, so that no KL stands alone"

# The others with a diagonal Gaussian posterior, and why none of them can be attached to.
_REFUSALS: dict[type, str] = {
    models.BetaTCVAE: "weighs the three terms itself; give the weights to a VAE's criterion",
    models.FactorVAE: "has a total-correlation term of its own; a VAE with beta = 1 + gamma has "
    "its objective",
    models.DisentangledBetaVAE: "trains the KL's distance from a capacity, not the KL",
    models.VAMP: "has a mixture as its prior, and the terms are those of a factorised one",
    models.VAEGAN: "trains encoder and decoder with losses of their own",
    models.Adversarial_AE: "has no KL",
    models.IWAE: _SAMPLES,
    models.CIWAE: _SAMPLES,
    models.MIWAE: _SAMPLES,
    models.PIWAE: _SAMPLES,
}


@hookimpl
def tcdecomp_encode(model: Any, batch: Any) -> tuple[Tensor, Tensor] | None:
    """Return mean and log-variance of a batch of pythae's data sets, or of a tensor of data.

    Raises
    ------
    NoAdapterError
        If the model's class has a ``forward`` of its own, and no method ``encode``.
    TypeError
        If the model's posterior is not a diagonal Gaussian; or the batch is neither a tensor nor a
        mapping with a tensor ``"data"``.
    """
    family = _family(model, "encode(batch)", "forward")
    if family is None:
        return None
    _check_gaussian(family, model)
    data = batch.get("data") if isinstance(batch, Mapping) else batch
    if not isinstance(data, Tensor):
        raise TypeError(
            "batch must be a Tensor of data, or a mapping with a Tensor 'data', as pythae's data "
            f"sets yield it; got {type(batch).__name__}"
        )
    encoded = model.encoder(data)
    return encoded.embedding, encoded.log_covariance


@hookimpl
def tcdecomp_attach(
    model: Any, criterion: TCDecomposition, dataset_size: int | None
) -> Attachment | None:
    """Add the criterion's excess over the plain KL to the loss, times the model's weight on its KL.

    pythae's trainers state N, each set's own, so that ``dataset_size`` may be left out. Where it is
    given, it is that of the training set, and the trainer has to agree. In eval mode only a call
    with ``dataset_size=`` states it. A pass without is run for something else, ``embed`` or
    ``reconstruct``: its loss is pythae's own in eval mode, and None in train mode, where that would
    be the wrong one.

    Raises
    ------
    NoAdapterError
        If the model's class has a ``forward`` or a ``loss_function`` of its own, and no method
        ``kl_loss``.
    TypeError
        If the model's posterior is not a diagonal Gaussian.
    ValueError
        If the KL to the standard normal, times a weight, is not a term of the model's loss, or the
        model has such terms of its own; if the criterion has a prior, or does not average over the
        batch.
    """
    family = _family(model, "kl_loss(z, mu, logvar)", "forward", "loss_function")
    if family is None:
        return None
    _check_gaussian(family, model)
    if family not in _LOSSES:
        raise ValueError(
            "model must have the KL to the standard normal, times a weight, in its loss; got "
            f"{family.__name__}, which {_REFUSALS[family]}"
        )
    check_criterion(criterion, "pythae", prior=False)
    return _LossAttachment(model, family, criterion, dataset_size)


class TCMonitor(TrainingCallback):
    """Adds the terms to what pythae's trainer logs after each epoch, in nats per item.

    The keys are ``train_index_code_mi``, ``train_total_correlation``, ``train_dimension_wise_kl``
    and ``train_kl``, and with a validation set the same with ``eval_``: means over the epoch's
    batches, as pythae's own ``train_epoch_loss`` is. The callbacks after it in the trainer's list
    see them, so it goes before ``WandbCallback`` and its like. Each step costs one more evaluation
    of the terms, without gradients.

    Raises
    ------
    ValueError
        In training, if the model carries no attachment.

    Examples
    --------
    >>> from pythae.trainers.training_callbacks import TrainHistoryCallback
    >>> from tcdecomp_adapters.pythae import TCMonitor
    >>> callbacks = [TCMonitor(), TrainHistoryCallback()]
    """

    def __init__(self) -> None:
        self._values: defaultdict[str, list[Tensor]] = defaultdict(list)

    def on_train_begin(self, training_config: Any, **kwargs: Any) -> None:
        """Refuse a model without an attachment before it is trained."""
        _attachment(kwargs["model"])
        self._values.clear()

    def on_train_step_end(self, training_config: Any, **kwargs: Any) -> None:
        """Take the terms of a training batch."""
        self._take("train", kwargs["model"])

    def on_eval_step_end(self, training_config: Any, **kwargs: Any) -> None:
        """Take the terms of a validation batch."""
        self._take("eval", kwargs["model"])

    def on_log(self, training_config: Any, logs: Any, **kwargs: Any) -> None:
        """Add the means to ``logs``, and start anew."""
        logs.update({name: torch.stack(v).mean().item() for name, v in self._values.items()})
        self._values.clear()

    def _take(self, stage: str, model: Any) -> None:
        terms = _attachment(model).terms()
        values = {} if terms is None else terms._asdict()
        for name, value in values.items():
            if value is not None:  # as the kl of a criterion that samples it
                self._values[f"{stage}_{name}"].append(value)


def _attachment(model: Any) -> Attachment:
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    attachment = Attachment.of(model)
    if attachment is None:
        raise ValueError(
            "TCMonitor must be used with a model that carries an attachment; the trainer's "
            f"{type(model).__name__} has none: call tcdecomp.attach(model, criterion) first"
        )
    return attachment


def _family(model: Any, seam: str, *methods: str) -> type | None:
    """Return the pythae class whose methods of these names the model has, or None.

    A subclass with a forward or a loss of its own is not pythae's to know: it says itself what it
    is, by the seam, a method that any ``torch.nn.Module`` may have.
    """
    if not isinstance(model, models.BaseAE):
        return None
    kind = type(model)
    family = next(k for k in kind.__mro__ if k.__module__.partition(".")[0] == "pythae")
    own = [name for name in methods if getattr(kind, name, None) is not getattr(family, name, None)]
    if not own:
        return family
    if callable(getattr(model, seam.partition("(")[0], None)):
        return None
    raise NoAdapterError(
        f"model must have a method {seam}, or pythae's own {' and '.join(methods)}; "
        f"{kind.__name__} overrides {' and '.join(own)}, and has no such method"
    )


def _check_gaussian(family: type, model: Any) -> None:
    known = family in _LOSSES or family in _REFUSALS
    if not known or getattr(model, "deterministic_posterior", False):
        raise TypeError(
            "model must be one of those of pythae that are known to have a diagonal Gaussian "
            f"posterior; got {family.__name__}"
        )


class _LossAttachment(Attachment):
    """An attachment to the loss, which also hears the N that the call of the model states."""

    def __init__(
        self, model: Any, family: type, criterion: TCDecomposition, dataset_size: int | None
    ) -> None:
        super().__init__(
            model, "loss_function", _loss_function, criterion, dataset_size, stated=True
        )
        self.family = family
        self.heard: int | None = None
        self._hook = model.register_forward_pre_hook(_hear, with_kwargs=True)

    def detach(self) -> None:
        super().detach()
        self._hook.remove()

    def size(self) -> int | None:
        """Return N of the data that this call's batch was drawn from, or None if nobody says it."""
        stated, self.heard = self.heard, None
        given = self.dataset_size
        if given is None or not self.model.training:
            return stated
        if stated is not None and stated != given:
            raise ValueError(
                "dataset_size must be the number of items of the training set; attach was given "
                f"{given}, and this step says {stated}"
            )
        return given


def _hear(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    attachment: Any = Attachment.of(model)
    attachment.heard = kwargs.get("dataset_size")


def _loss_function(attachment: _LossAttachment, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    size, model = attachment.size(), attachment.model
    loss, *parts = attachment.original(*args, **kwargs)
    if size is None:
        return None if model.training else loss, *parts
    kl_weight, batch = _LOSSES[attachment.family]
    z, mu, logvar = batch(*args, **kwargs)
    return loss + kl_weight(model) * _excess(attachment, z, mu, logvar, size), *parts


def _excess(attachment: Attachment, z: Tensor, mu: Tensor, logvar: Tensor, size: int) -> Tensor:
    try:
        return attachment.excess(z, mu, logvar, size)
    except ValueError as error:
        if len(z) == 1:
            error.add_note(
                "pythae's trainers keep the last batch: choose a batch size with which the items "
                "of the set leave no remainder of 1"
            )
        raise
