"""Modules loaded ahead, so that code in a fork finds them. Owns what has to differ from fork to fork."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

NAMES = ("collections", "functools", "heapq", "itertools", "math", "re", "string", "typing")


def load() -> None:
    """Import them."""
    for name in NAMES:
        __import__(name)
    sys.meta_path.insert(0, _SeededWhenImported(_unseeded_random()))


def _unseeded_random() -> ModuleType:
    """`random`, but for its seed in every fork: a twentieth of what a short request costs, for a module few import."""
    register, os.register_at_fork = os.register_at_fork, lambda **hooks: None
    try:
        import random
    finally:
        os.register_at_fork = register
    del sys.modules["random"]
    return random


class _SeededWhenImported:
    """Finds and loads a `random` that is there already."""

    def __init__(self, random: Any) -> None:
        self._random = random
        self._spec = random.__spec__

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """None for all other names."""
        return type(self._spec)(name, self) if name == "random" else None

    def create_module(self, spec: Any) -> ModuleType:
        """The module itself."""
        module: ModuleType = self._random
        return module

    def exec_module(self, module: Any) -> None:
        """What the module would have done first."""
        sys.meta_path.remove(self)
        module.__spec__ = self._spec
        os.register_at_fork(after_in_child=module._inst.seed)
        module._inst.seed()
