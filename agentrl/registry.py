"""Parts by name: built-in ones, entry points, `module:attribute` and `./file.py:attribute`. Owns only the look-up.

One `Registry` serves each kind of part (objectives, credit estimators, measures, stages, ...). Nothing is imported
before it is asked for. A third party adds a part by an entry point in the registry's group, by naming it as
`module:attribute`, or by handing over the object.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import MISSING, dataclass, field, is_dataclass, make_dataclass
from functools import cache, cached_property, partial
from importlib.metadata import EntryPoint, entry_points
from inspect import Parameter, signature
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, get_type_hints

from agentrl.errors import ConfigError, did_you_mean
from agentrl.file_modules import own_imports

# Module name of each file that was imported by its path -> that path.
_FILES: dict[str, Path] = {}


@dataclass(frozen=True)
class _NamesOnly:
    allowed: frozenset[str]
    advice: str


_names_only: ContextVar[_NamesOnly | None] = ContextVar("names_only", default=None)


@contextmanager
def names_only(allowed: Iterable[str] = (), *, advice: str = "") -> Iterator[None]:
    """In this context only names of installed parts are found; a reference to a module or a file is refused.

    For what somebody else wrote down: a record must not choose code to import. It does not watch what an installed
    part imports by other means than `load_reference`.

    Args:
        allowed: references that are found all the same.
        advice: ends the message of a refusal.
    """
    token = _names_only.set(_NamesOnly(frozenset(allowed), advice))
    try:
        yield
    finally:
        _names_only.reset(token)


def check_reference(reference: str, error: type[Exception] = ConfigError) -> None:
    """Raises: `error` under `names_only`, unless it allows the reference."""
    rule = _names_only.get()
    if rule is not None and reference not in rule.allowed:
        raise error(f"{reference!r} names code, and only what is installed may be named here. {rule.advice}".rstrip())


class Registry:
    """The parts of one kind.

    Args:
        kind: what a part is called in messages, such as `objective`.
        group: entry-point group of third parties, such as `agentrl.objectives`.
        built_in: name -> `module:attribute`.
        error: raised for an unknown name.
        of_function: makes a part of a plain function, where parts of this kind may be functions.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        built_in: Mapping[str, str],
        *,
        error: type[Exception] = ConfigError,
        of_function: Callable[[FunctionType], Any] | None = None,
    ) -> None:
        self.kind, self.group = kind, group
        self._built_in = dict(built_in)
        self._error = error
        self._given: dict[str, Any] = {}
        self._of_function = cache(of_function) if of_function is not None else None

    def register(self, name: str, part: Any) -> None:
        """Add a part under a name; it replaces another part of that name."""
        self._given[name] = part

    @property
    def names(self) -> list[str]:
        """Every name, sorted; nothing is imported."""
        return sorted({*self._built_in, *self._given, *self._entries})

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.group)}

    def is_built_in(self, name: str) -> bool:
        """Whether the part of this name is AgentRL's own."""
        return name in self._built_in and name not in self._given

    def name_of(self, part: Any) -> str:
        """The name under which a part is found, or the reference to it: `module:name`, or `/path/to/file.py:name`.

        Args: part: a class or function.
        """
        file = _FILES.get(part.__module__)
        reference = f"{file or part.__module__}:{part.__qualname__}"
        given = next((name for name, known in self._given.items() if known is part), None)
        own = next((name for name, place in self._built_in.items() if place == reference), None)
        return given or own or reference

    def find(self, name: str) -> Any:
        """The part of a name, or of a reference `package.module:attribute` or `./file.py:attribute`.

        Raises: the registry's error for an unknown name, or a reference to something that does not exist.
        """
        part = self._found(name)
        return self._of_function(part) if self._of_function and isinstance(part, FunctionType) else part

    def given(self, value: Any) -> Any:
        """The part that an object stands for: a function or class makes one with its defaults. None if it is none."""
        if self._of_function and isinstance(value, FunctionType):
            value = self._of_function(value)
        if isinstance(value, type):
            return value() if is_dataclass(value) else None
        return value if is_dataclass(value) else None

    def _found(self, name: str) -> Any:
        if name in self._given:
            return self._given[name]
        if name in self._built_in:
            return _attribute(self._built_in[name], self._error)
        if name in self._entries:
            return self._load(self._entries[name])
        if ":" in name:
            return load_reference(name, self._error)
        raise self._error(
            f"no {self.kind} is named {name!r}.{did_you_mean(name, self.names)} "
            f"Your own is written 'package.module:Name' or './file.py:Name'"
        )

    def _load(self, entry: EntryPoint) -> Any:
        try:
            return entry.load()
        except (ImportError, AttributeError) as error:
            raise self._error(
                f"{self.kind} {entry.name!r} is declared by an installed package, but {entry.value!r} "
                f"cannot be loaded: {error}"
            ) from error


