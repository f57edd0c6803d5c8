"""Reads TOML files and `key=value` overrides into validated dataclasses, and writes them. Owns no setting itself.

A configuration is a (nested, frozen) dataclass. TOML has no null: in a field that may be `None`, the
word "none" stands for it. A field marked `OneOf(registry)` takes one of the registry's parts: its name, or a table
with `kind = NAME` and the part's own fields. A table for a field whose default is a section changes that default.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from dataclasses import Field as DataclassField
from dataclasses import field as dataclass_field
from datetime import date, time
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar

import tomli_w
from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError, to_json

from agentrl.config.field_checks import expectation
from agentrl.config.files import NONE, read_table
from agentrl.config.hints import OneOf as OneOf
from agentrl.config.hints import argument_of, field_hints, hint_at, item_hint, members, one_of
from agentrl.errors import ConfigError, did_you_mean
from agentrl.registry import Registry

# Types of number fields, with their bounds.
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]

C = TypeVar("C")
Keys = tuple[str | int, ...]
_NOT_SET: Any = object()


def load_config(
    cls: type[C],
    path: str | Path | None = None,
    overrides: Iterable[str] = (),
    *,
    edit: Callable[[dict[str, Any]], dict[str, Any]] = lambda table: table,
) -> C:
    """Read a configuration: the dataclass's defaults, then the file, then the overrides.

    Args:
        cls: a dataclass; its fields are plain types, dataclasses, or containers of them.
        path: a TOML file; None takes the defaults.
        overrides: `section.key=value`; the value is TOML, or bare words taken as text.
        edit: changes the file's table before the overrides are applied.
    Raises: ConfigError naming the file (or `--set`), the key, what was given and what was expected.
    """
    data = edit(read_table(path)) if path is not None else {}
    parsed = tuple(_Override.parse(cls, text) for text in overrides)
    for override in parsed:
        override.apply(data)
    completed = getattr(cls, "completed", None)  # what the class adds to the table it is read from
    if completed is not None:
        data = completed(data)
    source = _Source(str(path) if path is not None else "configuration", parsed)
    return _validated(cls, _prepare(cls, data, (), source), (), source)


def _validated(cls: type[C], prepared: Any, keys: Keys, source: _Source) -> C:
    try:
        # JSON mode keeps types strict (no "3" for 3) and still reads lists as tuples, text as paths.
        text = to_json(prepared, inf_nan_mode="constants")
        return TypeAdapter(cls).validate_json(text, strict=True, context=source.parts)
    except PydanticSerializationError as error:
        raise ConfigError(f"configuration: only numbers, text, lists and dictionaries are stored: {error}") from error
    except ValidationError as error:
        raise ConfigError("\n".join(_explain_all(error, prepared, source, keys))) from None


def from_table(cls: type[C], table: Mapping[str, Any]) -> C:
    """A configuration from a table as a TOML file would hold it. Raises: ConfigError, as `load_config`."""
    source = _Source("configuration", ())
    return _validated(cls, _prepare(cls, table, (), source), (), source)


def check_config(config: Any) -> None:
    """Check a configuration that was made in Python by the rules of `load_config`.

    Raises: ConfigError naming the key, what was given and what was expected.
    """
    source = _Source("configuration", ())
    _validated(type(config), _dumped(type(config), config, (), source), (), source)


def _dumped(hint: Any, value: Any, keys: Keys, source: _Source) -> Any:
    """A value as plain data, its parts checked and set aside."""
    if (mark := one_of(hint)) is not None:
        if mark.registry.given(value) is not value:
            raise ConfigError(
                f"{source.of(keys)}: {_dotted(keys)} = {value!r}: expected the object itself; a function, class or "
                "name is for a table: `TrainConfig.of`"
            )
        _validated(type(value), _dumped(type(value), value, keys, source), keys, source)
        return source.set_aside(value)
    if is_dataclass(value) and not isinstance(value, type):
        hints = field_hints(type(value))
        return {name: _dumped(hints[name], getattr(value, name), (*keys, name), source) for name in hints}
    options = members(hint)
    if isinstance(value, Mapping):
        return {key: _dumped(argument_of(options, 1), item, (*keys, key), source) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_dumped(item_hint(options, i), item, (*keys, i), source) for i, item in enumerate(value)]
    return value


def dump_config(config: Any) -> str:
    """The TOML text of a configuration; `load_config` reads it back to an equal object.

    Raises: ConfigError if a value has no TOML form.
    """
    return tomli_w.dumps(_toml_form(config, type(config), ()))


# Reading.


def arguments_of(texts: Iterable[str], option: str) -> dict[str, Any]:
    """The arguments that texts `key=value` give; a value is TOML, or bare words taken as text.

    Args: option: that they came from, for messages.
    Raises: ConfigError for a text of another form.
    """
    found = {}
    for text in texts:
        name, equals, raw = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ConfigError(f"{option} {text}: expected KEY=VALUE, such as data=diabetes")
        found[name.strip()] = _value_of(raw.strip())
    return found


def _value_of(raw: str) -> Any:
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


@dataclass(frozen=True)
class _Override:
    """One `--set section.key=value`."""

    text: str
    keys: tuple[str, ...]
    value: Any

    @classmethod
    def parse(cls, config_class: type[Any], text: str) -> _Override:
        name, equals, raw = text.partition("=")
        keys = tuple(part.strip() for part in name.split("."))
        if not equals or not all(keys):
            raise ConfigError(f"--set {text}: expected KEY=VALUE, such as stages.rl.steps=30")
        raw = raw.strip()
        value = _value_of(raw)
        wants_text = str in members(hint_at(config_class, keys))
        return cls(text, keys, raw if wants_text and isinstance(value, (bool, int, float, date, time)) else value)

    def apply(self, data: dict[str, Any]) -> None:
        table = data
        for index, key in enumerate(self.keys[:-1]):
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise ConfigError(f"--set {self.text}: {'.'.join(self.keys[: index + 1])} is a value, not a section")
        table[self.keys[-1]] = self.value


@dataclass(frozen=True)
class _Source:
    """Where a key's value came from, for messages."""

    origin: str
    overrides: tuple[_Override, ...]
    parts: list[Any] = dataclass_field(default_factory=list)

    def set_aside(self, part: Any) -> int:
        """Keep a part that is built already; its number stands for it while the rest is validated."""
        self.parts.append(part)
        return len(self.parts) - 1

    def of(self, keys: Keys) -> str:
        for override in reversed(self.overrides):
            if keys[: len(override.keys)] == override.keys or override.keys[: len(keys)] == keys != ():
                return f"--set {override.text}"
        return self.origin


