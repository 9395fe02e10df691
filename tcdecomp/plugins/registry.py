"""Which plugins there are, and which of them serves a model.

The name of an adapter's entry point, in the group ``tcdecomp``, is the import name of the package
that it serves. An entry point is loaded once, when the first model comes by whose class derives
from a class of that package. So importing tcdecomp loads no adapter, an adapter is asked about
models of its own package only, and one that cannot be imported disturbs no other.

Plugins registered by hand are asked first, the latest before the others; then the adapters, in the
order of the type's ``__mro__``.
"""

from __future__ import annotations

import functools
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

from pluggy import PluginManager, PluginValidationError

from tcdecomp.plugins import hooks

__all__ = ["NoAdapterError", "Status", "ask", "register", "survey", "unregister"]

_GROUP = "tcdecomp"
_SEAMS = {
    "tcdecomp_encode": "encode(batch) that returns (mu, logvar), a Normal or a Posterior",
    "tcdecomp_attach": "kl_loss(z, mu, logvar) that its loss calls",
}

# One manager for each plugin, so that each can be asked on its own.
_by_hand: list[PluginManager] = []
_adapters: dict[str, PluginManager] = {}


class NoAdapterError(TypeError):
    """No plugin serves a model of this type."""


def ask(hook: str, model: Any, **arguments: Any) -> Any:
    """Return the first answer to ``hook`` that is not None, in the order of precedence.

    Raises
    ------
    NoAdapterError
        If no plugin has an answer.
    ImportError
        If an adapter on the way cannot be loaded, or is claimed twice.
    """
    packages = _packages(type(model))
    for manager in _candidates(packages):
        answer = getattr(manager.hook, hook)(model=model, **arguments)
        if answer is not None:
            return answer
    error = NoAdapterError(_advice(hook, type(model), packages))
    _claims.cache_clear()  # an adapter installed upon this error is found the next time
    raise error


def register(plugin: object) -> None:
    """Ask ``plugin`` about every model from now on, before all that is registered or loaded.

    Parameters
    ----------
    plugin : object
        A module, or an instance, with functions marked :data:`~tcdecomp.plugins.hooks.hookimpl`.

    Raises
    ------
    TypeError
        If it implements no hook, one that does not exist, or one with wrong arguments.
    ValueError
        If it is registered already.

    Examples
    --------
    >>> import torch
    >>> from tcdecomp import encode, hookimpl, plugins
    >>> class ForFunctions:
    ...     @hookimpl
    ...     def tcdecomp_encode(self, model, batch):
    ...         return model(batch) if type(model).__name__ == "function" else None
    >>> adapter = ForFunctions()
    >>> plugins.register(adapter)
    >>> encode(lambda x: (x, torch.zeros_like(x)), torch.ones(8, 3)).z.shape
    torch.Size([8, 3])
    >>> plugins.unregister(adapter)
    """
    if any(manager.is_registered(plugin) for manager in _by_hand):
        raise ValueError(f"plugin must be registered only once; got {plugin!r} again")
    name = getattr(plugin, "__name__", type(plugin).__name__)
    _by_hand.insert(0, _manager_of(plugin, repr(name)))


def unregister(plugin: object) -> None:
    """Undo :func:`~tcdecomp.plugins.register`.

    Raises
    ------
    ValueError
        If it is not registered.
    """
    for manager in _by_hand:
        if manager.is_registered(plugin):
            return _by_hand.remove(manager)
    raise ValueError(
        f"plugin must be what was given to register(), the same object; got {plugin!r}"
    )


class Status(NamedTuple):
    """What is known of one plugin.

    Attributes
    ----------
    package : str
        The import name of the package that it serves; empty if it was registered by hand.
    plugin : str
        The entry point's value, or the name under which it was registered.
    distribution : str
        The distribution that it came with, or all that claim the package.
    state : {"registered", "ready", "absent", "broken", "claimed twice"}
        "absent" if the package that it serves is not installed; then nothing is loaded.
    reason : str
        Why it is broken or claimed twice; otherwise empty.
    """

    package: str
    plugin: str
    distribution: str
    state: Literal["registered", "ready", "absent", "broken", "claimed twice"]
    reason: str = ""


