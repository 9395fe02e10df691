"""The decomposition of one batch's KL term into its three parts."""

from __future__ import annotations

from torch import Tensor

from tcdecomp._processes import Group
from tcdecomp.kernels import Kernel
from tcdecomp.minibatch.bank import PosteriorBank
from tcdecomp.minibatch.batch import KL, Batch, Reduction
from tcdecomp.minibatch.conditional import DatasetSize, evaluate
from tcdecomp.minibatch.estimators import Estimator
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
    estimator: str | Estimator = "mss",
    prior: Prior = None,
    kl: KL = "closed",
    reduction: Reduction = "mean",
    process_group: Group = None,
    validate: bool = True,
    kernel: Kernel = "auto",
) -> Terms:
    """Estimate index-code MI, total correlation and dimension-wise KL from one batch.

    Differentiable in z, mu and logvar, and in a learned prior's parameters. Half precision is
    raised to float32, and mixed dtypes are promoted, before anything is computed; the terms come
    in that dtype, on the device of z. Autocast is off inside.

    Parameters
    ----------
    z, mu, logvar : Tensor, shape (M, D)
        A sample from each item's posterior N(mu, exp(logvar)), its mean and log-variance.
    dataset_size : int
        N, the number of items of the data set that this batch was drawn from without
        replacement: for a validation batch, the size of the validation set. With a condition, a
        mapping from each label to its number of items.
    items : Tensor, shape (M,), integer, optional
        The data-set indices of the rows, each once, by which a bank knows them.
    bank : PosteriorBank, optional
        Earlier posteriors of other items, which join the components of q(z); see
        :class:`tcdecomp.minibatch.bank.PosteriorBank`.
    condition : Tensor, shape (M,), integer, optional
        A label for each row: q(z|c) is decomposed for each label c from the rows that have it, and
        the results are averaged over the rows. Each label needs two rows, or to have one item.
    estimator : {"mss", "mss-jackknife", "mws", "inclusive"} or callable
        How the batch stands for the data set; see :mod:`tcdecomp.minibatch.estimators`.
    prior : Distribution or callable, optional
        A factorised prior of batch shape (), (1,) or (D,), or a callable (a module, for a
        learned one) that returns it; None is the standard normal.
    kl : {"closed", "sampled"}
        Whether ``Terms.kl`` is the closed form, or None for priors that have no closed form.
    reduction : {"mean", "sum", "none"}
        Over the M items; "none" gives terms of shape (M,).
    process_group : ProcessGroup or "world", optional
        Processes whose rows are one batch: M and the components are those of all of them, z and
        the terms this process's. All of them must call. With reduction "mean" the average of the
        results over processes is the mean over the whole batch, and gradients averaged over
        processes, as DistributedDataParallel does, are those of one process.
    validate : bool
        Refuse values that are not finite, z equal to mu, and items that are there twice. The look
        waits for an accelerator; under ``torch.compile`` it is left out.
    kernel : {"auto", "dense", "blocked", "triton"}
        "blocked" and "triton" need O(M D) memory. "dense" needs O(M^2 D), but serves every
        transform of torch.func, forward-mode differentiation included. "triton" needs float32 on
        an NVIDIA GPU. "auto" chooses "dense" or "blocked" by size.

    Returns
    -------
    Terms
        The three terms and the KL, in nats.

    Raises
    ------
    TypeError
        If an argument has the wrong type: an integer tensor, a ``dataset_size`` that is no int.
    ValueError
        If shapes or devices differ, ``dataset_size`` is below M, M is too small for the estimator
        or for a label, the bank was not cleared, a process has no rows, a value is not finite, z
        is mu, an option is unknown, or the prior does not factorise or has no closed-form KL.

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
    return evaluate(
        Batch.terms,
        z,
        mu,
        logvar,
        dataset_size,
        items=items,
        bank=bank,
        condition=condition,
        estimator=estimator,
        prior=prior,
        kl=kl,
        reduction=reduction,
        process_group=process_group,
        validate=validate,
        kernel=kernel,
    )
