"""The auditor's report, and the verdicts in it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from tcdecomp.auditor.measured import Weights
from tcdecomp.auditor.study import BATCH_SIZE, DATASET_SIZE, DIM, Study
from tcdecomp.terms import Terms

__all__ = ["Audit", "Verdict", "mean"]

WIDTH = 88


@dataclass(frozen=True)
class Verdict:
    """One thing that the auditor found.

    Attributes
    ----------
    name : str
        What it is called.
    kind : {"fine", "remark", "fault"}
        Only a fault makes ``Audit.ok`` false.
    sentence : str
        What the code does.
    remedy : str
        What to do about it; empty where nothing needs to be done.
    evidence : dict of str to float
        The figures behind it.
    """

    name: str
    kind: Literal["fine", "remark", "fault"]
    sentence: str
    remedy: str = ""
    evidence: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Audit:
    """What :func:`tcdecomp.audit` found; prints as a report.

    Attributes
    ----------
    estimator : str
        Name of the estimator, by its weights: "symmetric MSS", "MSS of the paper", "MWS",
        "inclusive", "leave-one-out", ..., or "unknown".
    verdicts : tuple of Verdict
        Faults first, then remarks; or that q(z) is unbiased.
    weights : tuple of Weights
        Own weight and row sum at several M and N: geometric means over the rows.
    study : Study or None
        The Gaussian study; None where the code raised.
    """

    estimator: str
    verdicts: tuple[Verdict, ...]
    weights: tuple[Weights, ...] = ()
    study: Study | None = None

    @property
    def ok(self) -> bool:
        """Whether there is no fault among the verdicts."""
        return all(verdict.kind != "fault" for verdict in self.verdicts)

    def __str__(self) -> str:
        """Return the report, in words and tables."""
        parts = [self._heading(), *map(_paragraph, self.verdicts)]
        if self.weights:
            parts.append("\n".join(_weights(self.weights)))
        if self.study:
            parts.append("\n".join(_study(self.study)))
        return "\n\n".join(parts)

    def _heading(self) -> str:
        faults = sum(verdict.kind == "fault" for verdict in self.verdicts)
        return f"estimator: {self.estimator}\nfaults: {faults or 'none'}"


def _paragraph(verdict: Verdict) -> str:
    lines = [f"{verdict.kind}: {verdict.name}", *_wrapped(verdict.sentence)]
    lines += [f"  {name}: {value:.4g}" for name, value in verdict.evidence.items()]
    if verdict.remedy:
        lines += _wrapped(f"Remedy: {verdict.remedy}")
    return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")


def _weights(weights: tuple[Weights, ...]) -> Iterator[str]:
    yield f"weights of a row{'M':>8}{'N':>10}{'own * N':>14}{'sum':>12}"
    for w in weights:
        own = w.own * w.dataset_size
        yield f"{'':16}{w.batch_size:8}{w.dataset_size:10}{own:14.4g}{w.row_sum:12.4g}"


def _study(study: Study) -> Iterator[str]:
    sizes = f"M = {BATCH_SIZE}, N = {DATASET_SIZE}, D = {DIM}"
    yield f"Gaussian study: {len(study.answers)} batches, {sizes}; nats and standard errors"
    yield f"{'':18}{'truth':>18}{'this code':>20}{'tcdecomp, mss':>20}"
    columns = [(study.truth, study.truth_error), mean(study.answers), mean(study.reference)]
    for i, name in enumerate(Terms._fields[:3]):
        cells = [f"{value[i]:.3f} +- {error[i]:.3f}" for value, error in columns]
        yield f"{name:18}{cells[0]:>18}{cells[1]:>20}{cells[2]:>20}"


def mean(answers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over the batches, and its standard error."""
    return answers.mean(0), answers.std(0) / len(answers) ** 0.5
