"""From an operation of a document to the arguments of a tool: their names, places, schemas, and what is refused.

Owns which parameters can be offered. Bodies belong to `agentrl.tools.openapi.bodies`, and how a value is written in a
request to `agentrl.tools.openapi.styles`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentrl.errors import ToolSchemaError, did_you_mean
from agentrl.tools.openapi.argument import Argument, as_schema, is_json, media_type, shown_name
from agentrl.tools.openapi.bodies import Body
from agentrl.tools.openapi.document import Operation, unique
from agentrl.tools.openapi.schema import resolve
from agentrl.tools.openapi.styles import STYLES

# OpenAPI says that documents cannot declare the first three. The others frame the request or name its server.
_IGNORED_HEADERS = frozenset(
    {"accept", "content-type", "authorization"}
    | {"host", "content-length", "transfer-encoding", "content-encoding", "accept-encoding", "connection"}
    | {"cookie", "expect", "keep-alive", "te", "trailer", "upgrade"}
)
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Choice:
    """What the caller decides about the arguments of every operation.

    Attributes:
        hidden: (place, name) of parameters that credentials or the session supply; names are in lower case.
        hide: names of parameters and of members of a body that the model does not see.
        fix: such names, with the values that are sent.
    """

    hidden: frozenset[tuple[str, str]] = frozenset()
    hide: frozenset[str] = frozenset()
    fix: Mapping[str, Any] = field(default_factory=dict)

    def word_for(self, words: Iterable[str], argument: Argument) -> str | None:
        """The one of some names that means an argument; capital letters do not matter in the name of a header."""
        name = argument.wire_name
        same = (word for word in words if word == name or (argument.place == "header" and word.lower() == name.lower()))
        return next(same, None)

    def check(self, known: frozenset[str]) -> None:
        """Raises: ToolSchemaError for a name that no operation has."""
        lowered = {word.lower() for word in known}
        for word in (*self.hide, *self.fix):
            if word.lower() not in lowered:
                raise ToolSchemaError(f"no operation has a parameter {word!r}.{did_you_mean(word, known)}")


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of an operation.

    Attributes:
        shown: those that the model gives.
        fixed: those that are always sent, with their values or functions of the environment.
        body_type: content type of the body; empty if there is none.
        empty: the body that is sent if no argument has a part in it; None sends none.
    """

    shown: tuple[Argument, ...]
    fixed: tuple[tuple[Argument, Any], ...]
    body_type: str = ""
    empty: dict[str, Any] | None = None
    names: frozenset[str] = frozenset()


def arguments_of(operation: Operation, document: Mapping[str, Any], choice: Choice) -> Arguments:
    """The arguments of an operation. Raises: ToolSchemaError if it cannot be offered, with the reason."""
    if operation.problem is not None:
        raise ToolSchemaError(operation.problem)
    taken: set[str] = set()
    found = [_parameter(p, document, taken) for p in operation.parameters if not _is_ignored(p, choice)]
    found += _undeclared(operation, found, taken, choice)
    body = Body.of(operation, document)
    if body is not None:
        found += body.arguments(taken)
    words = {a.name: choice.word_for(choice.fix, a) for a in found}
    fixed = [(a, choice.fix[word]) for a in found if (word := words[a.name]) is not None]
    shown = [a for a in found if words[a.name] is None and not _is_hidden(a, choice)]
    empty: dict[str, Any] | None = {} if body and body.required and any(a.place == "member" for a in found) else None
    names = frozenset([*(a.wire_name for a in found), *(str(p["name"]) for p in operation.parameters)])
    return Arguments(tuple(shown), tuple(fixed), body.kind if body else "", empty, names)


def _is_hidden(argument: Argument, choice: Choice) -> bool:
    if choice.word_for(choice.hide, argument) is None:
        # A cookie carries what a browser was given before. Only one that is required is left to the model.
        return argument.place == "cookie" and not argument.required
    if argument.required:
        name = argument.wire_name
        raise ToolSchemaError(
            f"it requires {name!r}, which hide= leaves out: give its value with fix={{{name!r}: ...}}"
        )
    return True


def _is_ignored(parameter: Mapping[str, Any], choice: Choice) -> bool:
    """Whether a parameter is supplied by credentials, the session or the client."""
    name, place = str(parameter["name"]).lower(), parameter["in"]
    if place not in STYLES:
        raise ToolSchemaError(f"parameter {name!r} stands in {place!r}, which is not path, query, header or cookie")
    return (place, name) in choice.hidden or (place == "header" and name in _IGNORED_HEADERS)


def _undeclared(operation: Operation, declared: Sequence[Argument], taken: set[str], choice: Choice) -> list[Argument]:
    """Parts `{name}` of the path that no parameter declares; each is a text that the model gives."""
    known = {a.wire_name for a in declared if a.place == "path"}
    names = dict.fromkeys(_PLACEHOLDER.findall(operation.path))
    return [
        Argument(unique(shown_name(name), taken), "path", name, {"type": "string"}, True, "simple", False)
        for name in names
        if name not in known and ("path", name.lower()) not in choice.hidden
    ]


def _parameter(parameter: Mapping[str, Any], document: Mapping[str, Any], taken: set[str]) -> Argument:
    wire_name, place = str(parameter["name"]), parameter["in"]
    content = parameter.get("content")
    raw, as_json = parameter.get("schema", {}), False
    if isinstance(content, Mapping) and content:
        kind, media = next(iter(content.items()))
        raw, as_json = (media or {}).get("schema", {}), is_json(kind)
        if not as_json and media_type(kind) != "text/plain":
            raise ToolSchemaError(f"parameter {wire_name!r} has the content {kind!r}, which a tool cannot write")
    style = parameter.get("style", STYLES[place][0])
    if style not in STYLES[place]:
        raise ToolSchemaError(f"parameter {wire_name!r} has the style {style!r}, which a {place} parameter cannot have")
    schema = resolve(raw, document)
    if parameter.get("description"):
        schema = {**as_schema(schema), "description": " ".join(str(parameter["description"]).split())}
    return Argument(
        name=unique(shown_name(wire_name), taken),
        place=place,
        wire_name=wire_name,
        schema=schema,
        required=bool(parameter.get("required")) or place == "path",
        style=style,
        explode=bool(parameter.get("explode", style == "form")),
        reserved=bool(parameter.get("allowReserved")),
        as_json=as_json,
    )
