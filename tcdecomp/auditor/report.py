"""Verdicts, and the report."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from tcdecomp.auditor.subject import BATCH_SIZE, DATASET_SIZE, DIM, Study, Weights
from tcdecomp.terms import Terms

__all__ = ["Audit", "Verdict", "fault", "remark"]

TERMS = Terms._fields[:3]
WIDTH = 88


@dataclass(frozen=True)
class Verdict:
    """One thing that the auditor found.

    Attributes
    ----------
    name : str
        Its name.
    kind : {"fine", "remark", "fault"}
        Only a fault makes ``Audit.ok`` false.
    sentence : str
        What the code does.
    remedy : str
        What to do about it; empty if nothing needs to be done.
    evidence : dict of str to float
        The numbers that show it.
    """

    name: str
    kind: Literal["fine", "remark", "fault"]
    sentence: str
    remedy: str = ""
    evidence: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the verdict as a paragraph."""
        lines = [f"{self.kind}: {self.name}", *_wrapped(self.sentence)]
        lines += [
            f"  {name}: {value:,}" if isinstance(value, int) else f"  {name}: {value:.4g}"
            for name, value in self.evidence.items()
        ]
        return "\n".join([*lines, *_wrapped(f"Remedy: {self.remedy}")] if self.remedy else lines)


def fault(
    name: str, sentence: str, remedy: str, evidence: dict[str, float] | None = None
) -> Verdict:
    """Return the verdict on a fault."""
    return Verdict(name, "fault", sentence, remedy, evidence or {})


def remark(
    name: str, sentence: str, remedy: str = "", evidence: dict[str, float] | None = None
) -> Verdict:
    """Return the verdict on something that is no fault."""
    return Verdict(name, "remark", sentence, remedy, evidence or {})


def names_of(which: Tensor) -> str:
    """Return the names of these answers."""
    if len(which) == 1:
        return "the answer"
    places = ("first answer", "second answer", "third answer")
    return ", ".join(place for place, yes in zip(places, which.tolist(), strict=True) if yes)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")


@dataclass(frozen=True, eq=False)
class Audit:
    """What :func:`tcdecomp.audit` found. It prints as a report.

    Attributes
    ----------
    estimator : str
        Name of the estimator by its weights: "symmetric MSS", "MSS of the paper", "MWS",
        "inclusive", "leave-one-out", ..., "unknown", or "none" if a loss is the plain KL.
    verdicts : tuple of Verdict
        Faults first, then remarks. Without a fault, the first verdict says that q(z) is unbiased.
    weights : tuple of Weights
        Own weight and row sum for several M and N.
    study : Study or None
        The Gaussian study. None if the code raised an exception, takes no negative logvar, does
        not use N, or is an unknown loss.
    loss : tuple of three floats, or None
        With ``returns="loss"``: the weights of MI, TC and DWKL in the loss.
    """

    estimator: str
    verdicts: tuple[Verdict, ...]
    weights: tuple[Weights, ...] = ()
    study: Study | None = None
    loss: tuple[float, float, float] | None = None

    @property
    def ok(self) -> bool:
        """Whether no verdict is a fault."""
        return all(verdict.kind != "fault" for verdict in self.verdicts)

    def __str__(self) -> str:
        """Return the report, in words and tables."""
        faults = sum(verdict.kind == "fault" for verdict in self.verdicts)
        parts = [f"estimator: {self.estimator}\nfaults: {faults or 'none'}"]
        if self.loss:
            parts[0] += "\nloss: {:.4g} MI + {:.4g} TC + {:.4g} DWKL".format(*self.loss)
        parts += map(str, self.verdicts)
        if self.weights:
            parts.append("\n".join(_weights_table(self.weights)))
        if self.study:
            names = (
                ["loss"] if self.loss else TERMS[1:2] if self.study.truth.numel() == 1 else TERMS
            )
            parts.append("\n".join(_study_table(self.study, names)))
        return "\n\n".join(parts)


def _weights_table(weights: tuple[Weights, ...]) -> Iterator[str]:
    yield f"weights of a row{'M':>8}{'N':>10}{'own * N':>14}{'sum':>12}"
    for w in weights:
        own = w.own * w.dataset_size
        yield f"{'':16}{w.batch_size:8}{w.dataset_size:10}{own:14.4g}{w.row_sum:12.4g}"


def _study_table(study: Study, names: Sequence[str]) -> Iterator[str]:
    sizes = f"M = {BATCH_SIZE}, N = {DATASET_SIZE}, D = {DIM}"
    yield f"Gaussian study: {len(study.answers)} batches, {sizes}; nats and standard errors"
    yield f"{'':18}{'truth':>18}{'this code':>20}{'tcdecomp, mss':>20}"
    columns = [(study.truth, study.truth_error), mean(study.answers), mean(study.reference)]
    for i, name in enumerate(names):
        cells = [f"{value[i]:.3f} +- {error[i]:.3f}" for value, error in columns]
        yield f"{name:18}{cells[0]:>18}{cells[1]:>20}{cells[2]:>20}"


def mean(answers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over the batches, and its standard error."""
    return answers.mean(0), answers.std(0) / len(answers) ** 0.5
