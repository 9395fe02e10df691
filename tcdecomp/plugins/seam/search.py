"""The search for a model's seam, by what its layers give and take in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import nn

from tcdecomp._checks import refuse_class
from tcdecomp.plugins.attachment import DETACH, Attachment
from tcdecomp.plugins.seam.candidates import Candidate, candidates
from tcdecomp.plugins.seam.outputs import loss_in
from tcdecomp.plugins.seam.reading import gradients
from tcdecomp.plugins.seam.running import Attempt, attempts, check_batch
from tcdecomp.plugins.seam.scales import SCALES
from tcdecomp.plugins.seam.seam import Seam
from tcdecomp.plugins.seam.taps import FIRING
from tcdecomp.plugins.seam.trace import Trace, traced
from tcdecomp.plugins.seam.undisturbed import undisturbed
from tcdecomp.plugins.seam.verdict import conclusion

__all__ = ["find_seam"]

_RUN = "find_seam(model, batch, run=lambda model, batch: ...)"
_BY_HAND = "Call criterion(z, mu, logvar, dataset_size) in your own loss"
_METHODS = ("training_step", "compute_loss", "loss", "forward")


def find_seam(
    model: nn.Module,
    batch: Any,
    *,
    run: Callable[[nn.Module, Any], Any] | None = None,
    quiet: bool = False,
) -> Seam:
    """Find where a model keeps its posterior, and print the evidence.

    The model runs twice on the batch, from two seeds, and is left as it was. Derivatives show which
    layers give the moments and which layer takes z: dz/dmu is 1, and the derivative for the spread
    shows how the spread is written. The noise in z must have mean 0 and variance 1.

    Parameters
    ----------
    model : torch.nn.Module
        In train mode, in which a VAE draws z.
    batch : object
        What its data loader yields, or what its ``forward`` takes. It must hold enough items for
        16 latent values.
    run : callable, optional
        Runs the model on the batch, ``run(model, batch)``, as a training step does. By default
        its methods ``training_step``, ``compute_loss``, ``loss`` and ``forward`` are tried, until
        one returns a loss.
    quiet : bool
        Whether to print nothing.

    Returns
    -------
    Seam
        For ``encode``, ``score`` and ``attach``.

    Raises
    ------
    TypeError, ValueError
        If the model carries an attachment or cannot be run, or there is no seam or more than one.
        The error says what was seen.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from tcdecomp import find_seam
    >>> class VAE(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.encoder, self.decoder = nn.Linear(5, 6), nn.Linear(3, 5)
    ...     def forward(self, x):
    ...         mu, logvar = self.encoder(x).chunk(2, dim=1)
    ...         return self.decoder(mu + (0.5 * logvar).exp() * torch.randn_like(mu))
    >>> find_seam(VAE(), torch.rand(64, 5), quiet=True)
    Seam(moments='encoder', z='decoder', scale='logvar', loss=None, kl_weight=None)
    """
    _check(model, batch)
    ways = [Attempt(None, lambda: run(model, batch))] if run else attempts(model, batch, _METHODS)
    runs: list[_Run] = []
    for attempt in ways:
        runs.append(_searched(model, attempt))
        if runs[-1].has_loss:
            break
    shown = next((run for run in reversed(runs) if run.served()), None)
    if shown is None:
        raise ValueError(_refusal(model, batch, runs))
    method = shown.attempt.method if shown.has_loss else None
    seam, report = conclusion(model, shown.served(), method)
    if not quiet:
        print(report)
    return seam


class _Run(NamedTuple):
    """What one way to run the model has shown, or the error that it met.

    ``runs`` counts the runs of each layer; ``noisy`` says whether a second run drew other values.
    """

    attempt: Attempt
    error: Exception | None = None
    runs: Mapping[str, int] = {}
    noisy: bool = False
    found: Sequence[Candidate] = ()
    has_loss: bool = False

    def served(self) -> list[Candidate]:
        """Return the candidates whose layers ran once."""
        return [c for c in self.found if all(self.runs[name] == 1 for name in c.layers)]


def _check(model: nn.Module, batch: Any) -> None:
    refuse_class("model", model)
    check_batch(batch)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    if (carried := Attachment.of(model)) is not None:
        raise ValueError(f"model must not carry an attachment; got {carried!r}. {DETACH}")


def _searched(model: nn.Module, attempt: Attempt) -> _Run:
    try:
        again = [took.tensor.detach() for took in _traced_run(model, attempt, seed=1).took]
        trace = _traced_run(model, attempt, seed=0)
        pairs = zip_longest(trace.took, again[: len(trace.took)])
        noisy = [
            took for took, other in pairs if other is None or not torch.equal(took.tensor, other)
        ]
        with torch.enable_grad():
            found = candidates(trace, noisy)
        return _Run(attempt, None, trace.runs, bool(noisy), found, _is_loss(trace.output, found))
    except Exception as error:  # of the model's own code, on a batch for another method
        return _Run(attempt, error)


def _traced_run(model: nn.Module, attempt: Attempt, seed: int) -> Trace:
    with undisturbed(model, parameters=True), torch.enable_grad(), traced(model) as trace:
        torch.manual_seed(seed)
        trace.output = attempt.run()
    return trace


def _is_loss(output: Any, found: list[Candidate]) -> bool:
    """Tell whether a method returned a loss that depends on the posterior."""
    loss = loss_in(output)
    if loss is None or not loss.requires_grad or not found:
        return False
    moments = [tensor for candidate in found for tensor in candidate.tensors]
    return any(gradient.any() for gradient in gradients(loss, moments))


def _refusal(model: nn.Module, batch: Any, runs: list[_Run]) -> str:
    """Say why no run has shown a seam."""
    name = type(model).__name__
    ran = [run for run in runs if run.error is None]
    if not ran:
        tried = "; ".join(
            f"{run.attempt.method or 'run'}: {type(run.error).__name__}: {run.error}".rstrip(".")
            for run in runs
        )
        return (
            f"{name} must run on the batch; tried {tried or 'nothing, since no method takes it'}. "
            f"{_of_arrays(batch)}Show how it runs: {_RUN}"
        )
    start = f"no seam was found in {name}"
    if not any(run.noisy for run in ran):
        if model.training:
            return (
                f"{start}: it draws no noise, and gives the same for two seeds. If another method "
                f"draws z: {_RUN}"
            )
        return f"{start}: it draws no noise in eval mode. Call model.train()"
    if again := next((c for run in ran for c in run.found), None):
        return (
            f"{start}: {again.place} would be one, but not all of these layers run once in a step. "
            f"{_BY_HAND}"
        )
    layers = set().union(*(run.runs for run in ran))
    if silent := [n for n, layer in model.named_modules() if n not in layers and _has_own(layer)]:
        return f"{start}, in which these layers were not seen to run: {', '.join(silent)}. {FIRING}"
    return (
        f"{start}: no layer gives a mean that moves what a later layer takes one to one, with a "
        f"spread beside it that is {' or '.join(SCALES)}. A product of experts, or moments that a "
        "function changes behind the layer, look like this. Compute them in a layer of their own, "
        "a torch.nn.Module that returns (mu, logvar)"
    )


def _of_arrays(batch: Any) -> str:
    """Say what makes tensors of a batch that holds arrays of another library."""
    entries = batch.values() if isinstance(batch, Mapping) else batch
    for entry in entries if isinstance(batch, Mapping | tuple | list) else [batch]:
        if hasattr(entry, "__array__") and not isinstance(entry, torch.Tensor):
            kind = type(entry).__name__
            return f"batch holds a {kind}; torch.as_tensor(array).float() makes a tensor. "
    return ""


def _has_own(layer: nn.Module) -> bool:
    return bool(list(layer.parameters(recurse=False)))
