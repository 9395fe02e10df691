"""Earlier posteriors as further components of q(z): a larger batch, at the price of memory only."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import torch
from torch import Tensor

from tcdecomp._checks import check_tensors, checked_int, checked_labels
from tcdecomp._processes import GlobalBatch, Group, resolve_group, shared_refusal
from tcdecomp.posterior import Posterior

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["PosteriorBank"]


class _Entries(NamedTuple):
    mu: Tensor
    logvar: Tensor
    items: Tensor | None


class PosteriorBank:
    r"""The last K posteriors, without their graph, for a criterion to count among its components.

    The bias of the estimators shrinks with the number of components, and earlier posteriors of
    *other* items serve as such while the encoder changes slowly. They need no graph, since
    :math:`E_{q(z)}[\nabla \log q(z)] = 0`.

    In each step ``criterion(z, mu, logvar, N, items=items, bank=bank)``, and ``push`` afterwards.
    The items are data-set indices: the bank holds each once, its newest posterior, and a batch does
    not meet its own. Where there are no indices, leave them out in both places, and ``clear`` the
    bank when an epoch starts, since its batches would meet their own items of the last one. The
    rows pushed tell when that was forgotten: it is an error.

    The bank is the user's to keep: the criterion holds no reference to it. Its entries lie where
    the posteriors did, and move to the device of the batch when they are asked for.

    Parameters
    ----------
    capacity : int
        K, at least 1. The oldest entries make room.
    process_group : ProcessGroup or "world", optional
        The processes whose rows are pushed together, as the criterion's: all of them then hold the
        same entries, and all have to push.

    Raises
    ------
    TypeError, ValueError
        If the capacity is no int, or below 1, or the group is none that this process is in.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import Posterior, TCDecomposition
    >>> from tcdecomp import PosteriorBank
    >>> criterion, bank = TCDecomposition(beta=6), PosteriorBank(256)
    >>> for items in torch.randperm(1000).split(100):
    ...     posterior = Posterior.from_moments(torch.randn(100, 3), torch.zeros(100, 3))
    ...     batch = posterior.z, posterior.mu, posterior.logvar
    ...     loss = criterion(*batch, 1000, items=items, bank=bank)
    ...     bank.push(posterior, items)
    >>> len(bank)
    256
    """

    def __init__(self, capacity: SupportsIndex, *, process_group: Group = None) -> None:
        resolve_group(process_group)
        self.capacity = checked_int("capacity", capacity, 1)
        self.process_group = process_group
        self._entries: _Entries | None = None
        self._pushed = 0

    def __len__(self) -> int:
        """Return how many posteriors are held."""
        return 0 if self._entries is None else len(self._entries.mu)

    def push(self, posterior: Posterior, items: Tensor | None = None) -> None:
        """Add the posteriors of a batch, after the step that they were used in.

        Parameters
        ----------
        posterior : Posterior
            Of shape (M, D); its z is not looked at.
        items : Tensor, shape (M,), integer, optional
            Which items of the data set they are of.

        Raises
        ------
        TypeError
            If the posterior or the items are not of their type.
        ValueError
            If the items are not M, or given in one push and not in another, or D differs.
        """
        group = resolve_group(self.process_group)
        with shared_refusal(group, posterior):
            new = self._checked(posterior, items)
        if group is not None:
            new = _gathered(group, new)
        self._pushed += len(new.mu)
        self._entries = _newest(self._entries, new, self.capacity)

    def clear(self) -> None:
        """Forget all entries."""
        self._entries, self._pushed = None, 0

    def others(
        self, mu: Tensor, items: Tensor | None, dataset_size: int
    ) -> tuple[Tensor, Tensor] | None:
        """Return the entries that a batch may count among its other components, or None.

        Parameters
        ----------
        mu : Tensor, shape (M, D)
            Of the whole batch, whose device and dtype they take.
        items : Tensor, shape (M,), optional
            The batch's items.
        dataset_size : int
            N.

        Returns
        -------
        (mu, logvar) or None
            Shapes (K', D).

        Raises
        ------
        ValueError
            If there would be more components than items, as when a bank without items was not
            cleared.
        """
        if self._entries is None:
            return None
        others_mu, others_logvar = self._entries.mu.to(mu), self._entries.logvar.to(mu)
        if items is None or self._entries.items is None:
            self._check_cleared(len(mu), dataset_size)
        else:
            kept = ~torch.isin(self._entries.items.to(items.device), items)
            others_mu, others_logvar = others_mu[kept], others_logvar[kept]
        if len(others_mu) + len(mu) > dataset_size:
            raise ValueError(
                "bank must hold at most one posterior of each of the dataset_size items: "
                f"{len(others_mu)} of other items and a batch of {len(mu)} are more than "
                f"{dataset_size}"
            )
        return others_mu, others_logvar

    def check_alike(self, posterior: Posterior, items: Tensor | None) -> None:
        """Refuse a batch that does not go with the entries.

        Raises
        ------
        ValueError
            If one has items and the other has not, or D differs.
        """
        held = self._entries
        if held is None:
            return
        if (held.items is None) != (items is None):
            raise ValueError(
                "items must be given always or never, to criterion and bank alike; got them "
                f"{'now, and not' if held.items is None else 'not now, but'} in an earlier push"
            )
        if held.mu.shape[1] != posterior.mu.shape[1]:
            raise ValueError(
                f"bank must hold posteriors of the batch's D = {posterior.mu.shape[1]}; its own "
                f"have D = {held.mu.shape[1]}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the entries, for a checkpoint: tensors and an int."""
        entries = self._entries._asdict() if self._entries else {}
        return {**entries, "pushed": self._pushed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the entries of a checkpoint in place of those held; the newest, if too many.

        Raises
        ------
        ValueError
            If it is not what :meth:`state_dict` returns.
        """
        try:
            pushed = operator.index(state_dict["pushed"])
            entries = None
            if set(state_dict) != {"pushed"}:
                entries = _Entries(**{k: v for k, v in state_dict.items() if k != "pushed"})
                check_tensors(mu=entries.mu, logvar=entries.logvar)
                if entries.items is not None:
                    items = checked_labels("items", entries.items, entries.mu)
                    entries = entries._replace(items=items)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"state_dict must be a bank's own, with mu, logvar, items and pushed: {error}"
            ) from error
        self._entries = None if entries is None else _newest(None, entries, self.capacity)
        self._pushed = pushed

    def __repr__(self) -> str:
        return f"PosteriorBank({self.capacity}) with {len(self)} entries"

    def _checked(self, posterior: Posterior, items: Tensor | None) -> _Entries:
        if not isinstance(posterior, Posterior):
            raise TypeError(f"posterior must be a Posterior; got {type(posterior).__name__}")
        if items is not None:
            items = checked_labels("items", items, posterior.mu).clone()
        self.check_alike(posterior, items)
        working = posterior.detach().in_working_precision()
        return _Entries(working.mu.clone(), working.logvar.clone(), items)

    def _check_cleared(self, batch_size: int, dataset_size: int) -> None:
        if self._pushed + batch_size > dataset_size:
            raise ValueError(
                "bank must be cleared when an epoch starts, where no items are given: "
                f"{self._pushed} rows since the last clear() and a batch of {batch_size} are more "
                f"than dataset_size {dataset_size}, so that the batch may meet its own items"
            )


def _gathered(group: ProcessGroup, own: _Entries) -> _Entries:
    """Return the rows of all processes, in an order that is the same in each."""
    together = GlobalBatch(group, own.mu, {"whether there are items": int(own.items is not None)})
    items = None if own.items is None else together.all(own.items[:, None])[:, 0]
    return _Entries(together.all(own.mu), together.all(own.logvar), items)


def _newest(held: _Entries | None, new: _Entries, capacity: int) -> _Entries:
    """Return the last entries, each item's newest alone, with the oldest first."""
    old = () if held is None else (held,)
    mu, logvar = (
        torch.cat([getattr(part, name).to(new.mu) for part in (*old, new)])
        for name in ("mu", "logvar")
    )
    if new.items is None:  # copies, since a view would keep all the rest
        return _Entries(mu[-capacity:].clone(), logvar[-capacity:].clone(), None)
    items = torch.cat([part.items.to(new.items) for part in (*old, new) if part.items is not None])
    distinct, index = torch.unique(items, return_inverse=True)
    rows = torch.arange(len(items), device=items.device)
    last = rows.new_zeros(len(distinct)).scatter_reduce_(0, index, rows, "amax")
    kept = last.sort().values[-capacity:]
    return _Entries(mu[kept], logvar[kept], items[kept])
