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
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import gymnasium
from gymnasium.envs.registration import EnvSpec as GymnasiumSpec

from agentrl.env.base import Env, Limits
from agentrl.env.driving.wrapped import as_env
from agentrl.errors import ConfigError, EnvNotFound, did_you_mean
from agentrl.registry import check_reference, file_of, load_file, load_module
from agentrl.trajectory import CAPTURED, EnvRef

logger = logging.getLogger(__name__)
E = TypeVar("E", bound=Callable[..., Any])
GROUP = "agentrl.environments"
_REGISTERED: dict[str, EnvSpec] = {}
_LIMITS = frozenset(limit.name for limit in fields(Limits))
_SERVED = "agentrl.serving.envs.client"  # upstairs: found by its name, as an entry point would be
_CREATOR = "agentrl.env.registry:make_for_gymnasium"
# Modules of base classes: a file that imports one does not offer it as an environment.
_BASES = ("agentrl.env.", "agentrl.sandboxed.")
_BUILT_IN = ("abc", "builtins", "typing")


@dataclass(frozen=True)
class EnvSpec:
    """What is registered under an id: the class, its keyword arguments, and a limit on turns.

    `maker` is the function that makes the environment, where one was registered: it may put wrappers around it.
    """

    id: str
    env_class: type[Env]
    max_turns: int | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    maker: Callable[..., Any] | None = None

    @property
    def description(self) -> str:
        """First line of the class's docstring."""
        own = self.maker.__doc__ if self.maker is not None else None
        return (own or self.env_class.__doc__ or "").strip().split("\n")[0]


def register(id: str, *, max_turns: int | None = None, **kwargs: Any) -> Callable[[E], E]:
    """Decorator that registers an environment here and with Gymnasium: its class, or a function that makes it.

    Such a function may return Gymnasium's wrappers around an environment.

    Registering an id again replaces its environment, so that a notebook cell may run twice.

    Args:
        id: `namespace/Name-v0`.
        max_turns: turns after which an episode is truncated; the class's `limits` by default.
        kwargs: given to the constructor.
    Raises: ValueError if Gymnasium would not accept the id, or if `max_turns` is no whole number from 1 on.
    """
    if not isinstance(id, str):
        raise TypeError(f'register needs an id: write @register("my/Name-v0") above the class; got {id!r}')
    Limits(max_turns=max_turns)  # refuses what is no limit
    _announce(id)

    def add(made_by: E) -> E:
        if isinstance(made_by, type) and issubclass(made_by, Env):
            _REGISTERED[id] = EnvSpec(id, made_by, max_turns, kwargs)
        elif inspect.isfunction(made_by):
            _REGISTERED[id] = EnvSpec(id, Env, max_turns, kwargs, made_by)
        else:
            raise TypeError(
                f"@register({id!r}) must decorate a subclass of agentrl.Env, or a function; got {made_by!r}"
            )
        return made_by

    return add


def make(env: str | EnvRef, **kwargs: Any) -> Env:
    """Create an environment; `env.ref` then says what it is.

    Args:
        env: a registered id, `package.module:Class`, a file `./my_env.py:Class`, the URL of a server of `agentrl
            serve`, or a reference to an environment.
        kwargs: override what was registered; names of `Limits`, such as `max_turns`, set limits.
    Raises: EnvNotFound that names the nearest id; ConfigError if the constructor takes no such arguments.
    """
    ref = reference(env, **kwargs)
    made = _create(ref)
    made.unwrapped.spec = _gymnasium_spec(ref.id, ref.url or ref.id, {**ref.kwargs, **ref.limits})
    return made


def reference(env: str | EnvRef, **kwargs: Any) -> EnvRef:
    """A reference with more arguments; names of `Limits`, such as `max_turns`, become its limits."""
    if not isinstance(env, (str, EnvRef)):
        raise TypeError(f"an environment is named by a text, such as 'agentrl/Shop-v0', or by an EnvRef; got {env!r}")
    ref = EnvRef(env) if isinstance(env, str) else env
    if is_url(ref.id):
        served: EnvRef = _served().resolved(ref.id)
        ref = replace(served, kwargs={**served.kwargs, **ref.kwargs}, limits={**served.limits, **ref.limits})
    limits = {name: value for name, value in kwargs.items() if name in _LIMITS}
    rest = {name: value for name, value in kwargs.items() if name not in _LIMITS}
    return replace(ref, kwargs={**ref.kwargs, **rest}, limits={**ref.limits, **limits})


