"""The parameters of an author's function: names, type hints as pydantic reads them, defaults and descriptions.

Owns what is accepted as a tool: functions, methods, partials and callable objects. The schema that a model sees belongs
to `agentrl.tool_schema`.
"""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import typing_extensions
from pydantic import BeforeValidator, ConfigDict, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from agentrl.errors import ToolSchemaError

MAX_ITEMS = 10_000
"""Values that a generator tool may yield."""
_SCALARS = (str, int, bool, type(None))
_WRITTEN = (date, time, timedelta, Decimal, UUID)


@dataclass(frozen=True)
class Given:
    """A parameter: its hint, its default (or `inspect.Parameter.empty`), and the description in the hint, if any."""

    hint: Any
    default: Any
    description: str | None


def function_of(target: Any) -> Callable[..., Any]:
    """What runs when a tool is called: the target, or the method of a callable object.

    A generator that waits becomes a coroutine with the list of what it yields.
    """
    if inspect.isasyncgenfunction(target):
        return _listed(target)
    is_plain = isinstance(target, functools.partial) or inspect.isroutine(target) or hasattr(target, "__name__")
    return target if is_plain else target.__call__  # type: ignore[no-any-return]


def name_of(target: Any) -> str:
    """The name of a function, of the function of a partial, or of the class of a callable object."""
    while isinstance(target, functools.partial):
        target = target.func
    return str(getattr(target, "__name__", None) or type(target).__name__)


def doc_of(target: Any) -> str:
    """The docstring of what `name_of` names."""
    while isinstance(target, functools.partial):
        target = target.func
    return inspect.getdoc(target) or ""


def parameters_of(where: str, function: Callable[..., Any]) -> dict[str, Given]:
    """The parameters that a model gives, in order. `self` and what a partial has given already are left out.

    Raises: ToolSchemaError for a parameter that a model cannot give.
    """
    bound: set[str] = set()
    inner: Any = function
    while isinstance(inner, functools.partial):
        bound |= inner.keywords.keys()
        inner = inner.func
    hints = _hints(where, inner)
    found = {}
    for index, parameter in enumerate(_signature(function).parameters.values()):
        if parameter.name in bound or (index == 0 and parameter.name == "self"):
            continue
        _check(where, parameter, hints)
        hint, text = _described(hints[parameter.name])
        try:
            hint = _readable(hint, ())
        except TypeError as error:
            raise ToolSchemaError(f"tool {where}: parameter {parameter.name!r}: {error}") from error
        if parameter.default is None and not _takes_none(hint):
            hint = hint | None if isinstance(hint, type) else Union[hint, None]  # noqa: UP007 (not every hint has `|`)
        found[parameter.name] = Given(hint, parameter.default, text)
    return found


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """What a function takes itself; that of the function it wraps, where it only passes everything on."""
    own = inspect.signature(function, follow_wrapped=False)
    passes_on = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in own.parameters.values())
    return inspect.signature(function) if passes_on else own


def _hints(where: str, function: Any) -> dict[str, Any]:
    inner = inspect.unwrap(function)
    inner = getattr(inner, "__func__", inner)
    own = {name: hint for name, hint in getattr(inner, "__annotations__", {}).items() if name != "return"}
    # A stand-in without the hint of the result, which need not be resolvable: the model does not see it.
    stand_in = types.SimpleNamespace(__annotations__=own)
    try:
        return get_type_hints(stand_in, getattr(inner, "__globals__", None), include_extras=True)
    except NameError as error:
        raise ToolSchemaError(
            f"tool {where}: a type hint cannot be resolved: {error}; import or define that type at module level"
        ) from error


