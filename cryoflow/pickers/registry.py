"""The pickers that are installed: the modules of `cryoflow.pickers.programs`, and plug-ins of other packages.

A plug-in is an entry point of the group `cryoflow.pickers`. It names a `Picker`, a subclass of it, or a module with a
`PICKER`. A plug-in that cannot be used is left out with one warning: the commands work without it. Nothing here imports
numpy or pandas.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from operator import attrgetter

from cryoflow.errors import BadInput
from cryoflow.pickers.base import Ability, Picker

GROUP = "cryoflow.pickers"
"""Entry-point group of plug-ins."""

RESERVED = frozenset({"verify"})
"""Names that `cryoflow export` has for other commands."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_REQUIRED = ("name", "title", "help")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BrokenPlugin:
    """A plug-in that cannot be used.

    Attributes
    ----------
    plugin
        The entry point and the distribution that it comes from.
    reason
        What is wrong with it.
    """

    plugin: str
    reason: str


@dataclass(frozen=True)
class Registry:
    """All pickers by name, and the plug-ins that could not be used."""

    pickers: Mapping[str, Picker]
    broken: tuple[BrokenPlugin, ...]


@cache
def registry() -> Registry:
    """Find the pickers, once per process; call `registry.cache_clear()` after installing a plug-in."""
    package = importlib.import_module("cryoflow.pickers.programs")
    found: dict[str, Picker] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        if hasattr(module, "PICKER"):
            found[module.PICKER.name] = module.PICKER
    broken = []
    for point in sorted(entry_points(group=GROUP), key=lambda p: (p.name, p.value)):
        try:
            plugin = _picker_of(importlib.import_module(point.module), point.attr)
            if plugin.name in RESERVED:
                raise ValueError(f"its name {plugin.name} is taken by a command")
            if plugin.name in found:
                raise ValueError(f"its name {plugin.name} is taken by {type(found[plugin.name]).__module__}")
            found[plugin.name] = plugin
        except (Exception, SystemExit) as error:
            origin = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
            broken.append(BrokenPlugin(f"{point.name}{origin}", f"{type(error).__name__}: {error}"))
    if broken:
        named = "; ".join(f"{b.plugin} ({b.reason})" for b in broken)
        log.warning("%d picker plug-in(s) left out: %s", len(broken), named)
    return Registry(dict(sorted(found.items())), tuple(broken))


def pickers() -> Mapping[str, Picker]:
    """Return all pickers by name, sorted."""
    return registry().pickers


def names(ability: Ability = "export") -> tuple[str, ...]:
    """Return the names of the pickers that cryoflow can export for, train, or pick with."""
    return tuple(name for name, each in pickers().items() if ability in each.abilities)


def picker(name: str | Picker) -> Picker:
    """Return one picker by name. A picker that is not installed is given as the object, and returned as it is.

    Raises
    ------
    BadInput
        If there is none of that name.
    """
    if isinstance(name, Picker):
        return name
    known = pickers()
    if name not in known:
        raise BadInput(name, "is no picker that cryoflow knows.", f"It knows: {', '.join(known)}.")
    return known[name]


def _picker_of(module: object, attribute: str) -> Picker:
    """Return the picker that an entry point names: `module`, or an attribute of it."""
    value = attrgetter(attribute)(module) if attribute else module
    value = getattr(value, "PICKER", value)
    value = value() if isinstance(value, type) and issubclass(value, Picker) else value
    if not isinstance(value, Picker):
        raise TypeError(f"it is no Picker but {type(value).__name__}")
    if missing := [a for a in _REQUIRED if not isinstance(getattr(value, a, None), str)]:
        raise TypeError(f"it has no {', '.join(missing)}")
    if not _NAME.fullmatch(value.name):
        raise ValueError(f"its name {value.name!r} is not of the form {_NAME.pattern}")
    return value
