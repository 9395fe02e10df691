"""What all layers of a model give and take in one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, jit, nn

from tcdecomp.plugins.seam.outputs import moments_in
from tcdecomp.plugins.seam.taps import first_tensor

__all__ = ["Gave", "Took", "Trace", "traced"]


class Gave(NamedTuple):
    """A layer's output: one tensor, or the two of a pair."""

    layer: str
    tensors: tuple[Tensor, ...]


class Took(NamedTuple):
    """A layer's first input, and how many outputs there were before."""

    layer: str
    tensor: Tensor
    before: int


class Trace:
    """The outputs and inputs of the layers, in order, and how often each was called."""

    output: Any = None  # of the run

    def __init__(self, model: nn.Module) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.gave: list[Gave] = []
        self.took: list[Took] = []
        self.runs: Counter[str] = Counter()
        self._plain: set[int] = set()

    def entering(self, name: str, layer: nn.Module, args: Any, kwargs: Any) -> None:
        """Note the input of a layer."""
        self.runs[name] += 1
        _, tensor = first_tensor(args, kwargs)
        # What a layer with weights gives is no sample of anything: it saves a backward to skip it.
        if tensor is not None and _is_batch(tensor) and id(tensor) not in self._plain:
            self.took.append(Took(name, tensor, len(self.gave)))

    def leaving(self, name: str, layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Note the output of a layer."""
        tensors = moments_in(output)
        if tensors and all(map(_is_batch, tensors)):
            self.gave.append(Gave(name, tensors))
            if not list(layer.children()) and list(layer.parameters()):
                self._plain.update(map(id, tensors))


@contextmanager
def traced(model: nn.Module) -> Iterator[Trace]:
    """Trace the model's layers inside, scripted ones aside."""
    trace, handles = Trace(model), []
    for name, layer in model.named_modules():
        if name and not isinstance(layer, jit.ScriptModule):
            entering, leaving = partial(trace.entering, name), partial(trace.leaving, name)
            handles.append(layer.register_forward_pre_hook(entering, with_kwargs=True))
            handles.append(layer.register_forward_hook(leaving, with_kwargs=True))
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def _is_batch(tensor: Tensor) -> bool:
    return tensor.requires_grad and tensor.is_floating_point() and tensor.dim() >= 2
