"""The adapter of ``lightning``: attach for its modules, a ready VAE, and two callbacks."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule

from tcdecomp import TCDecomposition, hookimpl
from tcdecomp.plugins import Attachment
from tcdecomp_adapters._lightning.monitor import TCMonitorMixin
from tcdecomp_adapters._lightning.schedule import TCScheduleMixin
from tcdecomp_adapters._lightning.step import attach_to_step
from tcdecomp_adapters._lightning.vae import TCVAEMixin

__all__ = ["TCVAE", "TCMonitor", "TCSchedule", "tcdecomp_attach"]


class TCVAE(TCVAEMixin, LightningModule):
    """A VAE with a diagonal Gaussian posterior, trained with the criterion as its KL term.

    It logs ``train/loss``, ``train/reconstruction``, ``val/loss`` and ``val/reconstruction``, in
    nats per item; :class:`TCMonitor` adds the terms. ``val/loss`` is the negative ELBO, whatever
    the criterion's weights are, and its noise is drawn anew from the batch's number, so that a
    validation changes nothing in the training after it. The posterior of the last step is left,
    detached, in ``posterior``.

    ``dataset_size``, ``likelihood`` and ``lr`` are its hyperparameters. A checkpoint is loaded
    with ``TCVAE.load_from_checkpoint(path, encoder=..., decoder=..., criterion=...)``.

    In several processes whose batches differ, the criterion takes them for one batch: each process
    has the others' posteriors among the components of q(z), and the average of their losses is that
    of the whole batch.

    Parameters
    ----------
    encoder : torch.nn.Module
        Takes x, returns (mu, logvar), each of shape (M, D).
    decoder : torch.nn.Module
        Takes z of shape (M, D), returns logits ("bernoulli") or means ("gaussian") of x's shape.
    criterion : TCDecomposition
        With ``reduction="mean"``.
    dataset_size : int
        N, the number of items of the training set.
    likelihood : {"bernoulli", "gaussian"}
        Of x in [0, 1], or of unit variance.
    lr : float
        Learning rate of Adam.

    Raises
    ------
    TypeError, ValueError
        If the criterion, its reduction, the size or the likelihood is none of these; in a step, if
        encoder or decoder return other shapes.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from tcdecomp import TCDecomposition
    >>> from tcdecomp_adapters.lightning import TCVAE
    >>> class Encoder(nn.Linear):
    ...     def forward(self, x):
    ...         return super().forward(x).chunk(2, dim=1)
    >>> vae = TCVAE(Encoder(64, 6), nn.Linear(3, 64), TCDecomposition(beta=6), dataset_size=512)
    >>> vae.encode(torch.rand(8, 64)).z.shape
    torch.Size([8, 3])
    """


class TCMonitor(TCMonitorMixin, Callback):
    """Logs index-code MI, total correlation, dimension-wise KL, the KL and the MIG.

    The keys are ``train/index_code_mi``, ``train/total_correlation``, ``train/dimension_wise_kl``
    and ``train/kl``, the same with ``val/``, all in nats per item, and ``val/mig``; with several
    validation loaders ``val/0/...`` and so on. A module that logs any of these keys itself, a
    ``train/kl`` say, is to name it otherwise: of two values for one key one is lost. Logging
    changes nothing in the training: it runs no second training step and draws from generators of
    its own.

    *Training*: every ``every_n_steps`` steps, the terms of the posterior that the step has left
    in ``self.posterior`` of the module, a :class:`~tcdecomp.Posterior` or a (z, mu, logvar)
    triple; means over the rows of all processes. They reach the loggers when the trainer logs.

    *Validation*: means over the items of all batches, and of all processes, of the posterior that
    ``validation_step`` has left there, or else of what :func:`tcdecomp.encode` makes of the
    batch; z is always drawn anew, so that z = mu in eval mode does no harm. Each batch is to be a
    random part of its set: keep an ordered one shuffled. A batch of one row says nothing about
    q(z) and is left out. Values for training and validation compare only if both sets have as
    many items and the batches as many rows.

    *Brackets*: ``val/total_correlation_low`` and ``val/total_correlation_high``, and so for the
    other two terms, of a validation of two batches or more: between them lies the term, in
    expectation; see :class:`tcdecomp.minibatch.bracket.Bracket`.

    *MIG*: of the posterior means, at the end of a validation whose batches hold factors: a
    mapping's ``"factors"``, or an integer tensor that is second in a pair; not in the sanity
    check. Of these, factors with a single value are left out, with a warning; where ``factors``
    is given, they are an error. Items that a ``DistributedSampler`` repeats, so that all processes
    get equally many, count once in the MIG, and twice in the means of the terms.

    Parameters
    ----------
    criterion : TCDecomposition, optional
        Its estimator and prior are used, its weights are not; by default that of the attachment or
        the module.
    dataset_size : int, optional
        N, the number of items of the training set; default as for ``criterion``.
    every_n_steps : int, optional
        Optimizer steps between logs of the training terms, 0 for none, which needs neither a
        posterior nor a ``dataset_size``; by default the trainer's ``log_every_n_steps``.
    val_dataset_size : int or sequence of int, optional
        Number of items of the validation set, or of each. By default the length of the data set
        of a torch DataLoader that draws without replacement.
    factors : callable, optional
        Takes a batch, returns its factors, of shape (M, K) or (M,), or None.
    seed : int
        Of the noise at validation, the same each time.

    Raises
    ------
    TypeError, ValueError
        If an option is not of its type or out of its range.
    ValueError
        At setup, if ``dataset_size`` or ``criterion`` is found nowhere; at validation, if the
        size of its set is not certain; if terms are due after a step that left no posterior.

    Examples
    --------
    >>> from lightning.pytorch import Trainer
    >>> from tcdecomp_adapters.lightning import TCMonitor
    >>> trainer = Trainer(callbacks=[TCMonitor()], logger=False, accelerator="cpu")
    """


class TCSchedule(TCScheduleMixin, Callback):
    """Sets weights of the criterion before each training step.

    The criterion is that of the attachment or the module's attribute ``criterion``; weights without
    a schedule stay as they are. The step is ``trainer.global_step``, the number of optimizer steps
    so far: batches whose gradients are accumulated have one weight, and a training that resumes
    from a checkpoint goes on where it stopped. (Where several optimizers step by hand, Lightning
    counts the steps of each.)

    Parameters
    ----------
    alpha, beta, gamma : callable, optional
        Schedules: from the step, an int, to the weight; see :mod:`tcdecomp.schedules`.

    Raises
    ------
    TypeError, ValueError
        If there is no schedule, or one is not callable, or has an end, or a value at step 0, that
        the criterion refuses as this weight; at setup, if the module has no criterion.

    Examples
    --------
    >>> from lightning.pytorch import Trainer
    >>> from tcdecomp.schedules import WarmUp
    >>> from tcdecomp_adapters.lightning import TCSchedule
    >>> schedule = TCSchedule(beta=WarmUp(6.0, steps=1000, start=1.0))
    >>> trainer = Trainer(callbacks=[schedule], logger=False, accelerator="cpu")
    """


@hookimpl
def tcdecomp_attach(
    model: Any, criterion: TCDecomposition, dataset_size: int | None
) -> Attachment | None:
    """Add the criterion's excess over the plain KL to the loss of ``training_step``.

    The step is to leave its posterior in ``self.posterior``, with its graph, and to have a KL to
    the criterion's prior, with weight 1, in its loss. In several processes each one's excess is
    that of its own batch, unless the criterion has ``process_group="world"``.
    """
    if not isinstance(model, LightningModule):
        return None
    return attach_to_step(model, criterion, dataset_size)
