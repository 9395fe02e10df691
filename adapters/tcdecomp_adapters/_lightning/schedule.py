"""The callback that sets the criterion's weights."""

from __future__ import annotations

from typing import Any

from tcdecomp import TCDecomposition
from tcdecomp.schedules import Schedule, known_values
from tcdecomp_adapters._lightning.step import criterion_of

__all__ = ["TCScheduleMixin"]


class TCScheduleMixin:
    """What makes a Callback set weights; see :class:`tcdecomp_adapters.lightning.TCSchedule`."""

    def __init__(
        self,
        *,
        alpha: Schedule | None = None,
        beta: Schedule | None = None,
        gamma: Schedule | None = None,
    ) -> None:
        super().__init__()
        given = {"alpha": alpha, "beta": beta, "gamma": gamma}
        self.schedules = {name: value for name, value in given.items() if value is not None}
        if not self.schedules:
            raise ValueError(
                "TCSchedule must be given a schedule of alpha, beta or gamma; got none"
            )
        for name, schedule in self.schedules.items():
            _check(name, schedule)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse to train a module that has no criterion."""
        if stage == "fit":
            _scheduled(pl_module)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Set the weights of this step."""
        criterion = _scheduled(pl_module)
        for name, schedule in self.schedules.items():
            setattr(criterion, name, schedule(trainer.global_step))


def _check(name: str, schedule: Any) -> None:
    """Refuse what is no schedule, or has values that the criterion refuses as this weight."""
    if not callable(schedule):
        raise TypeError(
            f"{name} must be a schedule, a callable that takes a step; "
            f"got {type(schedule).__name__}"
        )
    for value in known_values(schedule):
        weight: Any = {name: value}
        TCDecomposition(**weight)


def _scheduled(module: Any) -> TCDecomposition:
    criterion = criterion_of(module)
    if criterion is None:
        raise ValueError(
            "TCSchedule must be given a module with an attribute criterion (TCDecomposition) or an "
            f"attachment; {type(module).__name__} has neither"
        )
    return criterion
