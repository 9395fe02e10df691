r"""The decomposition of the KL term into its three parts (Chen et al. 2018, eq. 2).

.. math::

    \mathbb{E}_n \mathrm{KL}(q(z|n) \| p(z)) =
    \underbrace{\mathrm{KL}(q(z,n) \| q(z)p(n))}_{\text{index-code MI}}
    + \underbrace{\mathrm{KL}(q(z) \| \textstyle\prod_j q(z_j))}_{\text{total correlation}}
    + \underbrace{\textstyle\sum_j \mathrm{KL}(q(z_j) \| p(z_j))}_{\text{dimension-wise KL}}
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple, SupportsIndex

import torch
from torch import Tensor

from tcdecomp.components import Components
from tcdecomp.estimators import Estimator, resolve
from tcdecomp.kernels import log_sums
from tcdecomp.mixture import log_mixture
from tcdecomp.posterior import Posterior, log_normal
from tcdecomp.priors import Prior, closed_form_kl, factors_of, log_prior

__all__ = ["KL", "Reduction", "Terms", "check_choice", "decompose", "divergence"]

KL = Literal["closed", "sampled"]
Reduction = Literal["mean", "sum", "none"]

_REDUCE: dict[Reduction, Callable[[Tensor], Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "none": lambda per_item: per_item,
}


class Terms(NamedTuple):
    """The three terms of a batch, and its KL, in nats (per item with reduction "mean").

    The three come from the same samples, so that under every estimator they sum to the
    *sampled* KL, the mean of log q(z|n) - log p(z).

    Attributes
    ----------
    index_code_mi : Tensor, shape () or (M,)
        Index-code mutual information, KL(q(z, n) || q(z) p(n)).
    total_correlation : Tensor, shape () or (M,)
        Total correlation, KL(q(z) || prod_j q(z_j)).
    dimension_wise_kl : Tensor, shape () or (M,)
        Dimension-wise KL, sum_j KL(q(z_j) || p(z_j)).
    kl : Tensor, shape () or (M,), or None
        KL(q(z|n) || p(z)) in closed form; None with ``kl="sampled"``.
    """

    index_code_mi: Tensor
    total_correlation: Tensor
    dimension_wise_kl: Tensor
    kl: Tensor | None

    @property
    def sampled_kl(self) -> Tensor:
        """The sum of the three terms: the KL as the same samples give it."""
        return self.index_code_mi + self.aggregate_kl

    @property
    def aggregate_kl(self) -> Tensor:
        """KL(q(z) || p(z)) = TC + dimension-wise KL (ELBO surgery, Hoffman & Johnson 2016)."""
        return self.total_correlation + self.dimension_wise_kl

    def detach(self) -> Terms:
        """Return the same values cut from the graph."""
        return self.map(Tensor.detach)

    def map(self, function: Callable[[Tensor], Tensor]) -> Terms:
        """Return the terms that ``function`` makes of these; a ``kl`` of None stays None."""
        mi, tc, dimension_wise_kl = map(function, self[:3])
        return Terms(mi, tc, dimension_wise_kl, None if self.kl is None else function(self.kl))


def decompose(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    dataset_size: SupportsIndex,
    *,
    estimator: str | Estimator = "mss",
    prior: Prior = None,
    kl: KL = "closed",
    reduction: Reduction = "mean",
    validate: bool = True,
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
        replacement: for a validation batch, the size of the validation set.
    estimator : {"mss", "mws", "inclusive"} or callable
        How the batch stands for the data set; see :mod:`tcdecomp.estimators`.
    prior : Distribution or callable, optional
        A factorised prior of batch shape (), (1,) or (D,), or a callable (a module, for a
        learned one) that returns it; None is the standard normal.
    kl : {"closed", "sampled"}
        Whether ``Terms.kl`` is the closed form, or None for priors that have no closed form.
    reduction : {"mean", "sum", "none"}
        Over the M items; "none" gives terms of shape (M,).
    validate : bool
        Refuse values that are not finite, and z equal to mu. The look waits for an accelerator;
        under ``torch.compile`` it is left out.

    Returns
    -------
    Terms
        The three terms and the KL, in nats.

    Raises
    ------
    TypeError
        If an argument has the wrong type: an integer tensor, a ``dataset_size`` that is no int.
    ValueError
        If shapes or devices differ, ``dataset_size`` is below M, M is 1 where the estimator
        needs other items, a value is not finite, z is mu, an option is unknown, or the prior
        does not factorise or has no closed-form KL.

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
    check_choice("kl", kl, KL)
    posterior, weights = _checked(z, mu, logvar, dataset_size, estimator, reduction, validate)
    with _no_autocast(posterior.z.device):
        factors = factors_of(prior, posterior)
        components = Components.of_batch(posterior)
        sums = log_sums(posterior.z, components.items, components)
        log_qz, log_qz_j = log_mixture(sums, *weights)
        log_product = log_qz_j.sum(1)
        per_item = Terms(
            index_code_mi=_log_posterior(posterior) - log_qz,
            total_correlation=log_qz - log_product,
            dimension_wise_kl=log_product - log_prior(factors, posterior.z),
            kl=closed_form_kl(factors, posterior) if kl == "closed" else None,
        )
    return per_item.map(_REDUCE[reduction])


def divergence(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    dataset_size: SupportsIndex,
    *,
    estimator: str | Estimator,
    prior: Prior,
    kl: KL,
    reduction: Reduction,
    validate: bool,
) -> Tensor:
    """Return the batch's KL alone, with the checks of :func:`decompose` and no estimate."""
    check_choice("kl", kl, KL)
    posterior, _ = _checked(z, mu, logvar, dataset_size, estimator, reduction, validate)
    with _no_autocast(posterior.z.device):
        factors = factors_of(prior, posterior)
        if kl == "closed":
            per_item = closed_form_kl(factors, posterior)
        else:
            per_item = _log_posterior(posterior) - log_prior(factors, posterior.z)
    return _REDUCE[reduction](per_item)


def check_choice(name: str, value: object, choices: object) -> None:
    """Raise a ValueError that names the argument unless the Literal ``choices`` has the value."""
    allowed = choices.__args__  # type: ignore[attr-defined]
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")


def _checked(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    dataset_size: SupportsIndex,
    estimator: str | Estimator,
    reduction: Reduction,
    validate: bool,
) -> tuple[Posterior, tuple[float, float]]:
    """Return the batch in working precision, and the weights of its components."""
    check_choice("reduction", reduction, Reduction)
    posterior = Posterior(z, mu, logvar)
    batch_size = posterior.z.shape[0]
    size = _checked_size(dataset_size, batch_size)
    weights = resolve(estimator)(batch_size - 1, size)
    if validate and not torch.compiler.is_compiling():
        posterior.check_values()
    return posterior.in_working_precision(), weights


def _checked_size(dataset_size: SupportsIndex, batch_size: int) -> int:
    what = "the number N of items of the data set that the batch was drawn from"
    try:
        if isinstance(dataset_size, bool):
            raise TypeError
        size = operator.index(dataset_size)
    except TypeError:
        got = f"{dataset_size!r} ({type(dataset_size).__name__})"
        raise TypeError(f"dataset_size must be an int, {what}; got {got}") from None
    if size < batch_size:
        raise ValueError(
            f"dataset_size must be {what}, at least the batch size M = {batch_size}; got {size}"
        )
    return size


def _log_posterior(posterior: Posterior) -> Tensor:
    return log_normal(posterior.z, posterior.mu, posterior.logvar).sum(1)


def _no_autocast(device: torch.device) -> AbstractContextManager[object]:
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
