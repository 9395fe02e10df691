"""The adapter of ``diffusers``: its autoencoders, an item's spatial latent flattened to one row."""

from __future__ import annotations

from typing import Any

from diffusers import ModelMixin

from tcdecomp import NoAdapterError, hookimpl
from tcdecomp.plugins import Attachment

__all__ = ["tcdecomp_attach", "tcdecomp_encode"]


@hookimpl
def tcdecomp_encode(model: Any, batch: Any) -> Any:
    """Return the moments of the model's ``latent_dist``, flattened to (M, C*H*W).

    Any other answer of the model's ``encode`` is returned as it is: a class derived from
    diffusers' may give a (mu, logvar) pair, and for a quantised latent the error names its type.

    Raises
    ------
    TypeError
        If the distribution is deterministic: it has no density.
    """
    encode = getattr(model, "encode", None)
    if not isinstance(model, ModelMixin) or not callable(encode):
        return None
    answer = encode(batch)
    latent = getattr(answer, "latent_dist", answer)
    # Diffusers has two Gaussians with these, which share no base.
    if not (hasattr(latent, "mean") and hasattr(latent, "logvar")):
        return latent
    if getattr(latent, "deterministic", False):
        raise TypeError(
            f"{type(model).__name__} must encode to a distribution; got a deterministic "
            f"{type(latent).__name__}"
        )
    return latent.mean.flatten(1), latent.logvar.flatten(1)


@hookimpl
def tcdecomp_attach(model: Any) -> Attachment | None:
    """Refuse diffusers' own autoencoders, whose loss is in their user's loop.

    A class of yours derived from one of them may have its loss inside: other adapters serve it.

    Raises
    ------
    NoAdapterError
        With the line to write in that loop.
    """
    own = type(model).__module__.startswith("diffusers.")
    if not own or not isinstance(model, ModelMixin) or not hasattr(model, "encode"):
        return None
    raise NoAdapterError(
        f"model must have its training loss inside to be attached to; {type(model).__name__} "
        "has none. In your training loop, with `latent = model.encode(x).latent_dist` and "
        "`z = latent.sample()`, write in place of latent.kl().mean(): "
        "criterion(z.flatten(1), latent.mean.flatten(1), latent.logvar.flatten(1), dataset_size)"
    )