def part_of_function(function: FunctionType, base: type, method: str, call: Callable[..., Any]) -> type:
    """A frozen dataclass that does what a function does; its keyword-only parameters are the settings.

    Args:
        function: of an author.
        base: the contract of parts of this kind.
        method: of the contract, which the function stands for.
        call: what the method does; it takes the part, the function with its settings filled in, and the arguments.
    """

    def method_of(self: Any, *arguments: Any) -> Any:
        return call(self, partial(function, **{name: getattr(self, name) for name in names}), *arguments)

    hints = get_type_hints(function)
    own = [p for p in signature(function).parameters.values() if p.kind is Parameter.KEYWORD_ONLY]
    names = [p.name for p in own]
    settings = [
        (p.name, hints.get(p.name, Any), field(default=MISSING if p.default is Parameter.empty else p.default))
        for p in own
    ]
    part = make_dataclass(function.__name__, settings, bases=(base,), namespace={method: method_of}, frozen=True)
    part.__module__, part.__qualname__, part.__doc__ = function.__module__, function.__qualname__, function.__doc__
    return part


def load_reference(reference: str, error: type[Exception] = ConfigError) -> Any:
    """The attribute that `package.module:attribute` or `path/to/file.py:attribute` names.

    Raises: `error` if there is no such module, file or attribute, or under `names_only`.
    """
    check_reference(reference, error)
    return _attribute(reference, error)


def _attribute(reference: str, error: type[Exception]) -> Any:
    place, _, name = reference.rpartition(":")
    module = load_file(Path(place), error) if place.endswith(".py") else load_module(place, reference, error)
    if not hasattr(module, name):
        public = [key for key in vars(module) if not key.startswith("_")]
        raise error(f"{reference!r}: {place} has no {name!r}.{did_you_mean(name, public)}")
    return getattr(module, name)


def reference_to(value: type) -> type | str:
    """The class itself, or `/path/to/file.py:Name` for one of a file that was imported by its path.

    Another process can import the first by its module's name, and the second by `load_reference` alone.
    """
    path = _FILES.get(value.__module__)
    return value if path is None else f"{path}:{value.__qualname__}"


def file_of(module: str) -> str:
    """The path of a module that was imported by its path; empty for every other."""
    path = _FILES.get(module)
    return "" if path is None else str(path)


def files_named(written: bytes) -> tuple[str, ...]:
    """The files, imported by their path, that `pickle` names in what it has written: a reader loads them first."""
    return tuple(str(path) for name, path in _FILES.items() if name.encode() in written)


def load_module(name: str, reference: str, error: type[Exception] = ConfigError) -> ModuleType:
    """Import a module. Raises: `error` if there is none; what the module itself raises propagates."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name is not None and not name.startswith(missing.name):
            raise
        raise error(
            f"{reference!r}: no module {name!r}. Write an importable `package.module:Name`, or a file as "
            "`./file.py:Name`"
        ) from missing


def load_file(path: Path, error: type[Exception] = ConfigError) -> ModuleType:
    """Import a Python file by its path, once per path.

    It can import modules next to it, as `python FILE` can, and its folder is put at the end of `sys.path`; a module of
    the standard library comes first, and other files do not see its modules in the place of their own.

    Raises: `error` if there is no such file.
    """
    path = path.resolve()
    if not path.is_file():
        raise error(f"there is no file {str(path)!r}")
    name = f"agentrl_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise error(f"{str(path)!r} cannot be imported as Python")
    module = importlib.util.module_from_spec(found)
    sys.modules[name], _FILES[name] = module, path
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    own_imports(module, path.parent)
    try:
        found.loader.exec_module(module)
    except SyntaxError as error:
        error.filename = error.filename or str(path)  # Python names no file if it cannot read the text at all
        del sys.modules[name]
        raise
    except BaseException:
        del sys.modules[name]
        raise
    return module
