"""Which layers move what another layer takes as moments move z."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from tcdecomp.plugins.seam.evidence import Evidence, Probe
from tcdecomp.plugins.seam.reading import split_axis
from tcdecomp.plugins.seam.trace import Gave, Took, Trace

__all__ = ["Candidate", "candidates"]


class Candidate(NamedTuple):
    """Layers that give moments, a layer that takes their z, and what the derivatives say."""

    moments: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    taker: str
    evidence: Evidence

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of all its layers."""
        return (*self.moments, self.taker)

    @property
    def place(self) -> str:
        """Where it is, for reports."""
        return f"{' and '.join(self.moments)} -> {self.taker}"


def candidates(trace: Trace, noisy: list[Took]) -> list[Candidate]:
    """Return whatever could be a seam; ``noisy`` is what another run would draw anew."""
    seen: dict[int, list[Candidate]] = {}
    for took in noisy:
        if id(took.tensor) not in seen:
            seen[id(took.tensor)] = list(_for_taken(trace, took))
    return [
        candidate._replace(taker=took.layer)
        for took in noisy
        for candidate in seen[id(took.tensor)]
    ]


def _for_taken(trace: Trace, took: Took) -> Iterator[Candidate]:
    taken = took.tensor
    before = [gave for gave in trace.gave[: took.before] if _comparable(gave, taken)]
    tensors = {id(tensor): tensor for gave in before for tensor in gave.tensors}
    if not tensors:
        return
    probe = Probe(taken, list(tensors.values()))
    for names, parts in _readings(before, probe):
        axis = split_axis(parts[0].shape, taken.shape)
        if len(parts) == 1 and parts[0].shape[axis] % 2:
            continue
        evidence = probe.examine(parts, axis)
        if (
            evidence is not None
            and any(evidence.noise(scale).std() > 1e-3 for scale in evidence.fitting())
            and not probe.has_other_sources(evidence, parts, trace.parameters)
        ):
            yield Candidate(names, parts, took.layer, evidence)


def _comparable(gave: Gave, taken: Tensor) -> bool:
    first = gave.tensors[0]
    return len(first) == len(taken) and first.numel() <= 2 * taken.numel()


def _readings(
    before: list[Gave], probe: Probe
) -> Iterator[tuple[tuple[str, ...], tuple[Tensor, ...]]]:
    """Yield pairs, tensors to be cut in two, and two layers of which one moves z as a mean."""
    yield from (((gave.layer,), gave.tensors) for gave in before)
    alone = [(gave.layer, gave.tensors[0]) for gave in before if len(gave.tensors) == 1]
    for name, mean in alone:
        if probe.moves(mean):
            for other, spread in alone:
                if spread is not mean and spread.shape == mean.shape:
                    yield (name, other), (mean, spread)
