"""Backends by name. Owns which one a name stands for, and which one `auto` takes.

`auto` asks the backends in a fixed order whether they work on this machine: bubblewrap, docker, then the others by
name. It never takes one without isolation. A package adds a backend by an entry point in the group
`agentrl.sandboxes`: name -> Backend class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentrl.registry import Registry
from agentrl.sandbox.base import Backend, SandboxError, SandboxFault

BACKENDS = Registry(
    "sandbox backend",
    "agentrl.sandboxes",
    {
        "auto": "agentrl.sandbox.registry:first_that_works",
        "bubblewrap": "agentrl.sandbox.bubblewrap.backend:Bubblewrap",
        "docker": "agentrl.sandbox.docker.backend:Docker",
        "subprocess": "agentrl.sandbox.host.unsafe:Subprocess",
    },
    error=SandboxError,
)
_PREFERRED = ("bubblewrap", "docker")
"""`auto` asks these first, in this order: bubblewrap needs no daemon and starts faster."""


def register_backend(name: str, make: Callable[..., Backend]) -> None:
    """Add a backend under a name.

    Args:
        make: `make(**options)` builds the backend. `auto` considers it only if it is a `Backend` class.
    """
    BACKENDS.register(name, make)


def backend_names() -> list[str]:
    """Every name that `make_backend` knows except `auto`, sorted."""
    return [name for name in BACKENDS.names if name != "auto"]


def make_backend(name: str = "auto", **options: Any) -> Backend:
    """A backend by name.

    Args:
        name: `auto`, `bubblewrap`, `docker`, `subprocess` (which needs `unsafe=True`), a plug-in's, or a reference
            `package.module:Class` or `./file.py:Class`.
        options: what the backend's constructor takes.
    Raises: SandboxError for an unknown name; SandboxFault if `auto` finds no backend, with what to install.
    """
    backend: Backend = BACKENDS.find(name)(**options)
    return backend


def first_that_works(**options: Any) -> Backend:
    """The backend that `auto` stands for. Raises: SandboxFault if none works here."""
    others = [name for name in backend_names() if name not in _PREFERRED]
    for name in (*_PREFERRED, *others):
        kind = BACKENDS.find(name)
        if isinstance(kind, type) and issubclass(kind, Backend) and kind.isolates and kind.works_here():
            return kind(**options)
    raise SandboxFault(
        "no sandbox backend works here: run `agentrl doctor`. On Debian: sudo apt-get install -y bubblewrap"
    )
