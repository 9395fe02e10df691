"""The adapter of ``lightning``: attach for its modules, a ready VAE, and two callbacks."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule

from tcdecomp_adapters._lightning.monitor import TCMonitorMixin
from tcdecomp_adapters._lightning.schedule import TCScheduleMixin
from tcdecomp_adapters._lightning.step import tcdecomp_attach
from tcdecomp_adapters._lightning.vae import TCVAEMixin

__all__ = ["TCVAE", "TCMonitor", "TCSchedule", "tcdecomp_attach"]


class TCVAE(TCVAEMixin, LightningModule):
    """A VAE with a diagonal Gaussian posterior, trained with the criterion as its KL term.

    It logs ``train/loss``, ``train/reconstruction``, ``val/loss`` and ``val/reconstruction``, in
    nats per item; :class:`TCMonitor` adds the terms. ``val/loss`` is the negative ELBO, whatever
    the criterion's weights are. The noise of a validation batch depends on the number of the batch
    only, so that a validation does not change the training after it. Each step leaves its
    posterior, detached, in ``posterior``.

    In several processes with different rows, such as under DistributedDataParallel, the rows of
    all processes are one batch, and the training is that of one process with this batch.

    ``dataset_size``, ``likelihood`` and ``lr`` are hyperparameters. Load a checkpoint with
    ``TCVAE.load_from_checkpoint(path, encoder=..., decoder=..., criterion=...)``.

    *FactorVAE*: with ``density_ratio`` a discriminator estimates the total correlation, in place of
    the batch; see :class:`tcdecomp.DensityRatioTC`. The first half of each batch trains the VAE.
    Both halves then train the discriminator, by an optimizer of its own. ``train/discriminator`` is
    its loss. Lightning counts the steps of both optimizers in ``max_steps`` and ``global_step``.
    This needs one process, and batches of at least 4 items.

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
    density_ratio : DensityRatioTC, optional
        Estimates the total correlation, with the criterion's weights:
        ``TCVAE(..., presets.factor_vae(gamma), ..., density_ratio=DensityRatioTC(latents))``.
    density_ratio_lr : float
        Learning rate of its Adam.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its type, or out of its range; in a step, if encoder or decoder
        return other shapes; in the first step, if x is not in [0, 1] and the likelihood is
        "bernoulli".

    Warns
    -----
    UserWarning
        If a torch DataLoader for the training draws from another number of items.

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
    and ``train/kl``, in nats per item; the same and ``mig`` with ``val/`` and ``test/``; with
    several loaders ``val/0/...`` and so on. Do not log these keys yourself: one value would
    overwrite the other. Logging changes nothing in the training.

    *Training*: every ``every_n_steps`` steps, the terms of the posterior that the step has left in
    ``self.posterior``: a (z, mu, logvar) triple or a :class:`~tcdecomp.Posterior`. They are means
    over the rows of all processes.

    *Validation and test*: means over the items of all batches and processes. The posterior is the
    one that the step has left in ``self.posterior``, or else that of :func:`tcdecomp.encode`. If
    the model cannot encode what it gets of a batch, a warning says so once, and there are no terms.
    z is always drawn anew, since a model in eval mode may give z = mu. Each batch must be a random
    part of its set: shuffle an ordered set. A batch of one row is left out. Training and validation
    compare only if both sets have as many items, and the batches as many rows.

    *Brackets*: with two batches or more, ``val/total_correlation_low`` and
    ``val/total_correlation_high``, and so for the other two terms: the term lies between them in
    expectation, see :class:`tcdecomp.Bracket`.

    *MIG*: of the posterior means of the whole set, if its batches hold factors. Items that a
    ``DistributedSampler`` repeats count once in the MIG, and twice in the means of the terms. The
    sanity check has no MIG.

    Parameters
    ----------
    criterion : TCDecomposition, optional
        Its estimator and prior are used, its weights are not. By default that of the attachment or
        of the module's attribute ``criterion``.
    dataset_size : int, optional
        N, the number of items of the training set; default as for ``criterion``.
    every_n_steps : int, optional
        Optimizer steps between logs of the training terms; by default the trainer's
        ``log_every_n_steps``. 0 turns them off, and needs no posterior and no ``dataset_size``.
    val_dataset_size, test_dataset_size : int or sequence of int, optional
        Number of items of the set, or of each. By default the length of the data set of a torch
        DataLoader that draws without replacement.
    inputs : callable or str, optional
        What of a batch the model encodes: a function of the batch, or a key of a mapping. By
        default the first entry of a sequence, and any other batch whole.
    factors : callable, str or False, optional
        The factors of a batch, of shape (M, K) or (M,): a function of the batch, or a key of a
        mapping; False for none. By default a mapping's "factors", or a tensor of integers that is
        second in a pair. Then a warning names those that are left out, since they have a single
        value or look like an index.
    mig : mapping, optional
        Options of :func:`tcdecomp.mig_score`, such as ``{"n_bins": 40}``.
    seed : int
        Seed of the noise in validation, the same each time.

    Raises
    ------
    TypeError, ValueError
        If an option is not of its type or out of its range.
    ValueError
        At setup, if ``dataset_size`` or ``criterion`` is found nowhere; at validation or test, if
        the size of its set is not certain; if terms are due after a step that left no posterior.

    Examples
    --------
    >>> from lightning.pytorch import Trainer
    >>> from tcdecomp_adapters.lightning import TCMonitor
    >>> trainer = Trainer(callbacks=[TCMonitor()], logger=False, accelerator="cpu")
    """


class TCSchedule(TCScheduleMixin, Callback):
    """Sets weights of the criterion before each training step.

    The criterion is that of the attachment or of the module's attribute ``criterion``. Weights
    without a schedule stay as they are. The step is ``trainer.global_step``, the number of
    optimizer steps so far: accumulated batches have one weight, and a resumed training goes on
    where it stopped. (With several optimizers Lightning counts the steps of each.)

    Parameters
    ----------
    alpha, beta, gamma : callable, optional
        Schedules: from the step, an int, to the weight; see :mod:`tcdecomp.schedules`.

    Raises
    ------
    TypeError, ValueError
        If there is no schedule, one is not callable, or one starts or ends at a value that the
        criterion refuses as this weight; at setup, if the module has no criterion.

    Examples
    --------
    >>> from lightning.pytorch import Trainer
    >>> from tcdecomp.schedules import WarmUp
    >>> from tcdecomp_adapters.lightning import TCSchedule
    >>> schedule = TCSchedule(beta=WarmUp(6.0, steps=1000, start=1.0))
    >>> trainer = Trainer(callbacks=[schedule], logger=False, accelerator="cpu")
    """
