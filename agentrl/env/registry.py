"""The registry of environments: ids, `make`, and entry points. Imports an environment only when asked.

Built-in and third-party environments come through one door: the entry-point group
`agentrl.environments`, whose names are ids and whose values are `module:Class`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

import gymnasium

from agentrl.env.base import Env
from agentrl.errors import EnvNotFound, did_you_mean

E = TypeVar("E", bound=type[Env])
GROUP = "agentrl.environments"
_REGISTERED: dict[str, EnvSpec] = {}


@dataclass(frozen=True)
class EnvSpec:
    """What is registered under an id: the class, its keyword arguments, and a limit on turns."""

    id: str
    env_class: type[Env]
    max_turns: int | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """First line of the class's docstring."""
        return (self.env_class.__doc__ or "").strip().split("\n")[0]


def register(id: str, *, max_turns: int | None = None, **kwargs: Any) -> Callable[[E], E]:
    """Class decorator that registers an environment here and with Gymnasium.

    Args:
        id: `namespace/Name-v0`.
        max_turns: turns after which an episode is truncated; the class's `limits` by default.
        kwargs: given to the constructor.
    """

    def add(env_class: E) -> E:
        _REGISTERED[id] = EnvSpec(id, env_class, max_turns, kwargs)
        if id not in gymnasium.registry:
            gymnasium.register(id=id, entry_point=_GymnasiumEntry(id))
        return env_class

    return add


class _GymnasiumEntry:
    """What `gymnasium.make` calls; picklable, for AsyncVectorEnv."""

    def __init__(self, id: str) -> None:
        self.id = id

    def __call__(self, **kwargs: Any) -> Env:
        return make(self.id, **kwargs)


def make(id: str, **kwargs: Any) -> Env:
    """Create an environment.

    Args:
        id: a registered id.
        kwargs: override what was registered; `max_turns` sets the limit.
    Raises: EnvNotFound that names the nearest id.
    """
    found = spec(id)
    max_turns = kwargs.pop("max_turns", found.max_turns)
    env = found.env_class(**{**found.kwargs, **kwargs})
    if max_turns is not None:
        env.limits = replace(env.limits, max_turns=max_turns)
    return env


def spec(id: str) -> EnvSpec:
    """The registration of an id, importing its module if it comes from an entry point."""
    if id not in _REGISTERED:
        entry = _entries().get(id)
        if entry is None:
            raise EnvNotFound(f"{id!r}.{did_you_mean(id, env_ids())}")
        entry.load()
        if id not in _REGISTERED:
            raise EnvNotFound(f"entry point {entry.value!r} does not register {id!r}: use @register({id!r})")
    return _REGISTERED[id]


def env_ids() -> list[str]:
    """Every id that `make` accepts, sorted; nothing is imported."""
    return sorted({*_REGISTERED, *_entries()})


@lru_cache(maxsize=1)
def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