def _check(where: str, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> None:
    name = parameter.name
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise ToolSchemaError(f"tool {where}: *{name} has no JSON schema; name each parameter")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise ToolSchemaError(f"tool {where}: parameter {name!r} is positional-only; a model passes arguments by name")
    if name not in hints:
        raise ToolSchemaError(
            f"tool {where}: parameter {name!r} has no type hint; "
            f"write `{name}: str` (or int, float, bool, Literal[...], list[...], a dataclass)"
        )
    if name.startswith("_") or name == "model_config":
        raise ToolSchemaError(f"tool {where}: {name!r} cannot be the name of a parameter; choose another")


def _described(hint: Any) -> tuple[Any, str | None]:
    """A hint and the description in it: `Annotated[str, "text"]`, `Doc("text")` or `Field(description="text")`."""
    text = None
    for item in getattr(hint, "__metadata__", ()):
        found = item if isinstance(item, str) else getattr(item, "documentation", None)
        text = item.description if isinstance(item, FieldInfo) and item.description else found or text
    return hint, text


def _takes_none(hint: Any) -> bool:
    if hint is None or hint is type(None) or hint is Any:
        return True
    if get_origin(hint) is Annotated:
        return _takes_none(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return None in get_args(hint)
    return get_origin(hint) in (Union, types.UnionType) and any(map(_takes_none, get_args(hint)))


# Hints that pydantic does not read, or not as its own schema says.


def _readable(hint: Any, around: tuple[Any, ...]) -> Any:
    """The hint in a form that pydantic reads. Raises: TypeError for one that has none."""
    if typing.is_typeddict(hint) or typing_extensions.is_typeddict(hint):
        return _typed_dict(hint, around)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _by_value(hint, list(hint))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _by_value(hint, arguments) if any(isinstance(item, Enum) for item in arguments) else hint
    if origin is Annotated:
        return Annotated[(_readable(arguments[0], around), *arguments[1:])]
    made = tuple(_readable(one, around) if _is_hint(one) else one for one in arguments)
    if made == arguments or origin is None:
        return hint
    if origin in (Union, types.UnionType):
        return Union[made]  # noqa: UP007 (a tuple of them)
    return hint.copy_with(made) if hasattr(hint, "copy_with") else origin[made]


def _is_hint(value: Any) -> bool:
    return isinstance(value, type) or get_origin(value) is not None


def _typed_dict(hint: Any, around: tuple[Any, ...]) -> Any:
    """Pydantic reads the TypedDict of typing_extensions alone on Python 3.11, and takes further keys in it."""
    if hint in around:
        raise TypeError(f"{hint.__name__} refers to itself; write it as a dataclass or a pydantic model")
    fields = {}
    for name, of_field in get_type_hints(hint, include_extras=True).items():
        is_required = name in hint.__required_keys__  # wrong for a hint in quotes: then the hint itself says it
        if get_origin(of_field) in (Required, NotRequired):
            is_required = get_origin(of_field) is Required
            (of_field,) = get_args(of_field)
        readable = _readable(of_field, (*around, hint))
        fields[name] = readable if is_required else NotRequired[readable]
    make: Any = typing_extensions.TypedDict
    made = make(hint.__name__, fields)
    made.__pydantic_config__ = getattr(hint, "__pydantic_config__", ConfigDict(extra="forbid"))
    made.__doc__, made.__module__ = hint.__doc__, hint.__module__
    return made


def _by_value(hint: Any, members: Any) -> Any:
    """A hint of Enum members that also takes each one's value as JSON writes it, as its schema promises."""
    values = [member.value if isinstance(member, Enum) else member for member in members]
    if all(isinstance(value, _SCALARS) for value in values) and get_origin(hint) is not Literal:
        return hint
    written: dict[Any, Any] = {}
    for value, member in zip(values, members, strict=True):
        is_float = isinstance(value, float) and math.isfinite(value)
        if not isinstance(value, (*_SCALARS, *_WRITTEN)) and not is_float:
            raise TypeError(f"{value!r} cannot be written as one JSON value; give the members text or numbers")
        written[_as_json(value)] = member
    return Annotated[hint, BeforeValidator(lambda given: written.get(given, given) if _is_hashable(given) else given)]


def _as_json(value: Any) -> Any:
    return value if isinstance(value, (*_SCALARS, float)) else TypeAdapter(type(value)).dump_python(value, mode="json")


def _is_hashable(value: Any) -> bool:
    return not isinstance(value, (list, dict))


def _listed(generator: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(generator)
    async def collected(*args: Any, **kwargs: Any) -> list[Any]:
        found: list[Any] = []
        async for item in generator(*args, **kwargs):
            if len(found) == MAX_ITEMS:
                raise ValueError(f"the tool yields more than {MAX_ITEMS} values")
            found.append(item)
        return found

    return collected


def json_only(schema: Any) -> Any:
    """A schema without defaults and bounds that JSON cannot write, such as infinity.

    Raises: ToolSchemaError for a value in an enum that JSON cannot write.
    """
    if isinstance(schema, list):
        return [json_only(item) for item in schema]
    if isinstance(schema, Mapping):
        return {
            name: {key: json_only(one) for key, one in item.items()} if name == "properties" else json_only(item)
            for name, item in schema.items()
            if not (_optional(name) and _unwritable(item))
        }
    if _unwritable(schema):
        raise ToolSchemaError(f"the schema holds {schema!r}, which JSON cannot write")
    return schema


def _optional(name: str) -> bool:
    return name in ("default", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "examples")


def _unwritable(value: Any) -> bool:
    try:
        plain = to_jsonable_python(value, inf_nan_mode="constants")
    except (ValueError, RecursionError):
        return True
    if isinstance(plain, float):
        return not math.isfinite(plain)
    if isinstance(plain, Mapping):
        return any(map(_unwritable, plain.values()))
    return isinstance(plain, list) and any(map(_unwritable, plain))
