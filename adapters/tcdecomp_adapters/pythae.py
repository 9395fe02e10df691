"""The adapter of ``pythae``: encode and attach for its VAEs, and a callback that logs the terms."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from pythae import models
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor, nn

from tcdecomp import NoAdapterError, TCDecomposition, hookimpl
from tcdecomp.plugins import Attachment, check_criterion

__all__ = ["TCMonitor", "tcdecomp_attach", "tcdecomp_encode"]

# The models whose loss holds the KL to the standard normal, times this weight.
_KL_WEIGHTS: dict[type, Any] = {
    models.VAE: lambda model: 1.0,
    models.BetaVAE: lambda model: model.beta,
    models.MSSSIM_VAE: lambda model: model.beta,
    models.INFOVAE_MMD: lambda model: 1 - model.alpha,
}

_SAMPLES = "weighs several samples of each item by their importance, so that no KL stands alone"

# The others with a diagonal Gaussian posterior, and why none of them can be attached to.
_REFUSALS: dict[type, str] = {
    models.BetaTCVAE: "weighs the three terms itself; give the weights to a VAE's criterion",
    models.FactorVAE: "has a total-correlation term of its own; a VAE with beta = 1 + gamma has "
    "its objective",
    models.DisentangledBetaVAE: "trains the KL's distance from a capacity, not the KL",
    models.VAMP: "has a mixture as its prior, and the terms need a factorised one",
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
    if _family(model, "encode(batch)", "forward") is None:
        return None
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
    """Add the criterion minus the plain KL to the loss, times the model's weight on its KL.

    pythae's trainers state N, of the training set and of the validation set, so that
    ``dataset_size`` may be left out. A pass in eval mode that states no N, as in ``embed`` or
    ``reconstruct``, has pythae's own loss. In train mode its loss is None if ``dataset_size`` was
    left out.

    Raises
    ------
    NoAdapterError
        If the model's class has a ``forward`` or a ``loss_function`` of its own, and no method
        ``kl_loss``.
    TypeError
        If the model's posterior is not a diagonal Gaussian.
    ValueError
        If the model's loss is not known to contain the KL to the standard normal, times a weight;
        or the criterion has a prior, or does not average over the batch.
    """
    family = _family(model, "kl_loss(z, mu, logvar)", "forward", "loss_function")
    if family is None:
        return None
    if family not in _KL_WEIGHTS:
        raise ValueError(
            "model must have the KL to the standard normal, times a weight, in its loss; got "
            f"{family.__name__}, which {_REFUSALS[family]}"
        )
    check_criterion(criterion, "pythae", prior=False)
    return _LossAttachment(model, family, criterion, dataset_size)


class TCMonitor(TrainingCallback):
    """Adds the terms to what pythae's trainer logs after each epoch, in nats per item.

    The keys are ``train_index_code_mi``, ``train_total_correlation``, ``train_dimension_wise_kl``
    and ``train_kl``, and with a validation set the same with ``eval_``. They are means over the
    epoch's batches, as pythae's own ``train_epoch_loss`` is. Put the monitor before
    ``WandbCallback`` and its like in the trainer's list: a callback sees what those before it have
    added. Each step costs one more evaluation of the terms, without gradients.

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

    A class with a forward or a loss of its own tells what it is by the seam, a method that any
    ``torch.nn.Module`` may have.
    """
    if not isinstance(model, models.BaseAE):
        return None
    kind = type(model)
    family = next(k for k in kind.__mro__ if k.__module__.partition(".")[0] == "pythae")
    own = [name for name in methods if getattr(kind, name, None) is not getattr(family, name, None)]
    if own and callable(getattr(model, seam.partition("(")[0], None)):
        return None
    if own:
        raise NoAdapterError(
            f"model must have a method {seam}, or pythae's own {' and '.join(methods)}; "
            f"{kind.__name__} overrides {' and '.join(own)}, and has no such method"
        )
    known = family in _KL_WEIGHTS or family in _REFUSALS
    if not known or getattr(model, "deterministic_posterior", False):
        raise TypeError(
            "model must be one of those of pythae that are known to have a diagonal Gaussian "
            f"posterior; got {family.__name__}"
        )
    return family


class _LossAttachment(Attachment):
    """An attachment to the loss that also hears which N a call of the model states."""

    def __init__(
        self, model: Any, family: type, criterion: TCDecomposition, dataset_size: int | None
    ) -> None:
        super().__init__(
            model, "loss_function", _loss_function, criterion, dataset_size, stated=True
        )
        self.family = family
        self.names = tuple(inspect.signature(self.original).parameters)
        self.heard: int | None = None
        self._hook = model.register_forward_pre_hook(_hear, with_kwargs=True)

    def detach(self) -> None:
        super().detach()
        self._hook.remove()


def _hear(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    attachment: Any = Attachment.of(model)
    attachment.heard = kwargs.get("dataset_size")


def _loss_function(attachment: _LossAttachment, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    stated, attachment.heard = attachment.heard, None
    model = attachment.model
    loss, *parts = attachment.original(*args, **kwargs)
    if stated is None and not model.training:
        return loss, *parts
    if stated is None and attachment.dataset_size is None:
        return None, *parts
    batch = {**dict(zip(attachment.names, args, strict=False)), **kwargs}
    z, mu, logvar = (batch[name] for name in ("z", "mu", "log_var"))
    try:
        excess = attachment.excess(z, mu, logvar, stated)
    except ValueError as error:
        if len(mu) > 1:
            raise
        raise ValueError(
            f"{error}. pythae's trainers keep the last batch: choose a batch size with which the "
            "items of the set leave no remainder of 1"
        ) from error
    return loss + _KL_WEIGHTS[attachment.family](model) * excess, *parts
