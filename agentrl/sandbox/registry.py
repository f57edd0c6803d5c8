"""Backends by name. Owns which one a name stands for, and which one `auto` takes.

`auto` asks the backends in a fixed order whether they work on this machine: bubblewrap, docker, then the others by
name. It never takes one without isolation. A package adds a backend by an entry point in the group
`agentrl.sandboxes`: name -> Backend class.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from agentrl.errors import did_you_mean
from agentrl.sandbox.base import Backend, SandboxError, SandboxFault

GROUP = "agentrl.sandboxes"
_BUILT_IN = {
    "bubblewrap": "agentrl.sandbox.bubblewrap.backend:Bubblewrap",
    "docker": "agentrl.sandbox.docker.backend:Docker",
    "subprocess": "agentrl.sandbox.host.unsafe:Subprocess",
}
_PREFERRED = ("bubblewrap", "docker")
"""`auto` asks these first, in this order: bubblewrap needs no daemon and starts faster."""
_registered: dict[str, Callable[..., Backend]] = {}


def register_backend(name: str, make: Callable[..., Backend]) -> None:
    """Add a backend under a name.

    Args:
        make: `make(**options)` builds the backend. `auto` considers it only if it is a `Backend` class.
    """
    _registered[name] = make


def backend_names() -> list[str]:
    """Every name that `make_backend` knows except `auto`; a built-in one whose module is missing is left out."""
    built_in = [name for name, place in _BUILT_IN.items() if importlib.util.find_spec(place.split(":")[0])]
    return sorted({*built_in, *_registered, *(entry.name for entry in entry_points(group=GROUP))})


def make_backend(name: str = "auto", **options: Any) -> Backend:
    """A backend by name.

    Args:
        name: `auto`, `bubblewrap`, `docker`, `subprocess` (which needs `unsafe=True`), or a plug-in's.
        options: what the backend's constructor takes.
    Raises: SandboxError for an unknown name; SandboxFault if `auto` finds no backend, with what to install.
    """
    make = _maker(_first_that_works() if name == "auto" else name)
    if make is None:
        raise SandboxError(f"no sandbox backend is named {name!r}.{did_you_mean(name, [*backend_names(), 'auto'])}")
    return make(**options)


def _maker(name: str) -> Callable[..., Backend] | None:
    """What builds the backend of this name, or None if no backend has it."""
    if name in _registered:
        return _registered[name]
    if name in _BUILT_IN and name in backend_names():
        module, _, attribute = _BUILT_IN[name].partition(":")
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
    return next((entry.load() for entry in entry_points(group=GROUP, name=name)), None)


def _first_that_works() -> str:
    others = [name for name in backend_names() if name not in _PREFERRED]
    for name in (*_PREFERRED, *others):
        kind = _maker(name)
        if isinstance(kind, type) and issubclass(kind, Backend) and kind.isolates and kind.works_here():
            return name
    raise SandboxFault(
        "no sandbox backend works here: run `agentrl doctor`. On Debian: sudo apt-get install -y bubblewrap"
    )
