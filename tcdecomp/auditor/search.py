"""The search for the form that reproduces the code's answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from tcdecomp.auditor.fit import Explanation, Fit, Pairs
from tcdecomp.auditor.forms import NONE, UNKNOWN, Form
from tcdecomp.auditor.probes import Probe, apart, ordinary
from tcdecomp.auditor.subject import Study, Subject, Weights, relative_errors

__all__ = ["COARSE", "PRECISE", "Findings", "search"]

PRECISE = 1e-4  # relative error of code in single precision, with a margin
COARSE = 0.03  # the same in half precision
ROUNDING = 20  # how much larger an error may be elsewhere than on ordinary batches
EQUAL = 1e-3  # relative difference of weights of a loss
FREE = 2  # times as many batches identify a loss, whose weights are free


@dataclass(frozen=True)
class Findings:
    """What the answers to ordinary batches show."""

    subject: Subject
    generator: Generator  # of further batches
    pairs: Pairs  # the batches and the answers
    change: float  # the largest relative change of an answer when a batch is repeated
    always_zero: Tensor  # (answers,): which are 0 even for posteriors far apart
    uses_size: bool  # whether the answers depend on N
    known: Explanation | None = None  # the form that reproduces the answers
    axes: Explanation | None = None  # the form for D = 1, if dimensions are treated differently
    weights: tuple[Weights, ...] = ()
    study: Study | None = None

    @property
    def form(self) -> Form:
        """The form of the code, or else the right one."""
        return self.known.form if self.known else self.subject.right

    @property
    def estimator(self) -> str:
        """The name of the weights."""
        found = self.known or self.axes
        if self.plain:
            return NONE
        return found.form.estimator if found else UNKNOWN

    @property
    def loss(self) -> tuple[float, float, float] | None:
        """The weights of the terms in a loss, if they are known."""
        return self.known.form.loss if self.known else None

    @property
    def plain(self) -> bool:
        """Whether the code is a loss with equal weights: the KL, without an estimate."""
        loss = self.loss
        return loss is not None and max(loss) - min(loss) < EQUAL * max(map(abs, loss))

    @property
    def repeatable(self) -> bool:
        """Whether a batch has the same answers when it is repeated."""
        return self.change <= PRECISE

    @property
    def finite(self) -> bool:
        """Whether all answers are finite."""
        return all(bool(answer.values.isfinite().all()) for _, answer in self.pairs)

    @property
    def rounding(self) -> float:
        """The relative error that answers have by rounding."""
        least = PRECISE if self.subject.dtype in (torch.float32, torch.float64) else COARSE
        return max(least, self.known.error) if self.known else least

    def tolerance(self, least: float) -> float:
        """Return the relative error that answers may have elsewhere."""
        return max(least, ROUNDING * self.known.error) if self.known else least

    @property
    def clamped(self) -> Tensor:
        """Which answers are exactly 0 where the form has another value; for D = 1, TC is 0."""
        clamped = torch.zeros_like(self.always_zero)
        for probe, answer in self.pairs:
            if self.known:
                off = relative_errors(answer.values, self.form.predict(probe))
                clamped |= answer.at_zero & (off > max(PRECISE, 4 * self.known.error))
            elif probe.shape[1] > 1:
                clamped |= answer.at_zero
        return clamped


def search(subject: Subject, generator: Generator) -> Findings:
    """Put ordinary batches to the code, and look for the form that reproduces the answers."""
    batches = FREE if subject.returns == "loss" else 1
    drawn = [probe for _ in range(batches) for probe in ordinary(generator)]
    pairs = [(probe, subject.read(probe)) for probe in map(subject.rounded, drawn)]
    change = subject.changes(pairs, lambda probe: probe).max().item()
    zero = [answer.values == 0 for probe, answer in pairs if probe.shape[1] > 1]
    zero.append(subject.read(apart(4, 1000, dim=2)).values == 0)
    uses_size = bool(subject.changes(pairs, Probe.of_more).max() > 0)
    findings = Findings(subject, generator, pairs, change, torch.stack(zero).all(0), uses_size)
    if not findings.repeatable or findings.always_zero.any():
        return findings  # there is no one form
    accepted = (PRECISE, COARSE) if _rounds(subject, pairs) else (PRECISE,)
    for fit in (Fit(subject, pairs, error) for error in accepted):
        known = fit.explain()
        if known is None and not uses_size:
            known = fit.by_size()
        if known is None and subject.returns != "loss":
            known = fit.by_weights()
        if known:
            return replace(findings, known=known)
    if subject.returns != "terms" or subject.changes(pairs, Probe.turned).max() <= PRECISE:
        return findings
    one = [pair for pair in pairs if pair[0].shape[1] == 1]
    axes = Fit(subject, one, accepted[-1]).explain()
    return replace(findings, axes=axes) if axes and axes.form.only_weights else findings


def _rounds(subject: Subject, pairs: Pairs) -> bool:
    """Tell whether the code works, or answers, in less than single precision."""
    values = torch.stack([answer.by_sign for _, answer in pairs])
    if torch.equal(values, values.half().double()):
        return True
    # A shift changes DWKL, and a loss that contains it, but neither MI nor TC.
    unchanged = {"terms": 2, "tc": 1, "loss": 0}[subject.returns]
    changes = subject.changes(pairs, Probe.shifted).sort(1).values[:, :unchanged]
    return bool((changes > PRECISE).any())
