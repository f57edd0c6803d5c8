"""`@frozen`: a frozen, slotted dataclass that is cheap to make. Owns the constructor, nothing else.

Several messages, calls and actions are made at every step of every episode. The standard library's
constructor looks `object.__setattr__` up for each field; this one fills the slots directly, in half the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")
_UNSET: Any = object()


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """Class decorator: `@dataclass(frozen=True, slots=True)` with a faster constructor.

    Raises: TypeError if the class has a `__post_init__` or a base with fields: use `dataclass` there.
    """
    made: Any = dataclass(frozen=True, slots=True)(cls)
    if hasattr(made, "__post_init__") or any(item.name not in made.__dict__ for item in fields(made)):
        raise TypeError(
            f"{cls.__name__} has a __post_init__ or inherits fields: use @dataclass(frozen=True, slots=True)"
        )
    constructor = _constructor(fields(made), made.__dict__)
    constructor.__qualname__ = made.__init__.__qualname__
    constructor.__annotations__ = made.__init__.__annotations__
    made.__init__ = constructor
    return made  # type: ignore[no-any-return]


def _constructor(items: tuple[Field[Any], ...], slots: Any) -> Callable[..., None]:
    names: dict[str, Any] = {"_UNSET": _UNSET}
    parameters, body = ["self"], []
    for item in items:
        names[f"_set_{item.name}"] = slots[item.name].__set__
        value = item.name
        if item.default_factory is not MISSING:
            names[f"_make_{item.name}"] = item.default_factory
            parameters.append(f"{item.name}=_UNSET")
            value = f"_make_{item.name}() if {item.name} is _UNSET else {item.name}"
        elif item.default is not MISSING:
            names[f"_default_{item.name}"] = item.default
            parameters.append(f"{item.name}=_default_{item.name}")
        else:
            parameters.append(item.name)
        body.append(f"    _set_{item.name}(self, {value})")
    exec(f"def __init__({', '.join(parameters)}):\n" + "\n".join(body), names)
    made: Callable[..., None] = names["__init__"]
    return made
