"""What an adapter asks of a criterion, and the criterion for the rows of one process."""

from __future__ import annotations

import copy

from tcdecomp._checks import refuse_class
from tcdecomp.loss import TCDecomposition

__all__ = ["check_criterion", "for_own_rows"]


def check_criterion(criterion: object, framework: str | None = None, *, prior: bool = True) -> None:
    """Refuse what is no criterion, or one whose excess a framework cannot add to its own loss.

    ``framework`` is its name, for the error; None checks the type alone. With ``prior=False`` the
    criterion must not have a prior, since the framework's own KL is to the standard normal.

    Raises
    ------
    TypeError
        If it is no TCDecomposition.
    ValueError
        If the criterion does not average over the batch, or must not have its prior.
    """
    refuse_class("criterion", criterion)
    if not isinstance(criterion, TCDecomposition):
        raise TypeError(f"criterion must be a TCDecomposition; got {type(criterion).__name__}")
    if framework is None:
        return
    if criterion.reduction != "mean":
        raise ValueError(
            f'criterion must have reduction="mean" with {framework}; got {criterion.reduction!r}'
        )
    if not prior and criterion.prior is not None:
        raise ValueError(
            f"criterion must have prior=None with {framework}, whose own KL is to the standard "
            f"normal; got {type(criterion.prior).__name__}"
        )


def for_own_rows(criterion: TCDecomposition) -> TCDecomposition:
    """Return the criterion without its ``process_group``: it waits for no other process."""
    if criterion.process_group is None:
        return criterion
    own = copy.copy(criterion)
    own.process_group = None
    return own
