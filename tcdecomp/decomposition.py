"""The decomposition of one batch's KL term into its three parts."""

from __future__ import annotations

from torch import Tensor

from tcdecomp._processes import Group
from tcdecomp.kernels import Kernel
from tcdecomp.minibatch.bank import PosteriorBank
from tcdecomp.minibatch.batch import Batch
from tcdecomp.minibatch.conditional import DatasetSize
from tcdecomp.minibatch.estimators import Weights
from tcdecomp.minibatch.options import KL, Options, Reduction
from tcdecomp.priors import Prior
from tcdecomp.terms import Terms

__all__ = ["decompose"]


def decompose(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    dataset_size: DatasetSize,
    *,
    items: Tensor | None = None,
    bank: PosteriorBank | None = None,
    condition: Tensor | None = None,
    estimator: str | Weights = "mss",
    prior: Prior = None,
    kl: KL = "closed",
    reduction: Reduction = "mean",
    process_group: Group = None,
    validate: bool | None = True,
    kernel: Kernel = "auto",
) -> Terms:
    """Estimate index-code MI, total correlation and dimension-wise KL from one batch.

    Differentiable in z, mu and logvar, and in a learned prior's parameters. Half precision is
    raised to float32, and mixed dtypes are promoted, before anything is computed. The terms have
    that dtype, on the device of z. Autocast is off inside.

    Parameters
    ----------
    z : Tensor, shape (M, D) or (K, M, D)
        A sample from each item's posterior N(mu, exp(logvar)), or K samples, over which the terms
        are averaged.
    mu, logvar : Tensor, shape (M, D)
        Means and log-variances of the posteriors.
    dataset_size : int
        N, the number of items of the data set that this batch was drawn from without
        replacement: for a validation batch, the size of the validation set. With a condition, a
        mapping from each label to its number of items.
    items : Tensor, shape (M,), integer, optional
        The data-set index of each row. An item may have several rows, as with repeated
        augmentation or sampling with replacement: its rows then share the weight of one item. By
        default every row is another item.
    bank : PosteriorBank, optional
        Earlier posteriors of other items, which join the components of q(z); see
        :class:`tcdecomp.PosteriorBank`. It needs ``items``.
    condition : Tensor, shape (M,), integer, optional
        A label for each row. q(z|c) is decomposed for each label c from the rows that have it, and
        the results are averaged over the rows. A label with too few rows counts with its KL only,
        and is warned of.
    estimator : {"mss", "mss-jackknife", "mws", "inclusive"} or callable
        How the batch stands for the data set; see :mod:`tcdecomp.minibatch.estimators`.
    prior : Distribution or callable, optional
        A factorised prior of batch shape (), (1,) or (D,), or (M, D) for a prior of each item,
        p(z|c). Or a callable (a module, for a learned prior) that returns it. None is the standard
        normal. The dimension-wise KL is against each item's own prior, and may be negative where
        priors differ.
    kl : {"closed", "sampled"}
        Whether ``Terms.kl`` is the closed form, or None for priors that have no closed form.
    reduction : {"mean", "sum", "none"}
        Over the M items; "none" gives terms of shape (M,).
    process_group : ProcessGroup or "world", optional
        Processes whose rows are one batch. M and the components are those of all of them; z and
        the terms are this process's. All of them must call. With reduction "mean" the average of
        the results over processes is the mean over the whole batch, and gradients averaged over
        processes, as DistributedDataParallel does, are those of one process.
    validate : bool or None
        Whether to look at values. Values that give no term are refused: not finite, too large for
        their dtype, z equal to mu. What looks wrong is warned of: a z that is not a sample of
        N(mu, exp(logvar)), rows that repeat without ``items``. The look waits for an accelerator;
        None looks on the CPU only. Under ``torch.compile`` there is no look.
    kernel : {"auto", "dense", "blocked", "linear", "triton"}
        "dense" needs O(M^2 D) memory, but serves every transform of torch.func, forward-mode
        differentiation included. The others need O(M D). "blocked" sums over all pairs, on any
        device. "linear" takes the marginals from grids, in O(M) time, with an error below 1e-6.
        "triton" needs float32 on an NVIDIA GPU. "auto" chooses by device, dtype and size.

    Returns
    -------
    Terms
        The three terms and the KL, in nats.

    Raises
    ------
    TypeError
        If an argument has the wrong type: an integer tensor, a ``dataset_size`` that is not an int.
    ValueError
        If shapes or devices differ, ``dataset_size`` is below the number of items, the batch is
        too small for the estimator, a process has no rows, an option is unknown, or the prior does
        not factorise or has no closed-form KL; and, where values are looked at, if they give no
        term.

    Warns
    -----
    UserWarning
        If values look wrong, as ``validate`` says, or a label has too few rows.

    References
    ----------
    Chen, Li, Grosse, Duvenaud (2018). Isolating Sources of Disentanglement in VAEs. Eq. 2 and
    appendix C.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import decompose
    >>> _ = torch.manual_seed(0)
    >>> mu, logvar = torch.randn(64, 10), torch.full((64, 10), -2.0)
    >>> z = mu + (0.5 * logvar).exp() * torch.randn(64, 10)
    >>> terms = decompose(z, mu, logvar, 10_000)
    >>> bool(terms.index_code_mi < terms.kl)
    True
    """
    options = Options(estimator, prior, kl, reduction, process_group, validate, kernel)
    batch = Batch(z, mu, logvar, dataset_size, options, items=items, bank=bank, condition=condition)
    return batch.terms()
