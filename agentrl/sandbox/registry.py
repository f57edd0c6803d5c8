"""Backends by name. Owns the choice; `auto` takes the first that works here, and never one without walls.

Third parties add a backend by an entry point in the group `agentrl.sandboxes`: name -> Backend class.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
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
_registered: dict[str, Callable[..., Backend]] = {}


def register_backend(name: str, make: Callable[..., Backend]) -> None:
    """Add a backend under a name; `make(**options)` builds it."""
    _registered[name] = make


def backend_names() -> list[str]:
    """Every name that `make_backend` knows beside `auto`; a built-in one whose module is missing is left out."""
    built_in = [name for name, place in _BUILT_IN.items() if importlib.util.find_spec(place.split(":")[0])]
    return sorted({*built_in, *_registered, *(entry.name for entry in entry_points(group=GROUP))})


def make_backend(name: str = "auto", **options: Any) -> Backend:
    """A backend by name.

    Args:
        name: `auto`, `bubblewrap`, `docker`, `subprocess` (which needs `unsafe=True`), or a plug-in's.
        options: what the backend's constructor takes.
    Raises: SandboxError for an unknown name; SandboxFault where `auto` finds nothing, with what to install.
    """
    if name == "auto":
        name = _first_choice()
    if name in _registered:
        return _registered[name](**options)
    if name in _BUILT_IN and name in backend_names():
        module, _, attribute = _BUILT_IN[name].partition(":")
        return getattr(importlib.import_module(module), attribute)(**options)  # type: ignore[no-any-return]
    for entry in entry_points(group=GROUP, name=name):
        return entry.load()(**options)  # type: ignore[no-any-return]
    raise SandboxError(f"no sandbox backend is named {name!r}.{did_you_mean(name, [*backend_names(), 'auto'])}")


def _first_choice() -> str:
    if sys.platform == "linux" and shutil.which("bwrap"):
        return "bubblewrap"
    if "docker" in backend_names() and importlib.util.find_spec("docker"):
        return "docker"
    raise SandboxFault(
        "no sandbox backend works here: run `agentrl doctor`. On Debian: sudo apt-get install -y bubblewrap"
    )
