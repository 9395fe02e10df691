"""A Gaussian study: batches of a data set whose terms are known, put to code as in training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from tcdecomp.auditor.probes import CPU, Probe
from tcdecomp.auditor.subject import Subject
from tcdecomp.dataset import decompose_dataset
from tcdecomp.decomposition import decompose

__all__ = ["Study", "data_set", "study"]

DATASET_SIZE, BATCH_SIZE, BATCHES, SAMPLES = 512, 64, 40, 4096
CORRELATION, DEVIATION, DIM = 0.8, 0.25, 4


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
    """Return mu and logvar, (N, D): means of a Gaussian with correlated pairs of dimensions.

    With the posteriors' variance, every dimension of q(z) has mean 0 and variance 1, as the prior.
    """
    normal = torch.randn(DATASET_SIZE, DIM, generator=generator, dtype=torch.float64)
    first, second = normal.chunk(2, dim=1)
    second = CORRELATION * first + math.sqrt(1 - CORRELATION**2) * second
    mu = math.sqrt(1 - DEVIATION**2) * torch.cat([first, second], 1)
    return mu, torch.full_like(mu, 2 * math.log(DEVIATION))