def is_url(id: str) -> bool:
    """Whether an id is the address of a server that has the environment."""
    return id.startswith(("http://", "https://"))


def _served() -> Any:
    """The module of environments that a server has."""
    return import_module(_SERVED)


def _create(ref: EnvRef) -> Env:
    if ref.url:
        return cast(Env, _served().made(ref))
    found = spec(ref.id)
    made = _construct(found, {**found.kwargs, **ref.kwargs})
    inner: Any = made.unwrapped
    own = {} if found.max_turns is None else {"max_turns": found.max_turns}
    limits: dict[str, Any] = {**own, **ref.limits}
    if limits:
        try:
            inner.limits = replace(inner.limits, **limits)
        except ValueError as error:
            raise ConfigError(f"{ref.id!r} cannot be made: {error}") from error
    inner.ref = replace(ref, version=version_of(found))
    return made


def version_of(found: EnvSpec, *, on_disk: bool = False) -> str:
    """What an environment is made of: the version of the package that declares it, those of the third-party packages
    that it plays, and a hash of its classes' files.

    The hash is there because a package under development changes without a new version. What a file does only when it
    is run as a program (`if __name__ == "__main__":`) does not count. Of a notebook's class there is no file: then
    nothing is known.

    Args: on_disk: read the files now. By default they were read when the class was first seen, so that an edit in the
        middle of a run does not change the version of the code that runs.
    """
    read: Callable[[Any], str] = _hash_of_files if on_disk else _hash_when_loaded
    made_by = "" if found.maker is None else f" by {_hash_of_function(found.maker)}"
    packages = " ".join((_package_of(found.id), *map(_version_of_package, found.env_class.third_party)))
    return f"{packages} {read(found.env_class)}{made_by}".strip()


@lru_cache(maxsize=256)
def _version_of_package(name: str) -> str:
    """Name and version of an installed distribution."""
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} not installed"


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


def _hash_of_function(function: Callable[..., Any]) -> str:
    """Of the file that holds a function that makes an environment."""
    try:
        return hashlib.sha256(_text_of_module(Path(inspect.getfile(function)))).hexdigest()[:12]
    except (TypeError, OSError):
        return ""


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
        made: Env = found.env_class(**kwargs) if found.maker is None else as_env(found.maker(**kwargs))
        return made
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:  # the arguments do not fit
            raise ConfigError(f"{found.id!r} cannot be made with {sorted(kwargs)}: {error}") from error
        raise


def make_for_gymnasium(env_id: str, **kwargs: Any) -> Env:
    """What `gymnasium.make` calls; named by a string there, so that its spec can be saved as JSON."""
    return _create(reference(env_id, **kwargs))


def _gymnasium_spec(id: str, made_by: str, kwargs: Mapping[str, Any]) -> GymnasiumSpec:
    """The spec that Gymnasium's own `make` would set, from which it can create the environment again."""
    name, given = id.rsplit(":", 1)[-1], {"env_id": made_by, **kwargs}
    return GymnasiumSpec(id=name, entry_point=_CREATOR, order_enforce=False, disable_env_checker=True, kwargs=given)


