"""The one seam that the candidates show, and the evidence in words."""

from __future__ import annotations

import torch
from torch import nn

from tcdecomp.plugins.seam.candidates import Candidate
from tcdecomp.plugins.seam.evidence import Noise
from tcdecomp.plugins.seam.seam import Seam

__all__ = ["conclusion"]

_FEWEST = 16  # values of the noise whose variance can be told from others at all


def conclusion(model: nn.Module, found: list[Candidate], method: str | None) -> tuple[Seam, str]:
    """Return the one seam that all candidates show, and a report.

    ``method`` is the one that returned a loss. It is an error if the candidates show two seams, the
    batch is too small, or the noise is not standard normal.
    """
    best = min(found, key=_rank)
    others = [other for other in found if not torch.equal(other.evidence.mean, best.evidence.mean)]
    if others:
        other = min(others, key=_rank)
        raise ValueError(
            f"the evidence must single out one seam; got two: {best.place}, and {other.place}. "
            "Name the one you mean: Seam(moments=..., z=...)"
        )
    takers = _outermost([candidate.taker for candidate in found])
    if len(takers) > 1:
        raise ValueError(
            f"the evidence must single out one layer that takes z; got {' and '.join(takers)}. "
            "Name those that make the reconstruction, and no discriminator: "
            f"Seam(moments={_plain(best.moments)!r}, z=..., scale={_scale(best)!r})"
        )
    where = f"{method} returned it"
    if method is None and callable(getattr(model, "loss_function", None)):
        method, where = "loss_function", "loss_function, by its name alone: it was not run"
    elif method is None:
        where = "not seen: add it in your loop, loss = handle.loss(loss)"
    seam = Seam(best.moments, takers[0], _scale(best), method)
    return seam, _report(model, seam, best, where)


def _scale(best: Candidate) -> str:
    """Return the way to write a log-variance under which the noise is standard normal."""
    count = best.evidence.mean.numel()
    if count < _FEWEST:
        raise ValueError(
            f"batch must hold at least {_FEWEST} latent values to tell the noise; got {count}. "
            "Take more items"
        )
    noises = {scale: Noise.of(best.evidence, scale) for scale in best.evidence.fitting()}
    standard = [scale for scale, noise in noises.items() if noise.is_standard()]
    if len(standard) == 1:
        return standard[0]
    shown = "; ".join(f"{scale}: {noise}" for scale, noise in noises.items())
    if standard:
        raise ValueError(
            f"the evidence must single out one scale; {best.place} fits {shown}. Take more items"
        )
    raise ValueError(
        f"the noise must have mean 0 and variance 1; in {best.place} it has {shown}. z "
        "is scaled, or its noise is not normal: call criterion(z, mu, logvar, dataset_size) in "
        "your own loss, with the z that mu and logvar describe"
    )


def _rank(candidate: Candidate) -> tuple[bool, int, int]:
    """Order readings of one seam: exact ones, one layer before two, outer layers before inner."""
    exact = min(candidate.evidence.errors.values()) < 1e-4
    return not exact, len(candidate.moments), sum(name.count(".") for name in candidate.moments)


def _outermost(names: list[str]) -> list[str]:
    """Return the names without the layers inside of others, and each once."""
    return [
        name
        for name in dict.fromkeys(names)
        if not any(name.startswith(f"{other}.") for other in names)
    ]


def _plain(names: tuple[str, ...]) -> str | tuple[str, ...]:
    return names[0] if len(names) == 1 else names


def _report(model: nn.Module, seam: Seam, best: Candidate, where: str) -> str:
    scale, errors = seam.scale, best.evidence.errors
    other = min((name for name in errors if name != scale), key=lambda name: errors[name])
    lines = {
        "means": f"{seam.layers[0]}: z = mu + noise, dz/dmu is 1",
        "spreads": f"{seam.layers[-1]}, as {scale}: off the gradient by {errors[scale]:.0e} (as "
        f"{other}: by {errors[other]:.2g})",
        "z": f"taken by {seam.z}",
        "noise": f"{Noise.of(best.evidence, scale)}; expected: 0 and 1",
        "loss": where,
    }
    rows = "\n".join(f"  {name:8} {text}" for name, text in lines.items())
    return f"{type(model).__name__}: {seam}\n{rows}"
