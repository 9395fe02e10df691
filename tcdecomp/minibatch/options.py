"""The options of an estimate: checked once, and handed on whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from tcdecomp._processes import Group, check_group
from tcdecomp.kernels import Kernel
from tcdecomp.minibatch.estimators import Estimator, Weights, estimator_of
from tcdecomp.priors import Prior, check_prior

__all__ = ["KL", "Options", "Reduction"]

KL = Literal["closed", "sampled"]
Reduction = Literal["mean", "sum", "none"]

_REDUCE: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "none": lambda per_item: per_item,
}
_CHOICES = {"kl": get_args(KL), "reduction": get_args(Reduction), "kernel": get_args(Kernel)}


@dataclass(frozen=True)
class Options:
    """How a batch is to be decomposed; :func:`tcdecomp.decompose` says what each option means.

    Raises
    ------
    TypeError, ValueError
        If an option is not of its type, or its value is unknown.
    """

    estimator: str | Weights = "mss"
    prior: Prior = None
    kl: KL = "closed"
    reduction: Reduction = "mean"
    process_group: Group = None
    validate: bool | None = True
    kernel: Kernel = "auto"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                allowed = ", ".join(map(repr, choices))
                raise ValueError(f"{name} must be one of {allowed}; got {value!r}")
        if self.validate not in (None, True, False):
            raise ValueError(f"validate must be True, False or None; got {self.validate!r}")
        check_prior(self.prior)
        check_group(self.process_group)
        self.estimate  # noqa: B018 (raises for what is no estimator)

    @cached_property
    def estimate(self) -> Estimator:
        """The estimator itself, where the option may be its name or a function."""
        return estimator_of(self.estimator)

    def looks_at(self, z: object) -> bool:
        """Tell whether values are to be checked: by default where that costs no waiting."""
        if torch.compiler.is_compiling():
            return False
        if self.validate is None:
            return isinstance(z, Tensor) and z.device.type == "cpu"
        return self.validate

    def reduce(self, per_item: Tensor) -> Tensor:
        """Return the reduction of values of shape (M, ...)."""
        return _REDUCE[self.reduction](per_item)