def _prepare(hint: Any, value: Any, keys: Keys, source: _Source, default: Any = None) -> Any:
    """Refuse unknown keys, turn "none" into None, and build parts of registries, at every level."""
    mark, options = one_of(hint), members(hint)
    if mark is not None:
        return _prepare_part(mark.registry, value, keys, source, default)
    if value == NONE and NoneType in options:
        return None
    if isinstance(value, Mapping):
        section = next((option for option in options if is_dataclass(option)), None)
        if section is not None:
            return _prepare_section(section, _changed(default, section, value), keys, source)
        inner = argument_of(options, 1)
        return {key: _prepare(inner, item, (*keys, key), source) for key, item in value.items()}
    if isinstance(value, list):
        return [_prepare(item_hint(options, i), item, (*keys, i), source) for i, item in enumerate(value)]
    return value


def _prepare_part(registry: Registry, value: Any, keys: Keys, source: _Source, default: Any) -> int:
    """Build one of a registry's parts from its name, or from a table with `kind`; its number stands for it."""
    if (given := registry.given(value)) is not None:
        return source.set_aside(given)
    table = {"kind": value} if isinstance(value, str) else value
    default = None if isinstance(value, str) else default  # a name alone stands for the part's own defaults
    if not isinstance(table, Mapping):
        raise ConfigError(f"{source.of(keys)}: {_dotted(keys)} = {_shown(value)}: expected a name or a section")
    rest = {key: item for key, item in table.items() if key != "kind"}
    kind = table.get("kind", registry.name_of(type(default)) if default is not None else None)
    if not isinstance(kind, str):
        raise ConfigError(
            f"{source.of(keys)}: {_dotted(keys)} needs a kind: write kind = NAME, one of {', '.join(registry.names)}"
        )
    try:
        section = registry.find(kind)
    except ConfigError as error:
        raise ConfigError(f"{source.of(keys)}: {_dotted(keys)}: {error}") from None
    if not (isinstance(section, type) and is_dataclass(section)):
        raise ConfigError(f"{source.of(keys)}: {_dotted(keys)}: {kind!r} is {section!r}, not a dataclass")
    prepared = _prepare_section(section, _changed(default, section, rest), keys, source)
    return source.set_aside(_validated(section, prepared, keys, source))


