"""Earlier posteriors as further components of q(z): a larger batch that costs only memory."""

from __future__ import annotations

from typing import Any, NamedTuple, SupportsIndex

import torch
from torch import Tensor

from tcdecomp._checks import check_finite, check_logvar, check_tensors, checked_int, checked_labels
from tcdecomp._processes import GlobalBatch, Group, resolve_group, shared_refusal
from tcdecomp.posterior import Posterior

__all__ = ["PosteriorBank"]


class _Entries(NamedTuple):
    mu: Tensor
    logvar: Tensor
    items: Tensor


class PosteriorBank:
    r"""The newest posteriors of K items, without their graph, as further components of q(z).

    The bias of the estimators shrinks with the number of components. Earlier posteriors of *other*
    items serve as components while the encoder changes slowly. They need no graph, since
    :math:`E_{q(z)}[\nabla \log q(z)] = 0`.

    In each step call ``criterion(z, mu, logvar, N, items=items, bank=bank)``, and ``push``
    afterwards. The items are data-set indices. The bank holds each item once, with its newest
    posterior, and leaves out the items of the batch.

    The bank is yours to keep: the criterion holds no reference to it. Its entries stay on the
    device of the posteriors, and move to that of the batch when they are asked for.

    Parameters
    ----------
    capacity : int
        K, at least 1. The oldest entries make room.
    process_group : ProcessGroup or "world", optional
        The criterion's processes. All of them have to push, and all then hold the same entries.

    Raises
    ------
    TypeError, ValueError
        If the capacity is not an int of at least 1, or this process is not in the group.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import Posterior, PosteriorBank, TCDecomposition
    >>> criterion, bank = TCDecomposition(beta=6), PosteriorBank(256)
    >>> for items in torch.randperm(1000).split(100):
    ...     posterior = Posterior.from_moments(torch.randn(100, 3), torch.zeros(100, 3))
    ...     loss = criterion(*posterior, 1000, items=items, bank=bank)
    ...     bank.push(posterior, items)
    >>> len(bank)
    256
    """

    def __init__(self, capacity: SupportsIndex, *, process_group: Group = None) -> None:
        resolve_group(process_group)
        self.capacity = checked_int("capacity", capacity, 1)
        self.process_group = process_group
        self._entries: _Entries | None = None

    def __len__(self) -> int:
        """Return how many posteriors are held."""
        return 0 if self._entries is None else len(self._entries.mu)

    def push(self, posterior: Posterior, items: Tensor) -> None:
        """Add the posteriors of a batch, after the step that used them.

        Parameters
        ----------
        posterior : Posterior
            Means and log-variances of shape (M, D); its z is not looked at.
        items : Tensor, shape (M,), integer
            Their items, as data-set indices.

        Raises
        ------
        TypeError
            If the posterior or the items are not of their type.
        ValueError
            If there are not M items, D differs from that of earlier posteriors, or a value is not
            finite. The look waits for an accelerator.
        """
        group = resolve_group(self.process_group)
        rows = posterior.mu if isinstance(posterior, Posterior) else None
        with shared_refusal(group, rows):
            new = self._checked(posterior, items)
        if group is not None:
            together = GlobalBatch(group, new.mu, {})
            moments = together.all(new.mu), together.all(new.logvar)
            new = _Entries(*moments, together.all(new.items[:, None])[:, 0])
        self._entries = _newest(self._entries, new, self.capacity)

    def clear(self) -> None:
        """Forget all entries."""
        self._entries = None

    def others(self, mu: Tensor, items: Tensor, dataset_size: int) -> Posterior | None:
        """Return the entries of other items than the batch's, or None if there are none.

        Parameters
        ----------
        mu : Tensor, shape (M, D)
            The batch's, whose device and dtype the entries take.
        items : Tensor
            The items of the batch, in all processes.
        dataset_size : int
            N.

        Raises
        ------
        ValueError
            If there are more items in the batch and the bank than N.
        """
        if self._entries is None:
            return None
        kept = ~torch.isin(self._entries.items.to(items.device), items)
        held, in_batch = int(kept.sum()), len(torch.unique(items))
        if held == 0:
            return None
        if held + in_batch > dataset_size:
            raise ValueError(
                "dataset_size must be at least the number of items in the bank and the batch, "
                f"{held} + {in_batch}; got {dataset_size}. Pass the N that the items are indices "
                "of, or clear() a bank of another data set"
            )
        kept = kept.to(self._entries.mu.device)
        mu, logvar = (t[kept].to(mu) for t in self._entries[:2])
        return Posterior(mu, mu, logvar)

    def check_alike(self, posterior: Posterior) -> None:
        """Raise a ValueError if the entries have another D than a batch."""
        held = self._entries
        if held is not None and held.mu.shape[1] != posterior.mu.shape[1]:
            raise ValueError(
                f"bank must hold posteriors of the batch's D = {posterior.mu.shape[1]}; its own "
                f"have D = {held.mu.shape[1]}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the entries as tensors, for a checkpoint."""
        return {} if self._entries is None else self._entries._asdict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the entries of a checkpoint in place of those held; the newest, if too many.

        Raises
        ------
        ValueError
            If it is not what :meth:`state_dict` returns.
        """
        entries = None
        try:
            if state_dict:
                entries = _Entries(**state_dict)
                check_tensors(mu=entries.mu, logvar=entries.logvar)
                items = checked_labels("items", entries.items, entries.mu)
                entries = entries._replace(items=items)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"state_dict must be a bank's own, with mu, logvar and items: {error}"
            ) from error
        self._entries = None if entries is None else _newest(None, entries, self.capacity)

    def __repr__(self) -> str:
        return f"PosteriorBank({self.capacity}) with {len(self)} entries"

    def _checked(self, posterior: Posterior, items: Tensor) -> _Entries:
        if not isinstance(posterior, Posterior):
            raise TypeError(f"posterior must be a Posterior; got {type(posterior).__name__}")
        items = checked_labels("items", items, posterior.mu).clone()
        self.check_alike(posterior)
        working = posterior.detach().in_working_precision()
        check_finite("mu", working.mu)
        check_logvar(working.logvar)
        return _Entries(working.mu.clone(), working.logvar.clone(), items)


def _newest(held: _Entries | None, new: _Entries, capacity: int) -> _Entries:
    """Return the newest entry of each item, the last ones that fit, with the oldest first."""
    if held is not None:
        new = _Entries(*(torch.cat([a.to(b), b]) for a, b in zip(held, new, strict=True)))
    distinct, index = torch.unique(new.items, return_inverse=True)
    rows = torch.arange(len(new.items), device=new.items.device)
    last = rows.new_zeros(len(distinct)).scatter_reduce_(0, index, rows, "amax")
    kept = last.sort().values[-capacity:]
    return _Entries(*(t[kept] for t in new))
