"""A method of one object: whether an attribute of the object can take its place."""

from __future__ import annotations

from typing import Any

__all__ = ["attribute_of_class", "check_own"]


def check_own(model: Any, method: str | None) -> None:
    """Raise a TypeError if the model has no such method of its own, to be replaced on itself."""
    name = type(model).__name__
    if not hasattr(model, "__dict__"):
        raise TypeError(
            f"model must have a __dict__ to carry an attachment; {name} has none. Call "
            "criterion(z, mu, logvar, dataset_size) in your own loss"
        )
    if method is None:
        return
    if method.startswith("__") and method.endswith("__"):
        raise TypeError(
            f"method must not be special, since Python looks up {method} on the class and not on "
            "the model; name the method that it calls, as forward of a torch.nn.Module"
        )
    if not callable(getattr(model, method, None)):
        raise TypeError(f"model must have a method {method!r}; {name} has none")
    places = (vars(model), vars(model).get("_modules", ()), *map(vars, type(model).__mro__))
    if not any(method in place for place in places):
        raise TypeError(
            f"model must have a method {method!r} of its own; {name} passes on that of another "
            "object: attach to the model that it wraps"
        )


def attribute_of_class(model: Any, name: str) -> Any:
    """Return what ``model.name`` would be without an instance attribute of that name."""
    for owner in type(model).__mro__:
        if name in vars(owner):
            attribute = vars(owner)[name]
            bind = getattr(type(attribute), "__get__", None)
            return attribute if bind is None else bind(attribute, model, type(model))
    return type(model).__getattr__(model, name)  # where torch keeps submodules
