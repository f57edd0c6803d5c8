"""What the type hints of a configuration's fields say: the members of a union, the items of a container, a registry.

Owns the mark `OneOf`. Reading and writing values by these hints belongs to `agentrl.config`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic_core import CoreSchema, core_schema

from agentrl.registry import Registry


@dataclass(frozen=True)
class OneOf:
    """Marks a field whose value is one of a registry's parts, each a dataclass: `Annotated[Objective, OneOf(...)]`."""

    registry: Registry

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(lambda number, info: info.context[number])


def one_of(hint: Any) -> OneOf | None:
    """The registry that the value at a hint comes from; None if it comes from none."""
    if get_origin(hint) is not Annotated:
        return None
    return next((mark for mark in get_args(hint)[1:] if isinstance(mark, OneOf)), None)


def field_hints(section: Any) -> dict[str, Any]:
    """The hints of the fields of a dataclass that its `__init__` takes, by name."""
    hints = get_type_hints(section, include_extras=True)
    return {field.name: hints[field.name] for field in fields(section) if field.init}


def members(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself, without `Annotated`."""
    if get_origin(hint) is Annotated:
        return members(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return tuple(option for member in get_args(hint) for option in members(member))
    return (hint,)


def argument_of(options: tuple[Any, ...], index: int) -> Any:
    """The type of a container's items: `int` for `list[int]` (index 0) and `dict[str, int]` (index 1)."""
    for option in options:
        arguments = get_args(option)
        if len(arguments) > index:
            return arguments[index]
    return Any


def item_hint(options: tuple[Any, ...], index: int) -> Any:
    """The type of a list's or tuple's item: that of its place in `tuple[A, B]`, else the one of all."""
    for option in options:
        arguments = get_args(option)
        if get_origin(option) is tuple and Ellipsis not in arguments:
            return arguments[index] if index < len(arguments) else Any
    return argument_of(options, 0)


def hint_at(hint: Any, keys: tuple[str, ...]) -> Any:
    """The type at a dotted key, or Any where the key is not known."""
    for key in keys:
        options = members(hint)
        section = next((option for option in options if is_dataclass(option)), None)
        hint = field_hints(section).get(key, Any) if section is not None else argument_of(options, 1)
    return hint
