"""The terms of the KL and the MIG as metrics of ``torchmetrics``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from tcdecomp import Posterior, TCDecomposition, mig_score
from tcdecomp.metrics import mig_scorer
from tcdecomp.plugins import check_criterion, checked_int, warn_user

__all__ = ["MIG", "KLTerms"]

_NAMES = ("index_code_mi", "total_correlation", "dimension_wise_kl", "kl")


class KLTerms(Metric):
    """Index-code MI, total correlation, dimension-wise KL and KL, averaged over all rows.

    ``compute()`` returns a dict of scalars, in nats per item: ``index_code_mi``,
    ``total_correlation``, ``dimension_wise_kl`` and, unless the criterion has ``kl="sampled"``,
    ``kl``. Each is the mean of what :func:`tcdecomp.decompose` makes of each batch, weighted by the
    batch's rows, over all processes. Each batch must be a random part of its set. A batch of a
    single row is left out; without any other the values are NaN, with a warning.

    The metric keeps four sums and a count, in its own dtype and on its device. If you sum many
    thousands of batches, ``set_dtype(torch.float64)`` keeps all digits.

    Parameters
    ----------
    dataset_size : int
        N, the number of items of the set that the batches are drawn from: for a validation metric,
        the size of the whole validation set, in every process.
    criterion : TCDecomposition, optional
        Its estimator, prior and kl are used, its weights are not. A clone of the metric has a prior
        of its own: make the metrics of a learned prior one by one.
    **options
        Those of every ``torchmetrics.Metric``.

    Raises
    ------
    TypeError, ValueError
        If an option is not of its type or out of its range; in ``update``, as
        :func:`tcdecomp.decompose` does, and the sums stay as they are.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import Posterior
    >>> from tcdecomp_adapters.torchmetrics import KLTerms
    >>> terms = KLTerms(dataset_size=1000)
    >>> for _ in range(4):
    ...     terms.update(Posterior.from_moments(torch.zeros(250, 3), torch.zeros(250, 3)))
    >>> {name: round(value.item(), 2) for name, value in terms.compute().items()}["kl"]
    0.0
    """

    is_differentiable = True  # what forward returns, in z, mu and logvar
    full_state_update = False
    sums: Tensor
    rows: Tensor

    def __init__(
        self, dataset_size: int, *, criterion: TCDecomposition | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.dataset_size = checked_int("dataset_size", dataset_size, 1)
        given = TCDecomposition() if criterion is None else criterion
        check_criterion(given)
        self.criterion = TCDecomposition(
            estimator=given.estimator,
            prior=given.prior,
            kl=given.kl,
            kernel=given.kernel,
            validate=True,
        )
        self.names = _NAMES if given.kl == "closed" else _NAMES[:3]
        self.add_state("sums", torch.zeros(len(self.names)), dist_reduce_fx="sum")
        self.add_state("rows", torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self, z: Tensor | Posterior, mu: Tensor | None = None, logvar: Tensor | None = None
    ) -> None:
        """Add one batch.

        Parameters
        ----------
        z, mu, logvar : Tensor, shape (M, D)
            A sample from each item's posterior, its mean and log-variance; or, in place of the
            three, a :class:`~tcdecomp.Posterior`. In eval mode most models return z = mu, which is
            refused: draw one with ``Posterior.from_moments(mu, logvar)``.
        """
        posterior = _posterior(z, mu, logvar)
        rows = len(posterior.mu)
        if rows > 1:
            moments = posterior.z, posterior.mu, posterior.logvar
            terms = self.criterion.decompose(*moments, self.dataset_size)
            values = torch.stack([getattr(terms, name) for name in self.names])
            self.sums = self.sums + rows * values.to(self.sums.dtype)
            self.rows = self.rows + rows

    def compute(self) -> dict[str, Tensor]:
        """Return the mean of each term, a scalar, by name."""
        if not self.rows:
            warn_user("KLTerms has seen no batch of two rows or more: its values are NaN")
        return dict(zip(self.names, self.sums / self.rows, strict=True))


class MIG(Metric):
    """The mutual information gap of all codes and factors, of all processes.

    ``compute()`` returns :func:`tcdecomp.mig_score` of all rows together, a scalar of the metric's
    dtype. All rows are kept on the device of their batch; ``compute_on_cpu=True`` moves them to the
    CPU. Items that a sampler repeats, so that all processes get equally many, count each time.

    The bins stretch over all codes. So a batch's score is no part of the whole one, and a batch in
    which some factor has a single value has none: call ``update``, not the metric itself.

    Parameters
    ----------
    n_bins, strategy, discrete_factors : optional
        As in :func:`tcdecomp.mig_score`.
    **options
        Those of every ``torchmetrics.Metric``.

    Raises
    ------
    TypeError, ValueError
        If an option is not of its type or out of its range; in ``update``, if codes and factors do
        not fit together or those before, or are not finite; in ``compute``, as
        :func:`tcdecomp.mig_score` does.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp_adapters.torchmetrics import MIG
    >>> mig, factors = MIG(), torch.cartesian_prod(torch.arange(8), torch.arange(8))
    >>> for batch in factors.split(16):
    ...     mig.update(codes=batch.float(), factors=batch)
    >>> mig.compute()
    tensor(1.)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    codes: list[Tensor] | Tensor
    factors: list[Tensor] | Tensor

    def __init__(
        self,
        *,
        n_bins: int = 20,
        strategy: str = "uniform",
        discrete_factors: bool | Sequence[bool] = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.options: dict[str, Any] = {
            "n_bins": n_bins,
            "strategy": strategy,
            "discrete_factors": discrete_factors,
        }
        mig_scorer(**self.options)  # which refuses what is out of range
        self.add_state("codes", [], dist_reduce_fx="cat")
        self.add_state("factors", [], dist_reduce_fx="cat")

    def update(self, codes: Tensor, factors: Tensor) -> None:
        """Add one batch.

        Parameters
        ----------
        codes : Tensor, shape (M, D)
            The posterior means, or samples.
        factors : Tensor, shape (M, K) or (M,)
            The true factors of the same items.
        """
        if isinstance(factors, Tensor) and factors.dim() == 1:
            factors = factors.unsqueeze(1)
        batch = {"codes": codes, "factors": factors}
        for name, tensor in batch.items():
            self._check(name, tensor)
        if len(codes) != len(factors):
            raise ValueError(
                "codes and factors must have one row per item each; "
                f"got {len(codes)} and {len(factors)} rows"
            )
        for name, tensor in batch.items():
            getattr(self, name).append(tensor.detach())

    def _check(self, name: str, tensor: Any) -> None:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor; got {type(tensor).__name__}")
        earlier = getattr(self, name)[:1]
        columns = earlier[0].shape[1] if earlier else None
        if tensor.dim() != 2 or columns not in (None, tensor.shape[1]):
            expected = f"(M, {columns or 'columns'}), one row per item"
            raise ValueError(f"{name} must have shape {expected}; got {tuple(tensor.shape)}")
        if len(bad := (~tensor.isfinite()).nonzero()):
            row, column = bad[0].tolist()
            raise ValueError(
                f"{name} must be finite; got {tensor[row, column]} at row {row}, column {column}"
            )

    def compute(self) -> Tensor:
        """Return the gap, in [0, 1]."""
        if len(self.codes) == 0:
            raise ValueError("MIG.update must have been called before compute; got no rows")
        codes, factors = dim_zero_cat(self.codes), dim_zero_cat(self.factors)
        score = mig_score(codes, factors, **self.options)
        return torch.tensor(score, dtype=self.dtype, device=self.device)

    def sync(
        self, dist_sync_fn: Callable[..., Any] | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Join the rows of all processes, as ``torchmetrics.Metric.sync`` says."""
        super().sync(dist_sync_fn or _gather_rows, *args, **kwargs)


def _posterior(z: Tensor | Posterior, mu: Tensor | None, logvar: Tensor | None) -> Posterior:
    if not isinstance(z, Posterior):
        return Posterior(z, mu, logvar)  # type: ignore[arg-type]  # which it refuses
    if mu is not None or logvar is not None:
        raise TypeError("mu and logvar must be left out beside a Posterior; got them too")
    return z


def _gather_rows(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """Return the tensors of all processes that have rows.

    torchmetrics' own gathering fails where a process has none: it does not know dtype and shape.
    """
    parts: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(parts, tensor.cpu(), group=group)
    filled = [part.to(tensor.device) for part in parts if len(part)]
    return filled or [tensor]
