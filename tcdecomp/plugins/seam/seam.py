"""Where a model keeps its posterior: the names of two or three of its layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Real
from typing import Any

from torch import jit, nn

from tcdecomp._checks import refuse_class
from tcdecomp.loss import TCDecomposition
from tcdecomp.plugins.attachment import Attachment
from tcdecomp.plugins.hooks import hookimpl
from tcdecomp.plugins.registry import register
from tcdecomp.plugins.seam.attachment import SeamAttachment
from tcdecomp.plugins.seam.running import encoded
from tcdecomp.plugins.seam.scales import SCALES
from tcdecomp.plugins.seam.taps import FIRING, Taps
from tcdecomp.posterior import Posterior

__all__ = ["Seam"]


@dataclass(frozen=True)
class Seam:
    """Where a model keeps its posterior, so that tcdecomp serves it without a changed line.

    :func:`tcdecomp.encode`, :func:`tcdecomp.score` and :func:`tcdecomp.attach` take it as
    ``seam=``. :func:`tcdecomp.find_seam` finds it.

    Parameters
    ----------
    moments : str or sequence of str
        The layer that gives the moments, or the two layers that give means and spreads. One layer
        returns a pair, a torch ``Normal``, or one tensor of which the first half along an axis are
        the means: the axis that is twice as long as in z, or else axis 1.
    z : str or sequence of str, optional
        The layer that takes z as its first input, perhaps joined with labels; several, if several
        make the reconstruction. Needed by ``attach``.
    scale : {"logvar", "log_sd", "sd", "variance", "softplus"}
        What the spreads are. "softplus": softplus of them is the standard deviation.
    loss : str, optional
        The method of the model that returns the loss of a training step: a scalar, a dict with one
        as "loss", a tuple that starts with one, or an object with ``.loss``. By default
        ``training_step``, if the model has it; else the loss is in your own loop, for
        ``handle.loss(loss)``.
    kl_weight : float or callable, optional
        What the loss multiplies the KL by, in nats per item. By default it is measured. A stated
        one is checked now and then. A callable returns it, without arguments or for the number of
        steps so far: for a weight that changes in every step, whose measurement would take one more
        backward through the decoder in every step.

    Raises
    ------
    TypeError, ValueError
        If a field is none of these.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from tcdecomp import Seam, encode
    >>> class VAE(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.encoder, self.decoder = nn.Linear(5, 6), nn.Linear(3, 5)
    ...     def forward(self, x):
    ...         mu, logvar = self.encoder(x).chunk(2, dim=1)
    ...         return self.decoder(mu + (0.5 * logvar).exp() * torch.randn_like(mu))
    >>> encode(VAE(), torch.zeros(8, 5), seam=Seam("encoder", "decoder")).z.shape
    torch.Size([8, 3])
    """

    moments: str | tuple[str, ...]
    z: str | tuple[str, ...] | None = None
    scale: str = "logvar"
    loss: str | None = None
    kl_weight: float | Callable[..., float] | None = None

    def __post_init__(self) -> None:
        for name in ("moments", "z"):
            object.__setattr__(self, name, _checked_names(name, getattr(self, name)))
        if len(self.layers) > 2:
            raise ValueError(
                f"moments must name one layer, or the layer of the means and that of the spreads; "
                f"got {len(self.layers)} names"
            )
        if self.scale not in SCALES:
            raise ValueError(f"scale must be one of {', '.join(SCALES)}; got {self.scale!r}")
        if self.loss is not None and not isinstance(self.loss, str):
            raise TypeError(
                "loss must be the name of a method of the model; got "
                f"{type(self.loss).__name__}. A loss in your own loop goes to handle.loss(loss)"
            )
        _check_weight(self.kl_weight)

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers of the moments."""
        return (self.moments,) if isinstance(self.moments, str) else self.moments

    @property
    def into(self) -> tuple[str, ...]:
        """The names of the layers that take z."""
        return (self.z,) if isinstance(self.z, str) else self.z or ()

    @property
    def names(self) -> str:
        """The fields that say where, for errors."""
        return f"Seam(moments={self.moments!r}, z={self.z!r})"

    def method_of(self, model: nn.Module) -> str | None:
        """Return the name of the method of ``model`` that returns the loss; None for a loop."""
        if self.loss is None and callable(getattr(model, "training_step", None)):
            return "training_step"
        return self.loss

    def encode(self, model: Any, batch: Any) -> Posterior:
        """Return the posterior of a batch: what :func:`tcdecomp.encode` does with this seam.

        The model runs until z reaches the decoder. z is what it has drawn, or is drawn anew where
        the seam names no layer of z, or z is joined with labels.

        Raises
        ------
        ValueError
            If a layer does not exist, or did not run.
        """
        self.check(model)
        carried = Attachment.of(model)
        attached = carried.taps.aside(silent=True) if isinstance(carried, SeamAttachment) else None
        taps = Taps(model, self.layers, self.into, self.scale, stop=True)
        try:
            with attached or nullcontext():
                return encoded(taps, model, batch, self.method_of(model))
        finally:
            taps.remove()

    def attach(
        self, model: Any, criterion: TCDecomposition, dataset_size: int | None
    ) -> SeamAttachment:
        """Attach the criterion: what :func:`tcdecomp.attach` does with this seam.

        Raises
        ------
        ValueError
            If a layer or the method of the loss does not exist, or the seam names no layer of z.
        """
        self.check(model)
        if not self.into:
            raise ValueError(
                "z must name the layer that takes z, for attach; got None. "
                "find_seam(model, batch) finds it"
            )
        return SeamAttachment(model, self, criterion, dataset_size)

    def register(self, kind: type) -> object:
        """Serve all models of a class from now on, without ``seam=``.

        Parameters
        ----------
        kind : type
            The class of the models.

        Returns
        -------
        object
            The adapter, for :func:`tcdecomp.plugins.unregister`.
        """
        if not isinstance(kind, type):
            raise TypeError(f"kind must be the class of the models; got {type(kind).__name__}")
        adapter = _ForClass(self, kind)
        register(adapter)
        return adapter

    def check(self, model: object) -> None:
        """Refuse a model that this seam does not fit.

        Raises
        ------
        TypeError
            If the model is no module.
        ValueError
            If a layer or the method of the loss does not exist, or no hook can be on a layer.
        """
        refuse_class("model", model)
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
        known = dict(model.named_modules())
        for field, names in (("moments", self.layers), ("z", self.into)):
            for name in names:
                if name not in known or not name:
                    raise ValueError(
                        f"{field} must name submodules of {type(model).__name__}; got {name!r}. "
                        f"{_meant(name, known) or 'print(model) shows their names'}"
                    )
                if isinstance(known[name], jit.ScriptModule):
                    raise ValueError(
                        f"{field} must name layers that Python runs; {name!r} is scripted. "
                        f"{FIRING}. Load or build the model without torch.jit"
                    )
        if self.loss is not None and not callable(getattr(model, self.loss, None)):
            kind = type(model)
            methods = [name for name in dir(kind) if callable(getattr(kind, name, None))]
            hint = _meant(self.loss, methods)
            raise ValueError(
                f"loss must name a method of {type(model).__name__}; got {self.loss!r}. "
                f"{hint or 'Leave it out for a loss in your own loop: handle.loss(loss)'}"
            )


class _ForClass:
    """The adapter of the models of one class."""

    def __init__(self, seam: Seam, kind: type) -> None:
        self.seam, self.kind = seam, kind

    @hookimpl
    def tcdecomp_encode(self, model: Any, batch: Any) -> Posterior | None:
        """Encode a model of the class."""
        return self.seam.encode(model, batch) if isinstance(model, self.kind) else None

    @hookimpl
    def tcdecomp_attach(
        self, model: Any, criterion: TCDecomposition, dataset_size: int | None
    ) -> Attachment | None:
        """Attach to a model of the class."""
        if not isinstance(model, self.kind):
            return None
        return self.seam.attach(model, criterion, dataset_size)


def _meant(name: str, known: Iterable[str]) -> str:
    """Return a question that offers the names that are close to this one; "" without any."""
    close = get_close_matches(name, filter(None, known), 3, 0.5)
    return f"Did you mean {' or '.join(map(repr, close))}?" if close else ""


def _checked_names(field: str, value: object) -> object:
    """Return one name as a string, several as a tuple."""
    names = value if isinstance(value, list | tuple) else [value]
    if value is None and field == "z":
        return None
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{field} must be a name or names of layers, strings; got {value!r}")
    return names[0] if len(names) == 1 else tuple(names)


def _check_weight(weight: object) -> None:
    if weight is None or callable(weight):
        return
    if isinstance(weight, bool) or not isinstance(weight, Real):
        raise TypeError(f"kl_weight must be a number or a callable; got {type(weight).__name__}")
    if not 0 <= float(weight) < math.inf:
        raise ValueError(f"kl_weight must be finite and at least 0; got {weight}")
