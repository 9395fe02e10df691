"""How somebody's code takes N."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from inspect import BoundArguments, Parameter, Signature
from typing import Any

from torch import nn

from tcdecomp._checks import refuse_class

__all__ = ["TermsFunction", "with_size"]

TermsFunction = Callable[..., Any]

# In small letters, without underscores
ORDER = ["z", "mu", "logvar"]
NAMES = {"n", "ndata", "ntrain", "numdata", "numtrain", "datasize", "datasetsize", "trainsize"}


def with_size(function: TermsFunction) -> tuple[TermsFunction, bool]:
    """Return the code as a function of z, mu, logvar and N, and whether it gets N.

    It gets N as the argument that has this name, or else as a fourth one without a default.
    """
    refuse_class("terms_fn", function)
    if not callable(function):
        raise TypeError(
            f"terms_fn must be callable; got {type(function).__name__}. Pass the function itself"
        )
    try:
        called = function.forward if isinstance(function, nn.Module) else function
        signature = inspect.signature(called)
    except (TypeError, ValueError):  # of some callables in C
        return function, True
    _check_order(signature)
    stated = function.keywords if isinstance(function, partial) else {}
    names = (n for n in signature.parameters if n.lower().replace("_", "") in NAMES)
    fits = (n for n in names if n not in stated and _bound(signature, 3, **{n: 3}))
    name = next(fits, None)
    if name:
        return lambda *inputs: function(*inputs[:3], **{name: inputs[3]}), True
    three, four = _bound(signature, 3), _bound(signature, 4)
    if four and (not three or _in_star(four)):
        return function, True
    if three:
        return lambda *inputs: function(*inputs[:3]), False
    raise TypeError(
        f"terms_fn must take (z, mu, logvar, N) or (z, mu, logvar); it takes {signature}. Wrap it "
        "in a lambda: lambda z, mu, logvar, N: ..."
    )


def _check_order(signature: Signature) -> None:
    """Refuse z, mu and logvar in another order, if the parameters have these names."""
    first = list(signature.parameters)[:3]
    plain = [name.lower().replace("_", "") for name in first]
    if plain != ORDER and sorted(plain) == sorted(ORDER):
        raise TypeError(
            f"terms_fn must take z, mu, logvar in this order; it takes {signature}. Wrap it in a "
            f"lambda: lambda z, mu, logvar, N: terms_fn({', '.join(plain)}, ...)"
        )


def _bound(signature: Signature, count: int, **named: int) -> BoundArguments | None:
    """Return so many arguments, bound to the parameters, or None if they do not fit."""
    try:
        return signature.bind(*range(count), **named)
    except TypeError:
        return None


def _in_star(bound: BoundArguments) -> bool:
    """Tell whether an argument is one of ``*args``."""
    parameters = bound.signature.parameters
    return any(parameters[n].kind is Parameter.VAR_POSITIONAL for n in bound.arguments)
