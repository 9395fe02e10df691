"""Somebody else's code: how it is called, and what its answers must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tcdecomp.auditor.probes import Probe
from tcdecomp.terms import Terms

__all__ = ["RaisedError", "Subject", "TermsFunction", "relative_error"]

TermsFunction = Callable[[Tensor, Tensor, Tensor, int], Any]


class RaisedError(Exception):
    """The code under audit raised an exception; the message says which, and at what input."""


@dataclass(frozen=True)
class Subject:
    """The code under audit.

    Parameters
    ----------
    function : callable
        ``(z, mu, logvar, N) -> (MI, TC, DWKL)``.
    device, dtype : torch.device, torch.dtype
        Of the tensors that it is given.
    """

    function: TermsFunction
    device: torch.device
    dtype: torch.dtype

    def read(self, probe: Probe) -> Tensor:
        """Return the three terms, float64 on the CPU, as the mean over both signs of the noise."""
        cast = probe.to(self.device, self.dtype)
        answers = [
            self.answer(z, cast.mu.clone(), cast.logvar.clone(), cast.dataset_size)
            for z in cast.samples()
        ]
        return torch.stack(answers).mean(0).detach()

    def answer(self, z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: int) -> Tensor:
        """Return the three terms, shape (3,), in the graph if the code leaves one.

        Raises
        ------
        RaisedError
            If the code raises.
        TypeError
            If it returns something else than three real numbers, or three vectors of shape (M,),
            whose means are taken.
        """
        try:
            result = self.function(z, mu, logvar, dataset_size)
        except Exception as error:
            raise RaisedError(
                f"{type(error).__name__} with z, mu and logvar of shape {tuple(z.shape)}, "
                f"{z.dtype}, and N = {dataset_size}: {error}"
            ) from error
        return torch.stack([_mean(term, len(z)) for term in _three(result)])


def _three(result: object) -> tuple[object, ...]:
    if isinstance(result, Terms):
        return result[:3]
    if isinstance(result, (tuple, list)) and len(result) == 3:
        return tuple(result)
    if isinstance(result, (tuple, list)):
        raise _refusal(f"{type(result).__name__} of length {len(result)}")
    raise _refusal(type(result).__name__)


def _mean(term: object, size: int) -> Tensor:
    if isinstance(term, bool) or not isinstance(term, (Tensor, np.ndarray, Real)):
        raise _refusal(f"{type(term).__name__} among them")
    value = torch.as_tensor(term)
    if value.is_complex() or value.dtype == torch.bool:
        raise _refusal(f"{value.dtype} among them")
    if value.shape not in ((), (1,), (size,)):
        raise _refusal(f"shape {tuple(value.shape)} among them for M = {size}")
    return value.cpu().double().mean()


def _refusal(got: str) -> TypeError:
    return TypeError(
        "terms_fn must return (MI, TC, DWKL), each a real number or a vector of shape (M,); "
        f"got {got}"
    )


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Return the largest relative error; infinite where one is not finite."""
    error = (got - expected).abs() / (1 + expected.abs())
    return error.nan_to_num(torch.inf, posinf=torch.inf).max().item()
