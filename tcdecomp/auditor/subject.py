"""Somebody's code: how it is called, what it answers, and what is measured of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from tcdecomp._checks import without_doubts
from tcdecomp.auditor.forms import RIGHT, Form, constant
from tcdecomp.auditor.probes import SHARPEST, Probe, apart, between, normal, together
from tcdecomp.auditor.signature import TermsFunction
from tcdecomp.dataset.decomposition import decompose_dataset
from tcdecomp.decomposition import decompose
from tcdecomp.terms import Terms

__all__ = ["Answer", "RaisedError", "Returns", "Study", "Subject", "Weights", "relative_errors"]

DATASET_SIZE, BATCH_SIZE, DIM, BATCHES, SAMPLES = 512, 61, 4, 40, 4096
LEAST = 1e-3  # slope of an answer for a log-weight
CORRELATION, WIDEST = 0.75, -1.7  # WIDEST is the largest log-variance

Returns = Literal["terms", "tc", "loss"]


class RaisedError(Exception):
    """The code raised an exception. The message says which one, and for what input."""


@dataclass(frozen=True)
class Answer:
    """The answers to one probe; float64, on the CPU."""

    by_sign: Tensor  # (2, answers): for each sign of the noise
    at_zero: Tensor  # (answers,): whether one is exactly 0, for a sign or a row: perhaps clamped

    @property
    def values(self) -> Tensor:
        """Return the means over both signs, shape (answers,)."""
        return self.by_sign.mean(0)

    def errors(self, predicted: Tensor) -> Tensor:
        """Return the relative errors; an answer that a clamp at 0 may have raised is right."""
        raised = self.at_zero & (self.values > predicted)
        return relative_errors(torch.where(raised, predicted, self.values), predicted)


def relative_errors(got: Tensor, expected: Tensor) -> Tensor:
    """Return the relative errors; infinite where one is not finite."""
    error = (got - expected).abs() / (1 + expected.abs())
    return error.nan_to_num(torch.inf, posinf=torch.inf)


def default_device(device: torch.device) -> AbstractContextManager[object]:
    """Make this the default device; a context that changes nothing would slow torch down."""
    return nullcontext() if torch.empty(0).device == device else device


@dataclass(frozen=True)
class Subject:
    """The code, with the device and the dtype of the tensors that it gets."""

    function: TermsFunction  # of z, mu, logvar and N
    device: torch.device
    dtype: torch.dtype
    returns: Returns = "terms"
    takes_size: bool = True  # whether the code gets N

    @property
    def right(self) -> Form:
        """The right form; of a loss, the one with weights of 1."""
        return RIGHT[self.returns]

    def rounded(self, probe: Probe) -> Probe:
        """Return the probe in the dtype in which the code gets it."""
        return probe.map(lambda tensor: tensor.to(self.dtype))

    def read(self, probe: Probe) -> Answer:
        """Return the answer to a probe."""
        cast = probe.map(lambda tensor: tensor.to(self.device, self.dtype))
        answers = [
            self._call(z, cast.mu.clone(), cast.logvar.clone(), cast.dataset_size)
            for z in cast.samples()
        ]
        at_zero = torch.tensor([[bool((term == 0).any()) for term in terms] for terms in answers])
        return Answer(torch.stack([_means(terms) for terms in answers]).detach(), at_zero.any(0))

    def terms(self, z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: int) -> Tensor:
        """Return the answers, shape (answers,), with their graph if the code leaves one."""
        return _means(self._call(z, mu, logvar, dataset_size))

    def _call(self, z: Tensor, mu: Tensor, logvar: Tensor, dataset_size: int) -> list[Tensor]:
        try:
            # The noise of most probes is no sample, and the code may be this library's. Tensors
            # that the code makes without a device are on that of its arguments.
            with without_doubts(), default_device(self.device):
                result = self.function(z, mu, logvar, dataset_size)
        except Exception as error:
            raise RaisedError(
                f"{type(error).__name__} with z, mu and logvar of shape {tuple(z.shape)}, "
                f"{z.dtype}, and N = {dataset_size}: {error}"
            ) from error
        if self.returns != "terms":
            return [_checked(result, len(z), self.returns)]
        if not isinstance(result, (tuple, list)):  # Terms is a tuple, too
            raise _refusal(type(result).__name__)
        terms = result[:3] if isinstance(result, Terms) else result
        if len(terms) != 3:
            raise _refusal(f"{type(terms).__name__} of length {len(terms)}")
        return [_checked(term, len(z)) for term in terms]


def _means(terms: list[Tensor]) -> Tensor:
    return torch.stack([term.mean() for term in terms])


def _checked(term: object, size: int, returns: Returns = "terms") -> Tensor:
    among = " among them" if returns == "terms" else ""
    if isinstance(term, bool) or not isinstance(term, (Tensor, np.ndarray, Real)):
        raise _refusal(type(term).__name__ + among, returns)
    value = torch.as_tensor(term)
    if value.is_complex() or value.dtype == torch.bool:
        raise _refusal(f"{value.dtype}{among}", returns)
    if value.shape not in ((), (1,), (size,)):
        raise _refusal(f"shape {tuple(value.shape)}{among} for M = {size}", returns)
    return value.cpu().double()


def _refusal(got: str, returns: Returns = "terms") -> TypeError:
    if returns != "terms":
        return TypeError(
            f"terms_fn must return a real number or a vector of shape (M,) with "
            f'returns="{returns}"; got {got}. Return that part of it in a lambda'
        )
    return TypeError(
        "terms_fn must return (MI, TC, DWKL), each a real number or a vector of shape (M,); "
        f'got {got}. If the code has the total correlation alone, pass returns="tc"; if it has a '
        'weighted loss alone, pass returns="loss"'
    )


@dataclass(frozen=True)
class Weights:
    """The measured weights of a row: geometric means over the rows.

    Attributes
    ----------
    batch_size, dataset_size : int
        M and N.
    own, row_sum : float
        Weight of the own component, and the sum of the weights of all components.
    """

    batch_size: int
    dataset_size: int
    own: float
    row_sum: float


def weigh(subject: Subject, form: Form, size: int, dataset_size: int) -> Weights:
    """Measure the weights, for code whose scale, order and signs are those of the form."""
    total = round(form.fixed or dataset_size)
    own = _weight(subject, form, partial(apart, size, total), 1.0)
    row_sum = _weight(subject, form, partial(together, size, total), 1 / size)
    return Weights(size, total, own, row_sum)


def _weight(subject: Subject, form: Form, make: Callable[[int], Probe], unit: float) -> float:
    """Return the weight of every component, in units, with which the form gives the answers.

    The answers to these probes are linear in its logarithm. TC for D = 1 does not depend on it, and
    two dimensions are tried. Where no answer depends on it, it is NaN.
    """

    def at(weight: float) -> Tensor:
        alike = replace(form, estimator="", matrix=lambda size, _: constant(size, weight))
        return alike.predict(probe)

    for dim in (1, 2):
        probe = make(dim)
        at_one, slopes = at(unit), at(unit * math.e) - at(unit)
        if slopes.abs().max() > LEAST:
            break
    index = int(slopes.abs().argmax())
    log_weight = (subject.read(probe).values[index] - at_one[index]) / slopes[index]
    return log_weight.exp().item() if slopes[index].abs() > LEAST else math.nan


@dataclass(frozen=True, eq=False)
class Study:
    """A Gaussian study: answers to batches of a data set whose terms are known.

    Attributes
    ----------
    truth, truth_error : Tensor, shape (3,) or (1,)
        The terms of the whole data set (or their total correlation, or the loss), and their
        standard errors.
    answers, reference : Tensor, shape (batches, 3) or (batches, 1)
        The answers of the code, and of :func:`tcdecomp.decompose`, to the same batches.
    """

    truth: Tensor
    truth_error: Tensor
    answers: Tensor
    reference: Tensor


def study(subject: Subject, form: Form, generator: Generator) -> Study:
    """Put batches of a data set to the code."""
    mu, logvar = data_set(generator)
    exact = decompose_dataset(mu, logvar, num_samples=SAMPLES, generator=generator)
    batches = [subject.rounded(_batch(mu, logvar, generator)) for _ in range(BATCHES)]
    reference = Subject(decompose, torch.device("cpu"), torch.float64)
    answers, terms = (
        torch.stack([code.read(batch).values for batch in batches]) for code in (subject, reference)
    )
    truth, error = torch.stack(exact.terms[:3]), torch.stack(exact.standard_error[:3])
    right = form.right
    error = right.answers(error.square() * error.new_tensor(right.loss or (1, 1, 1))).sqrt()
    return Study(right.answers(truth), error, answers, right.answers(terms))


def _batch(mu: Tensor, logvar: Tensor, generator: Generator) -> Probe:
    rows = torch.randperm(DATASET_SIZE, generator=generator)[:BATCH_SIZE]
    return Probe(mu[rows], logvar[rows], normal(BATCH_SIZE, DIM, generator), DATASET_SIZE)


def data_set(generator: Generator) -> tuple[Tensor, Tensor]:
    """Return mu and logvar, shape (N, D), of items that differ in both.

    The means of an item are drawn with the variance that its posterior leaves. So q(z) is Gaussian
    with correlated pairs of dimensions. Each has mean 0 and variance 1, like the prior.
    """
    logvar = between(SHARPEST, WIDEST, (DATASET_SIZE, DIM), generator)
    left, left_of_second = (1 - logvar.exp()).chunk(2, dim=1)
    first, second = normal(DATASET_SIZE, DIM, generator).chunk(2, dim=1)
    slope = CORRELATION / left
    first = left.sqrt() * first
    second = slope * first + (left_of_second - slope * CORRELATION).sqrt() * second
    return torch.cat([first, second], 1), logvar