def _changed(default: Any, section: Any, value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The given fields over those of a default of the same class that differ from the class's own."""
    if default is None or type(default) is not section:
        return value
    own = {field.name: _default(field) for field in fields(section) if field.init}
    hints = field_hints(section)
    differing = {name: getattr(default, name) for name in own if getattr(default, name) != own[name]}
    plain = {n: NONE if item is None else _toml_form(item, hints[n], (n,)) for n, item in differing.items()}
    return {**plain, **value}


def _prepare_section(section: Any, value: Mapping[str, Any], keys: Keys, source: _Source) -> dict[str, Any]:
    hints = field_hints(section)
    for key in value:
        if key not in hints:
            where = f"[{_dotted(keys)}]" if keys else "the top level"
            origin, name = source.of((*keys, key)), _dotted((*keys, key))
            place = _below(section, key, keys)
            hint = f" It is {place}." if place else did_you_mean(key, hints)
            if "kwargs" in hints and "Did you mean" not in hint:
                hint += f" An argument of what it names stands in [{_dotted((*keys, 'kwargs'))}]."
            raise ConfigError(f"{origin}: unknown key {name!r} in {where}.{hint}")
    defaults = {field.name: _default(field) for field in fields(section)}
    return {
        key: _prepare(hints[key], item, (*keys, key), source, defaults[key] if defaults[key] is not _NOT_SET else None)
        for key, item in value.items()
    }


def _below(section: Any, key: str, keys: Keys) -> str:
    """The dotted place of a key that a section has in one of its own sections; empty if none or several have it."""
    inner = {name: o for name, hint in field_hints(section).items() for o in members(hint) if is_dataclass(o)}
    found = [_dotted((*keys, name, key)) for name, option in inner.items() if key in field_hints(option)]
    return found[0] if len(found) == 1 else ""


# Explaining.


def _explain_all(error: ValidationError, data: Any, source: _Source, within: Keys = ()) -> list[str]:
    """One line for each wrong key; the errors of a union's members share a line."""
    expected: dict[Keys, list[str]] = {}
    details: dict[Keys, ErrorDetails] = {}
    for item in error.errors(include_url=False):
        keys = (*within, *_keys_of(item, data))
        details.setdefault(keys, item)
        expected.setdefault(keys, []).append(_expectation(item))
    return [_explain(source, keys, details[keys], " or ".join(dict.fromkeys(expected[keys]))) for keys in details]


def _keys_of(item: ErrorDetails, data: Any) -> Keys:
    """The keys in pydantic's location, without the names of union members that it adds."""
    keys: list[str | int] = []
    for part in item["loc"]:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            missing = item["type"] == "missing" and part == item["loc"][-1]
            return (*keys, part) if missing else tuple(keys)
        keys.append(part)
    return tuple(keys)


def _explain(source: _Source, keys: Keys, item: ErrorDetails, expected: str) -> str:
    if item["type"] == "missing":
        return f"{source.origin}: {_dotted(keys)} is required; set it in the file or with --set {_dotted(keys)}=..."
    where, given = source.of(keys), _shown(item["input"])
    if item["type"] == "value_error":
        return f"{where}: {_dotted(keys) or 'configuration'}: {expected}"
    return f"{where}: {_dotted(keys)} = {given}: expected {expected}"


def _expectation(item: ErrorDetails) -> str:
    if item["type"] == "value_error":
        return item["msg"].removeprefix("Value error, ")
    if item["type"] in ("dataclass_type", "dict_type"):
        return "a section"
    if item["type"] == "none_required":
        return f'"{NONE}"'
    return expectation(item)


def _shown(value: Any, limit: int = 80) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _dotted(keys: Keys) -> str:
    return ".".join(str(key) for key in keys)


# Writing.


def _toml_form(value: Any, hint: Any, keys: Keys) -> Any:
    """A value as dictionaries, lists and the plain types of TOML."""
    mark, options = one_of(hint), members(hint)
    if mark is not None:
        return {"kind": mark.registry.name_of(type(value)), **_section_form(value, keys)}
    if isinstance(value, Enum):
        return _toml_form(value.value, Any, keys)
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return _section_form(value, keys)
    if isinstance(value, Mapping):
        inner = argument_of(options, 1)
        return {_text_key(key, keys): _toml_form(item, inner, (*keys, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_toml_form(item, item_hint(options, index), (*keys, index)) for index, item in enumerate(value)]
    if isinstance(value, (str, int, float, date)) or (isinstance(value, time) and value.tzinfo is None):
        return value
    raise ConfigError(f"{_dotted(keys)} = {value!r}: a {type(value).__name__} has no TOML form")


def _section_form(section: Any, keys: Keys) -> dict[str, Any]:
    """The fields of a dataclass, without those that are None by default."""
    table, hints = {}, field_hints(type(section))
    for field in fields(section):
        item = getattr(section, field.name)
        if field.init and not (item is None and _default(field) is None):
            table[field.name] = NONE if item is None else _toml_form(item, hints[field.name], (*keys, field.name))
    return table


def _text_key(key: Any, keys: Keys) -> str:
    if isinstance(key, str):
        return key
    raise ConfigError(f"{_dotted(keys)} has the key {key!r}: a key must be text, not a {type(key).__name__}")


def _default(field: DataclassField[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else _NOT_SET
