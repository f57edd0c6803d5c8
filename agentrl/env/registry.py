"""The registry of environments: ids, `make`, and entry points. Imports an environment only when asked.

Built-in and third-party environments are found alike: by the entry-point group `agentrl.environments`,
whose names are ids and whose values are `module:Class`. Importing this module registers every such id
with Gymnasium too, without importing an environment, so that
`gymnasium.make("agentrl.env.registry:agentrl/Shop-v0")` needs no import before it. (Gymnasium itself has
no entry points any more.)
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import gymnasium
from gymnasium.envs.registration import EnvSpec as GymnasiumSpec

from agentrl.env.base import Env, Limits
from agentrl.errors import ConfigError, EnvNotFound, did_you_mean
from agentrl.registry import check_reference, load_file, load_module
from agentrl.trajectory import EnvRef

logger = logging.getLogger(__name__)
E = TypeVar("E", bound=type[Env])
GROUP = "agentrl.environments"
_REGISTERED: dict[str, EnvSpec] = {}
_LIMITS = frozenset(limit.name for limit in fields(Limits))
_CREATOR = "agentrl.env.registry:make_for_gymnasium"
# Modules of base classes: a file that imports one does not offer it as an environment.
_BASES = ("agentrl.env.", "agentrl.sandboxed.")
_BUILT_IN = ("abc", "builtins", "typing")


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

    Registering an id again replaces its environment, so that a notebook cell may run twice.

    Args:
        id: `namespace/Name-v0`.
        max_turns: turns after which an episode is truncated; the class's `limits` by default.
        kwargs: given to the constructor.
    Raises: ValueError if Gymnasium would not accept the id, or if `max_turns` is no whole number from 1 on.
    """
    Limits(max_turns=max_turns)  # refuses what is no limit
    _announce(id)

    def add(env_class: E) -> E:
        if not (isinstance(env_class, type) and issubclass(env_class, Env)):
            raise TypeError(f"@register({id!r}) must decorate a subclass of agentrl.Env, got {env_class!r}")
        _REGISTERED[id] = EnvSpec(id, env_class, max_turns, kwargs)
        return env_class

    return add


def make(env: str | EnvRef, **kwargs: Any) -> Env:
    """Create an environment; `env.ref` then says what it is.

    Args:
        env: a registered id, `package.module:Class`, a file `./my_env.py:Class`, or a reference to an environment.
        kwargs: override what was registered; names of `Limits`, such as `max_turns`, set limits.
    Raises: EnvNotFound that names the nearest id; ConfigError if the constructor takes no such arguments.
    """
    ref = reference(env, **kwargs)
    made = _create(ref)
    made.spec = _gymnasium_spec(ref.id, {**ref.kwargs, **ref.limits})
    return made


def reference(env: str | EnvRef, **kwargs: Any) -> EnvRef:
    """A reference with more arguments; names of `Limits`, such as `max_turns`, become its limits."""
    ref = EnvRef(env) if isinstance(env, str) else env
    limits = {name: value for name, value in kwargs.items() if name in _LIMITS}
    rest = {name: value for name, value in kwargs.items() if name not in _LIMITS}
    return replace(ref, kwargs={**ref.kwargs, **rest}, limits={**ref.limits, **limits})


def _create(ref: EnvRef) -> Env:
    found = spec(ref.id)
    made = _construct(found, {**found.kwargs, **ref.kwargs})
    own = {} if found.max_turns is None else {"max_turns": found.max_turns}
    limits: dict[str, Any] = {**own, **ref.limits}
    if limits:
        try:
            made.limits = replace(made.limits, **limits)
        except ValueError as error:
            raise ConfigError(f"{ref.id!r} cannot be made: {error}") from error
    made.ref = replace(ref, version=version_of(found))
    return made


def version_of(found: EnvSpec, *, on_disk: bool = False) -> str:
    """What an environment is made of: the version of the package that declares it, and a hash of its classes' files.

    The hash is there because a package under development changes without a new version. What a file does only when it
    is run as a program (`if __name__ == "__main__":`) does not count. Of a notebook's class there is no file: then
    nothing is known.

    Args: on_disk: read the files now. By default they were read when the class was first seen, so that an edit in the
        middle of a run does not change the version of the code that runs.
    """
    read: Callable[[Any], str] = _hash_of_files if on_disk else _hash_when_loaded
    return f"{_package_of(found.id)} {read(found.env_class)}".strip()


@lru_cache(maxsize=256)
def _package_of(id: str) -> str:
    """Name and version of the package that declares an id, read from its metadata; empty if none does."""
    entry = _entries().get(id)
    return "" if entry is None or entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def _hash_of_files(env_class: type[Env]) -> str:
    """Of the files that hold a class and its bases, those of AgentRL's own bases left out."""
    own = [base for base in env_class.__mro__ if not base.__module__.startswith((*_BASES, "gymnasium."))]
    digest = hashlib.sha256()
    try:
        for path in dict.fromkeys(inspect.getfile(base) for base in own if base.__module__ not in _BUILT_IN):
            digest.update(_text_of_module(Path(path)))
    except (TypeError, OSError):
        return ""
    return f"sha256:{digest.hexdigest()[:12]}"


