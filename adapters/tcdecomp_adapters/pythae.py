"""The adapter of ``pythae``: encode and attach for its VAEs, and a callback that logs the terms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import torch
from pythae import models
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor, nn

from tcdecomp import TCDecomposition, hookimpl
from tcdecomp.attachment import Attachment, check_criterion

__all__ = ["TCMonitor", "tcdecomp_attach", "tcdecomp_encode"]

# The weight that the KL to the standard normal has in the loss, of a model as it is now.
_KL_WEIGHTS: dict[Any, Callable[[Any], float]] = {
    models.VAE: lambda model: 1.0,
    models.BetaVAE: attrgetter("beta"),
    models.MSSSIM_VAE: attrgetter("beta"),
    models.INFOVAE_MMD: lambda model: 1 - model.alpha,
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
    TypeError
        If the model's posterior is not a diagonal Gaussian; or the batch is neither a tensor nor a
        mapping with a tensor ``"data"``.
    """
    family = _family(model, "forward")
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
    given, it is that of the training set, and the trainer has to agree. A pass in which nobody
    states it, and in eval mode every pass without ``dataset_size=`` in the call, has no loss: it is
    None. These are the passes that are run for something else, ``embed`` or ``reconstruct``.

    Raises
    ------
    TypeError
        If the model's posterior is not a diagonal Gaussian.
    ValueError
        If the KL to the standard normal, times a weight, is not a term of the model's loss, or the
        model has such terms of its own; if the criterion has a prior, or does not average over the
        batch.
    """
    family = _family(model, "forward", "loss_function")
    if family is None:
        return None
    _check_gaussian(family, model)
    if family not in _KL_WEIGHTS:
        raise ValueError(
            "model must have the KL to the standard normal, times a weight, in its loss; got "
            f"{family.__name__}, which {_REFUSALS[family]}"
        )
    check_criterion(criterion, "pythae", prior=False)
    return Attachment(model, "forward", _forward, criterion, dataset_size, stated=True)


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


def _family(model: Any, *methods: str) -> type | None:
    """Return the pythae class whose methods of these names the model has, or None.

    A subclass with a forward or a loss of its own is not pythae's to know: it says itself what it
    is, by the methods that any ``torch.nn.Module`` may have.
    """
    if not isinstance(model, models.BaseAE):
        return None
    kind = type(model)
    family = next(k for k in kind.__mro__ if k.__module__.partition(".")[0] == "pythae")
    own = any(getattr(kind, name, None) is not getattr(family, name, None) for name in methods)
    return None if own else family


def _check_gaussian(family: type, model: Any) -> None:
    known = family in _KL_WEIGHTS or family in _REFUSALS
    if not known or getattr(model, "deterministic_posterior", False):
        raise TypeError(
            "model must be one of those of pythae that are known to have a diagonal Gaussian "
            f"posterior; got {family.__name__}"
        )


def _forward(attachment: Attachment, *args: Any, **kwargs: Any) -> Any:
    size = _size(attachment, kwargs.get("dataset_size"))
    encoded: list[Any] = []
    # The output holds z, but neither mean nor variance; encoding twice would move a BatchNorm.
    hook = attachment.model.encoder.register_forward_hook(lambda *call: encoded.append(call[-1]))
    try:
        output = attachment.original(*args, **kwargs)
    finally:
        hook.remove()
    if size is None:
        output["loss"] = None
    else:
        output["loss"] = output["loss"] + _excess(attachment, output["z"], encoded[-1], size)
    return output


def _excess(attachment: Attachment, z: Tensor, encoded: Any, size: int) -> Tensor:
    weight = _KL_WEIGHTS[_family(attachment.model)](attachment.model)
    return weight * attachment.excess(z, encoded.embedding, encoded.log_covariance, size)


def _size(attachment: Attachment, stated: int | None) -> int | None:
    """Return N of the data that this step's batch was drawn from, or None if nobody states it."""
    given = attachment.dataset_size
    if given is None or not attachment.model.training:
        return stated
    if stated is not None and stated != given:
        raise ValueError(
            "dataset_size must be the number of items of the training set; attach was given "
            f"{given}, and this step says {stated}"
        )
    return given
