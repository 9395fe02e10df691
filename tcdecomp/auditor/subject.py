"""Somebody else's code: how it is called, and what its answers must be."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tcdecomp.auditor.probes import Probe
from tcdecomp.terms import Terms

__all__ = [
    "Answer",
    "RaisedError",
    "Subject",
    "TermsFunction",
    "largest_change",
    "relative_error",
    "relative_errors",
]

TermsFunction = Callable[[Tensor, Tensor, Tensor, int], Any]


class RaisedError(Exception):
    """The code under audit raised an exception; the message says which, and at what input."""


@dataclass(frozen=True)
class Answer:
    """What the code answers to a probe.

    Attributes
    ----------
    terms : Tensor, shape (3,)
        Means over both signs of the noise; float64, on the CPU.
    at_zero : Tensor of bool, shape (3,)
        Whether a term is exactly 0, for either sign or for any row: it may be clamped there.
    """

    terms: Tensor
    at_zero: Tensor

    def errors(self, predicted: Tensor) -> Tensor:
        """Return the relative errors, shape (..., 3); what a clamp at 0 may have raised is right.

        Parameters
        ----------
        predicted : Tensor, shape (..., 3)
            What the terms should be.
        """
        raised = self.at_zero & (self.terms > predicted)
        return relative_errors(torch.where(raised, predicted, self.terms), predicted)


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

    def read(self, probe: Probe) -> Answer:
        """Return the answer to both signs of a probe's noise."""
        cast = probe.to(self.device, self.dtype)
        answers = [
            self._call(z, cast.mu.clone(), cast.logvar.clone(), cast.dataset_size)
            for z in cast.samples()
        ]
        terms = torch.stack([_means(terms) for terms in answers]).mean(0).detach()
        at_zero = torch.tensor([[bool((term == 0).any()) for term in terms] for terms in answers])
        return Answer(terms, at_zero.any(0))

    def terms(self, z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: int) -> Tensor:
        """Return the three terms, shape (3,), in the graph if the code leaves one.

        Raises
        ------
        RaisedError
            If the code raises.
        TypeError
            If it returns something else than three real numbers, or three vectors of shape (M,),
            whose means are taken.
        """
        return _means(self._call(z, mu, logvar, dataset_size))

    def _call(self, z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: int) -> list[Tensor]:
        """Return what the code returns, checked: float64, on the CPU."""
        try:
            with warnings.catch_warnings():
                # Some probes are no samples, on purpose, and code may be this library's.
                warnings.filterwarnings("ignore", "z does not look|mu and logvar have")
                result = self.function(z, mu, logvar, dataset_size)
        except Exception as error:
            raise RaisedError(
                f"{type(error).__name__} with z, mu and logvar of shape {tuple(z.shape)}, "
                f"{z.dtype}, and N = {dataset_size}: {error}"
            ) from error
        return [_checked(term, len(z)) for term in _three(result)]


def largest_change(subject: Subject, probes: Iterable[Probe], answers: list[Answer]) -> float:
    """Return the largest relative change of the answers, given changed probes."""
    return max(
        relative_error(subject.read(probe).terms, answer.terms)
        for probe, answer in zip(probes, answers, strict=True)
    )


def _three(result: object) -> tuple[object, ...]:
    if isinstance(result, Terms):
        return result[:3]
    if isinstance(result, (tuple, list)) and len(result) == 3:
        return tuple(result)
    if isinstance(result, (tuple, list)):
        raise _refusal(f"{type(result).__name__} of length {len(result)}")
    raise _refusal(type(result).__name__)


def _means(terms: list[Tensor]) -> Tensor:
    return torch.stack([term.mean() for term in terms])


def _checked(term: object, size: int) -> Tensor:
    if isinstance(term, bool) or not isinstance(term, (Tensor, np.ndarray, Real)):
        raise _refusal(f"{type(term).__name__} among them")
    value = torch.as_tensor(term)
    if value.is_complex() or value.dtype == torch.bool:
        raise _refusal(f"{value.dtype} among them")
    if value.shape not in ((), (1,), (size,)):
        raise _refusal(f"shape {tuple(value.shape)} among them for M = {size}")
    return value.cpu().double()


def _refusal(got: str) -> TypeError:
    return TypeError(
        "terms_fn must return (MI, TC, DWKL), each a real number or a vector of shape (M,); "
        f"got {got}"
    )


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Return the largest relative error; infinite where one is not finite."""
    return relative_errors(got, expected).max().item()


def relative_errors(got: Tensor, expected: Tensor) -> Tensor:
    """Return the relative errors; infinite where one is not finite."""
    error = (got - expected).abs() / (1 + expected.abs())
    return error.nan_to_num(torch.inf, posinf=torch.inf)