def _text_of_module(path: Path) -> bytes:
    """A Python file without what it does only when it is run as a program."""
    text = path.read_bytes()
    lines = text.splitlines(keepends=True)
    with suppress(SyntaxError, ValueError):  # then the whole file counts
        for node in reversed(ast.parse(text).body):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
                del lines[node.lineno - 1 : node.end_lineno]
    return b"".join(lines)


_hash_when_loaded = lru_cache(maxsize=256)(_hash_of_files)


def _construct(found: EnvSpec, kwargs: Mapping[str, Any]) -> Env:
    try:
        return found.env_class(**kwargs)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:  # the arguments do not fit
            raise ConfigError(f"{found.id!r} cannot be made with {sorted(kwargs)}: {error}") from error
        raise


def make_for_gymnasium(env_id: str, **kwargs: Any) -> Env:
    """What `gymnasium.make` calls; named by a string there, so that its spec can be saved as JSON."""
    return _create(reference(env_id, **kwargs))


def _gymnasium_spec(id: str, kwargs: Mapping[str, Any]) -> GymnasiumSpec:
    """The spec that Gymnasium's own `make` would set, from which it can create the environment again."""
    name = id.rsplit(":", 1)[-1]
    return GymnasiumSpec(
        id=name, entry_point=_CREATOR, order_enforce=False, disable_env_checker=True, kwargs={"env_id": id, **kwargs}
    )


def spec(id: str) -> EnvSpec:
    """The registration of an id, importing its module if it comes from an entry point.

    Raises: EnvNotFound if there is none, or if its module does not register it.
    """
    if id in _REGISTERED:
        return _REGISTERED[id]
    if ":" in id or id.endswith(".py"):
        check_reference(id, EnvNotFound)
    if ":" in id:
        return _spec_of_reference(id)
    if id.endswith(".py"):
        classes = [name for name, value in vars(load_file(Path(id), EnvNotFound)).items() if _is_env_class(value)]
        raise EnvNotFound(f"{id!r}: which class of it? Write {' or '.join(f'{id}:{name}' for name in classes)}")
    entry = _entries().get(id)
    if entry is None:
        raise EnvNotFound(f"{id!r}.{did_you_mean(id, env_ids())}")
    env_class = _load_entry(entry)
    if id not in _REGISTERED:
        register(id)(env_class)
    return _REGISTERED[id]


def env_ids() -> list[str]:
    """Every id that `make` accepts, sorted; nothing is imported."""
    return sorted({*_REGISTERED, *_entries()})


@lru_cache(maxsize=1)
def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _load_entry(entry: EntryPoint) -> type[Env]:
    try:
        env_class = entry.load()
    except (ImportError, AttributeError) as error:
        raise EnvNotFound(
            f"{entry.name!r} is declared by an installed package, but {entry.value!r} cannot be loaded: {error}"
        ) from error
    return _checked_class(env_class, entry.value)


def _spec_of_reference(reference: str) -> EnvSpec:
    """The registration of a class given as `package.module:Class` or `path/to/file.py:Class`."""
    place, _, name = reference.rpartition(":")
    module = load_file(Path(place), EnvNotFound) if place.endswith(".py") else _load_module(place, reference)
    if not hasattr(module, name):
        classes = [key for key, value in vars(module).items() if _is_env_class(value)]
        raise EnvNotFound(f"{reference!r}: {place} has no {name!r}.{did_you_mean(name, classes)}")
    env_class = _checked_class(getattr(module, name), reference)
    registered = next((found for found in _REGISTERED.values() if found.env_class is env_class), None)
    return replace(registered, id=reference) if registered else EnvSpec(reference, env_class)


def _is_env_class(value: Any) -> bool:
    """Whether a value is an author's environment, not a base class of AgentRL."""
    return isinstance(value, type) and issubclass(value, Env) and not value.__module__.startswith(_BASES)


def _checked_class(value: Any, where: str) -> type[Env]:
    if isinstance(value, type) and issubclass(value, Env):
        return value
    raise EnvNotFound(f"{where!r} is {value!r}, not a subclass of agentrl.Env")


def _load_module(name: str, reference: str) -> ModuleType:
    try:
        return load_module(name, reference, EnvNotFound)
    except EnvNotFound as error:
        raise EnvNotFound(
            f"{reference!r}: no module {name!r}. Give an id (`agentrl envs` lists them), an importable "
            "`package.module:Class`, or a file as `./my_env.py:Class`"
        ) from error


def _announce(id: str) -> None:
    """Register an id with Gymnasium, as text that imports nothing. Raises: ValueError if it is refused."""
    if id in gymnasium.registry:
        return
    try:
        gymnasium.register(id=id, entry_point=_CREATOR, kwargs={"env_id": id})
    except gymnasium.error.Error as error:
        raise ValueError(f"Gymnasium refuses the id {id!r}; write it as `namespace/Name-v0`: {error}") from error


def _announce_entries() -> None:
    for id in _entries():
        try:
            _announce(id)
        except ValueError as error:  # a mistake of another package must not break this one
            logger.warning("%s", error)


_announce_entries()
