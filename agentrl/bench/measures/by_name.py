"""Measures by name: `success`, `pass_at:4`, `module:Class`, `./file.py:Class`. Owns the reading of such a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from importlib.util import find_spec
from typing import get_type_hints

from pydantic import TypeAdapter, ValidationError

from agentrl.bench.measures.base import MEASURES, Measure, measured
from agentrl.errors import ConfigError


def measure(text: str) -> Measure:
    """The measure of a name.

    Args:
        text: `name`, or `name:PARAMETER` for a family; `package.module:Class` or `./file.py:Class` for one from
            outside, with `:PARAMETER` after it if it is a family.
    Raises: ConfigError for an unknown name or an unsuitable parameter.
    """
    name, parameter = _split(text.strip())
    part = MEASURES.find(name)
    if isinstance(part, Measure) and parameter is None:
        return part
    if not (isinstance(part, type) and issubclass(part, Measure)):
        raise ConfigError(f"{text!r} is no measure: derive the class from agentrl.bench.measures.base.Measure")
    return _make(part, name, parameter)


def measures_of(given: Sequence[str | Measure]) -> tuple[Measure, ...]:
    """Measures as callers give them, by name or as objects; each is tried on no episodes.

    Raises: ConfigError for an unknown name, or two measures of one name; TypeError for what is no measure.
    """
    found = tuple(measure(item) if isinstance(item, str) else item for item in given)
    wrong = [one for one in found if not isinstance(one, Measure)]
    if wrong:
        raise TypeError(f"a measure must be a name or an instance of Measure, such as PassAt(4), got {wrong[0]!r}")
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise ConfigError(f"two measures have the same name: {', '.join(names)}")
    measured(found, [])
    return found


def _split(text: str) -> tuple[str, str | None]:
    """The name or reference, and the parameter after it, if there is one."""
    name, colon, rest = text.partition(":")
    if name in MEASURES.names or (name.isidentifier() and find_spec(name) is None):
        return name, rest if colon else None
    attribute, colon, parameter = rest.partition(":")
    return (f"{name}:{attribute}" if attribute else name), parameter if colon else None


def _make(part: type[Measure], name: str, parameter: str | None) -> Measure:
    """An instance; the parameter is the value of the first field."""
    field = next(iter(fields(part)), None) if is_dataclass(part) else None
    if parameter is None:
        if field is not None and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"measure {name!r} needs a parameter: write '{name}:{field.name.upper()}'")
        return part()
    if field is None:
        raise ConfigError(f"measure {name!r} takes no parameter, got {parameter!r}")
    try:
        value = TypeAdapter(get_type_hints(part)[field.name]).validate_strings(parameter)
        return part(**{field.name: value})
    except ValueError as error:
        cause = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise ConfigError(f"measure '{name}:{parameter}': {cause}") from error