def survey() -> list[Status]:
    """Return the state of every plugin: those registered by hand, then the installed ones.

    An adapter whose package is installed is loaded, to see whether it can be.

    Examples
    --------
    >>> from tcdecomp import plugins
    >>> [(status.plugin, status.state) for status in plugins.survey() if status.package == "torch"]
    [('tcdecomp_adapters.plain', 'ready')]
    """
    names = [str(name) for manager in _by_hand for name, _ in manager.list_name_plugin()]
    _claims.cache_clear()
    return [
        *(Status("", name.strip("'"), "", "registered") for name in names),
        *(_status(package, claims) for package, claims in sorted(_claims().items())),
    ]


def _status(package: str, claims: Sequence[EntryPoint]) -> Status:
    known = (package, " and ".join(c.value for c in claims), " and ".join(map(_owner, claims)))
    if len(claims) > 1:
        return Status(*known, "claimed twice", "all but one must be uninstalled")
    if not _is_installed(package):
        return Status(*known, "absent")
    try:
        _adapter(package, claims)
    except (Exception, SystemExit) as error:
        cause = error.__cause__ or error  # the error around it says no more than this status
        reason = f"{type(cause).__name__}: {cause}"
        return Status(*known, "broken", " ".join(reason.split()))
    return Status(*known, "ready")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # what no package can be called
        return False


def _candidates(packages: Sequence[str]) -> Iterator[PluginManager]:
    yield from tuple(_by_hand)
    for package in packages:
        if claims := _claims().get(package):
            yield _adapter(package, claims)


def _adapter(package: str, claims: Sequence[EntryPoint]) -> PluginManager:
    """Return the package's adapter, loaded once."""
    if package not in _adapters:
        entry, *others = claims
        if others:
            raise ImportError(
                f"entry point {package!r} of group {_GROUP!r} must be claimed by one distribution; "
                f"got {' and '.join(map(_describe, claims))}. Uninstall all but one"
            )
        try:
            plugin = entry.load()
        except Exception as error:
            raise ImportError(
                f"{_describe(entry)} could not be loaded: {type(error).__name__}: {error}"
            ) from error
        _adapters[package] = _manager_of(plugin, _describe(entry))
    return _adapters[package]


def _packages(kind: type) -> list[str]:
    """Return the top packages of a type's classes, in the order of its ``__mro__``."""
    return list(dict.fromkeys(owner.__module__.partition(".")[0] for owner in kind.__mro__))


@functools.cache
def _claims() -> Mapping[str, list[EntryPoint]]:
    """Return the installed entry points of the group, by name."""
    claims = defaultdict(list)
    for entry in entry_points(group=_GROUP):
        claims[entry.name].append(entry)
    return claims


def _describe(entry: EntryPoint) -> str:
    return f"'{entry.name} = {entry.value}' of {_owner(entry)}"


def _owner(entry: EntryPoint) -> str:
    return "an unnamed distribution" if entry.dist is None else entry.dist.name


def _manager_of(plugin: object, name: str) -> PluginManager:
    """Return a manager with this plugin alone, validated against the hooks."""
    known = " and ".join(_SEAMS)
    if isinstance(plugin, type):
        raise TypeError(f"plugin must be a module or an instance; got the class {name}")
    manager = PluginManager("tcdecomp")
    manager.add_hookspecs(hooks)
    try:
        manager.register(plugin, name)
        manager.check_pending()
    except PluginValidationError as error:
        raise TypeError(f"plugin {name} must implement {known} as specified: {error}") from error
    if not manager.get_hookcallers(plugin):
        raise TypeError(f"plugin must mark {known}, or one of them, with @hookimpl; got {name}")
    return manager


def _advice(hook: str, kind: type, packages: Sequence[str]) -> str:
    managers = (*_by_hand, *_adapters.values())
    loaded = [str(name) for manager in managers for name, _ in manager.list_name_plugin()]
    taken = {"__main__", *sys.stdlib_module_names, *_claims()}
    served = ", ".join(repr(name) for name in packages if name not in taken)
    return (
        f"no plugin implements {hook} for a model of type {kind.__module__}.{kind.__qualname__}. "
        "Either (1) pass seam=tcdecomp.find_seam(model, batch), which serves a torch.nn.Module by "
        "its layers; (2) call criterion(z, mu, logvar, dataset_size) in your own training loop; "
        f"(3) give the model, a torch.nn.Module, a method {_SEAMS[hook]}; "
        f"(4) tcdecomp.plugins.register() an object with {hook} marked @tcdecomp.hookimpl; or "
        f"(5) install, or publish, a distribution with an entry point in the group {_GROUP!r} "
        f"named like the model's package{f' ({served})' if served else ''}. "
        f"Loaded: {', '.join(loaded) or 'nothing'}"
    )
