"""A Gaussian study: batches of a data set whose terms are known, put to code as in training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from tcdecomp.auditor.probes import CPU, SHARPEST, Probe, between
from tcdecomp.auditor.subject import Subject
from tcdecomp.dataset.decomposition import decompose_dataset
from tcdecomp.decomposition import decompose

__all__ = ["Study", "data_set", "study"]

DATASET_SIZE, BATCH_SIZE, BATCHES, SAMPLES = 512, 61, 40, 4096
CORRELATION, DIM, WIDEST = 0.75, 4, -1.7  # WIDEST is the largest log-variance


@dataclass(frozen=True)
class Study:
    """Answers to many batches of one data set, and its terms.

    Attributes
    ----------
    truth, truth_error : Tensor, shape (3,)
        The terms over the whole data set, and their standard errors.
    answers, reference : Tensor, shape (B, 3)
        What the code, and what :func:`tcdecomp.decompose`, answers to the same batches.
    """

    truth: Tensor
    truth_error: Tensor
    answers: Tensor
    reference: Tensor


def study(subject: Subject, generator: Generator) -> Study:
    """Put batches of a data set to the code."""
    mu, logvar = data_set(generator)
    exact = decompose_dataset(mu, logvar, num_samples=SAMPLES, generator=generator)
    batches = [_batch(mu, logvar, generator).to(CPU, subject.dtype) for _ in range(BATCHES)]
    reference = Subject(decompose, CPU, torch.float64)
    return Study(
        torch.stack(exact.terms[:3]),
        torch.stack(exact.standard_error[:3]),
        torch.stack([subject.read(batch).terms for batch in batches]),
        torch.stack([reference.read(batch).terms for batch in batches]),
    )


def _batch(mu: Tensor, logvar: Tensor, generator: Generator) -> Probe:
    """Draw a batch without replacement; a probe takes either sign of its samples' noise."""
    rows = torch.randperm(DATASET_SIZE, generator=generator)[:BATCH_SIZE]
    noise = torch.randn(BATCH_SIZE, DIM, generator=generator, dtype=torch.float64)
    return Probe(mu[rows], logvar[rows], noise, DATASET_SIZE)


def data_set(generator: Generator) -> tuple[Tensor, Tensor]:
    """Return mu and logvar, (N, D), of items that differ in both.

    An item's means are drawn with the variance that its posterior leaves, so that q(z) is a
    Gaussian with correlated pairs of dimensions, each with mean 0 and variance 1, as the prior.
    """
    logvar = between(SHARPEST, WIDEST, (DATASET_SIZE, DIM), generator)
    normal = torch.randn(DATASET_SIZE, DIM, generator=generator, dtype=torch.float64)
    left, left_of_second = (1 - logvar.exp()).chunk(2, dim=1)
    first, second = normal.chunk(2, dim=1)
    slope = CORRELATION / left
    first = left.sqrt() * first
    second = slope * first + (left_of_second - slope * CORRELATION).sqrt() * second
    return torch.cat([first, second], 1), logvar
