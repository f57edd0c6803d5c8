"""Checks the numbers and names of a dataclass that is made in Python. What a TOML file holds is checked by `config`.

Owns no bound: they stand in the annotations of the fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

_BOUNDS = {
    "greater_than": "more than",
    "greater_than_equal": "at least",
    "less_than": "less than",
    "less_than_equal": "at most",
}
_PLAIN = (bool, int, float, str, NoneType)


def check_fields(made: Any) -> None:
    """Refuse values that the annotations of a dataclass exclude; call it in `__post_init__`.

    Fields of other kinds than numbers, texts, choices and tuples of them are not looked at.

    Raises: ValueError naming the class, the field, what was given and what was expected.
    """
    cls: Any = type(made)
    for name, adapter in _adapters(cls).items():
        value = getattr(made, name)
        try:
            adapter.validate_python(_plain(value), strict=True)
        except ValidationError as error:
            expected = dict.fromkeys(expectation(item) for item in error.errors())
            raise ValueError(f"{type(made).__name__}.{name} = {value!r}: expected {' or '.join(expected)}") from None


def expectation(item: ErrorDetails) -> str:
    """What pydantic expected in the place of a value, as the end of a sentence."""
    if item["type"] in _BOUNDS:
        return f"{_BOUNDS[item['type']]} {next(iter(item['ctx'].values()))}"
    return item["msg"].removeprefix("Input should be ").removeprefix("Input should have ")


@cache
def _adapters(cls: type) -> Mapping[str, TypeAdapter[Any]]:
    try:
        hints = get_type_hints(cls, include_extras=True)
    except NameError:  # of a class inside a function, whose hints are texts
        return {}
    return {f.name: TypeAdapter(hints[f.name]) for f in fields(cls) if f.init and _is_plain(hints[f.name])}


def _is_plain(hint: Any) -> bool:
    """Whether a hint is of numbers, texts, choices and tuples of them."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _is_plain(arguments[0])
    if origin is Literal:
        return True
    if origin in (Union, UnionType, tuple):
        return all(item is Ellipsis or _is_plain(item) for item in arguments)
    return hint in _PLAIN


def _plain(value: Any) -> Any:
    """A list as a tuple, and a number of numpy or torch as Python's own."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    return value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value