def spec(id: str) -> EnvSpec:
    """The registration of an id, importing its module if it comes from an entry point.

    Raises: EnvNotFound if there is none, or if its module does not register it.
    """
    if id.startswith(CAPTURED):
        raise EnvNotFound(
            f"{id!r} is what an agent of its own played in front of a captured model: its program cannot be made here, "
            f"only {id.removeprefix(CAPTURED)!r} can, in which the model itself takes the turns"
        )
    if id in _REGISTERED:
        return _with_class(_REGISTERED[id])
    if is_url(id):
        return EnvSpec(id, _served().class_of(id))
    if ":" in id or id.endswith(".py"):
        check_reference(id, EnvNotFound)
    if ":" in id:
        return _spec_of_reference(id)
    if id.endswith(".py"):
        classes = [name for name, value in vars(load_file(Path(id), EnvNotFound)).items() if _is_env_class(value)]
        if not classes:
            raise EnvNotFound(f"{id!r} has no class of an environment, such as `class Till(ToolEnv)`")
        raise EnvNotFound(f"{id!r}: which class of it? Write {' or '.join(f'{id}:{name}' for name in classes)}")
    entry = _entries().get(id)
    if entry is None:
        own = " An environment in a file of yours is named ./file.py:Class" if "/" in id or Path(id).exists() else ""
        raise EnvNotFound(f"{id!r}.{did_you_mean(id, env_ids())}{own}")
    made_by = _load_entry(entry)
    if id not in _REGISTERED:
        register(id)(made_by)
    return _with_class(_REGISTERED[id])


def _with_class(found: EnvSpec) -> EnvSpec:
    """The registration of a function, with the class of the environment that it makes: one is made to see it."""
    if found.maker is None or found.env_class is not Env:
        return found
    env = _construct(found, found.kwargs)
    env.close()
    known = replace(found, env_class=type(env.unwrapped))  # type: ignore[arg-type]
    if _REGISTERED.get(found.id) is found:
        _REGISTERED[found.id] = known
    return known


def modules_of(ids: Iterable[str]) -> tuple[str, ...]:
    """What another process has to import so that ids mean the same there: names of modules, or paths of files.

    Raises: ConfigError if an environment is defined in the program itself.
    """
    found = []
    for id in ids:
        if id not in _REGISTERED or id in _entries():
            continue
        made_by: Any = _REGISTERED[id].maker or _REGISTERED[id].env_class
        if made_by.__module__ == "__main__":
            raise ConfigError(
                f"{id} is defined in the program that runs, which other processes cannot import: put it into a module "
                "and import that, or into a file and name it './file.py:Class' (scale.samplers = 0 needs neither)"
            )
        found.append(file_of(made_by.__module__) or made_by.__module__)
    return tuple(dict.fromkeys(found))


def env_ids() -> list[str]:
    """Every id that `make` accepts, sorted; nothing is imported."""
    return sorted({*_REGISTERED, *_entries()})


@lru_cache(maxsize=1)
def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _load_entry(entry: EntryPoint) -> Callable[..., Any]:
    try:
        made_by = entry.load()
    except (ImportError, AttributeError) as error:
        raise EnvNotFound(
            f"{entry.name!r} is declared by an installed package, but {entry.value!r} cannot be loaded: {error}"
        ) from error
    made: Callable[..., Any] = _checked(made_by, entry.value)
    return made


def _spec_of_reference(reference: str) -> EnvSpec:
    """The registration of a class given as `package.module:Class` or `path/to/file.py:Class`."""
    place, _, name = reference.rpartition(":")
    module = load_file(Path(place), EnvNotFound) if place.endswith(".py") else _load_module(place, reference)
    if not hasattr(module, name):
        classes = [key for key, value in vars(module).items() if _is_env_class(value)]
        raise EnvNotFound(f"{reference!r}: {place} has no {name!r}.{did_you_mean(name, classes)}")
    made_by = _checked(getattr(module, name), reference)
    registered = next((found for found in _REGISTERED.values() if made_by in (found.maker or found.env_class,)), None)
    if registered is None:
        is_class = isinstance(made_by, type)
        registered = EnvSpec(reference, made_by) if is_class else EnvSpec(reference, Env, maker=made_by)
    return _with_class(replace(registered, id=reference))


def _is_env_class(value: Any) -> bool:
    """Whether a value is an author's environment, not a base class of AgentRL."""
    return isinstance(value, type) and issubclass(value, Env) and not value.__module__.startswith(_BASES)


def _checked(value: Any, where: str) -> Any:
    """A class of environments, or a function that may make them."""
    if inspect.isfunction(value) or (isinstance(value, type) and issubclass(value, Env)):
        return value
    raise EnvNotFound(f"{where!r} is {value!r}, not a subclass of agentrl.Env, nor a function that makes one")


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
