"""Modules that the worker imports before it forks, so that programs start faster. Owns what must differ per fork."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

NAMES = ("collections", "functools", "heapq", "itertools", "math", "re", "string", "typing")


def load() -> None:
    """Import `NAMES`, and prepare `random`."""
    for name in NAMES:
        __import__(name)
    sys.meta_path.insert(0, _SeededWhenImported(_unseeded_random()))


def _unseeded_random() -> ModuleType:
    """`random` without its hook that seeds it in every fork.

    The hook would take a twentieth of a short request's time, for a module that few programs import.
    """
    register, os.register_at_fork = os.register_at_fork, lambda **hooks: None
    try:
        import random
    finally:
        os.register_at_fork = register
    del sys.modules["random"]
    return random


class _SeededWhenImported:
    """Finder and loader of a `random` that is loaded already; it is seeded when a program imports it."""

    def __init__(self, random: Any) -> None:
        self._random = random
        self._spec = random.__spec__

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The spec of `random`; None for all other names."""
        return type(self._spec)(name, self) if name == "random" else None

    def create_module(self, spec: Any) -> ModuleType:
        """The module itself."""
        module: ModuleType = self._random
        return module

    def exec_module(self, module: Any) -> None:
        """Do what the module itself does when it is first imported: seed, and seed again after every fork."""
        sys.meta_path.remove(self)
        module.__spec__ = self._spec
        os.register_at_fork(after_in_child=module._inst.seed)
        module._inst.seed()
