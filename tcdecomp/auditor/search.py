"""The search for the form of the code: known ones first, then those whose weights are measured."""

from __future__ import annotations

from dataclasses import replace

import torch

from tcdecomp.auditor.explanation import COARSE, PRECISE, Explanation, departures, explain
from tcdecomp.auditor.measured import explain_by_choice, explain_by_weights
from tcdecomp.auditor.probes import Probe, turned
from tcdecomp.auditor.subject import Answer, Subject, largest_change, relative_errors

__all__ = ["search"]

SHIFT = 3.0  # of all means, which changes neither MI nor TC


def search(
    subject: Subject, ordinary: list[Probe], answers: list[Answer]
) -> tuple[Explanation | None, Explanation | None]:
    """Return the form that reproduces the answers, or else the one that does so for D = 1.

    The latter only where the answers depend on which dimension comes first.
    """
    coarse = (COARSE,) if _rounds(subject, ordinary, answers) else ()
    for accepted in (PRECISE, *coarse):
        explanation = (
            explain(ordinary, answers, accepted)
            or explain_by_choice(subject, ordinary, answers, accepted)
            or explain_by_weights(subject, ordinary, answers, accepted)
        )
        if explanation:
            return explanation, None
    if largest_change(subject, map(turned, ordinary), answers) <= PRECISE:
        return None, None
    return None, _in_one_dimension(ordinary, answers, accepted)


def _rounds(subject: Subject, ordinary: list[Probe], answers: list[Answer]) -> bool:
    """Tell whether the code rounds more than single precision does, on its way or at its end."""
    cast = [probe.to(subject.device, subject.dtype) for probe in ordinary]
    given = [
        subject.terms(next(p.samples()), p.mu.clone(), p.logvar.clone(), p.dataset_size)
        for p in cast
    ]
    if all(torch.equal(terms, terms.half().double()) for terms in given):
        return True
    moved = [replace(probe, mu=probe.mu + SHIFT) for probe in ordinary]
    changes = [
        relative_errors(subject.read(probe).terms, answer.terms)
        for probe, answer in zip(moved, answers, strict=True)
    ]
    return torch.stack(changes).sort(1).values[:, 1].max().item() > PRECISE  # all but the DWKL


def _in_one_dimension(
    ordinary: list[Probe], answers: list[Answer], accepted: float
) -> Explanation | None:
    """Return the form that the code has for D = 1, where its only departure is in the weights."""
    rows = [i for i, probe in enumerate(ordinary) if probe.shape[1] == 1]
    explanation = explain([ordinary[i] for i in rows], [answers[i] for i in rows], accepted)
    if explanation and set(departures(explanation.form)) <= {"estimator"}:
        return explanation
    return None
