"""From an operation of a document to the arguments of a tool: their names, places, schemas, and what is refused.

Owns which constructs can be offered. How a value is written in a request belongs to `agentrl.tools.openapi.styles`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agentrl.errors import ToolSchemaError, did_you_mean
from agentrl.tools.openapi.document import Operation, unique
from agentrl.tools.openapi.schema import look_up, resolve
from agentrl.tools.openapi.styles import STYLES
from agentrl.wire.request_text import FORM

LONGEST_NAME = 64
# OpenAPI says that documents cannot declare the first three. The others frame the request or name its server.
_IGNORED_HEADERS = frozenset(
    {"accept", "content-type", "authorization"}
    | {"host", "content-length", "transfer-encoding", "content-encoding", "accept-encoding", "connection"}
    | {"cookie", "expect", "keep-alive", "te", "trailer", "upgrade"}
)
_NO_NAME = re.compile(r"[^A-Za-z0-9_.-]+")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")

Place = Literal["path", "query", "header", "cookie", "member", "body", "field", "text"]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a tool, with its place and its name in the request.

    Attributes:
        place: of a body, `member` is one of a JSON object, `field` one of a form, `body` and `text` the whole of it.
        as_json: it is written as JSON text (a parameter with `content`).
    """

    name: str
    place: Place
    wire_name: str
    schema: Any
    required: bool
    style: str = "form"
    explode: bool = True
    reserved: bool = False
    as_json: bool = False


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
    body = _Body.of(operation, document)
    if body is not None:
        found += body.arguments(document, taken)
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
        Argument(unique(_shown_name(name), taken), "path", name, {"type": "string"}, True, "simple", False)
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
        if not as_json and _media_type(kind) != "text/plain":
            raise ToolSchemaError(f"parameter {wire_name!r} has the content {kind!r}, which a tool cannot write")
    style = parameter.get("style", STYLES[place][0])
    if style not in STYLES[place]:
        raise ToolSchemaError(f"parameter {wire_name!r} has the style {style!r}, which a {place} parameter cannot have")
    schema = resolve(raw, document)
    if parameter.get("description"):
        schema = {**_as_schema(schema), "description": " ".join(str(parameter["description"]).split())}
    return Argument(
        name=unique(_shown_name(wire_name), taken),
        place=place,
        wire_name=wire_name,
        schema=schema,
        required=bool(parameter.get("required")) or place == "path",
        style=style,
        explode=bool(parameter.get("explode", style == "form")),
        reserved=bool(parameter.get("allowReserved")),
        as_json=as_json,
    )


def _shown_name(name: str) -> str:
    return _NO_NAME.sub("_", name).strip("_")[:LONGEST_NAME] or "value"


def _as_schema(schema: Any) -> Mapping[str, Any]:
    return schema if isinstance(schema, Mapping) else {}


def _media_type(kind: Any) -> str:
    return str(kind).split(";")[0].strip().lower()


def is_json(kind: Any) -> bool:
    """Whether a content type is JSON; `*/*` may be."""
    kind = _media_type(kind)
    return kind in ("application/json", "*/*", "application/*") or kind.endswith("+json")


@dataclass(frozen=True, slots=True)
class _Body:
    """The body of an operation: its content type, its schema as it stands, and the encodings of a form's fields."""

    kind: str
    schema: Any
    required: bool
    encodings: Mapping[str, Any]

    @classmethod
    def of(cls, operation: Operation, document: Mapping[str, Any]) -> _Body | None:
        """Raises: ToolSchemaError if there is only a content type that a tool cannot send."""
        body = operation.content.get("requestBody")
        if not isinstance(body, Mapping):
            return None
        if "$ref" in body:
            body = look_up(body["$ref"], document)
        content = body.get("content") or {}
        for suits in (is_json, lambda kind: _media_type(kind) == FORM, lambda kind: _media_type(kind) == "text/plain"):
            for kind, media in content.items():
                if suits(kind):
                    media = media if isinstance(media, Mapping) else {}
                    kind = "application/json" if "*" in str(kind) else str(kind)
                    encodings = media.get("encoding") or {}
                    return cls(kind, media.get("schema", {}), bool(body.get("required")), encodings)
        raise ToolSchemaError(
            f"it takes a body of {', '.join(map(str, content)) or 'no type'}, which a tool cannot send"
        )

    def arguments(self, document: Mapping[str, Any], taken: set[str]) -> list[Argument]:
        """One argument for each member of the body; a single argument `body` if that is not possible."""
        whole = resolve(self.schema, document)
        if _media_type(self.kind) == "text/plain":
            return [Argument(unique("body", taken), "text", "body", whole or {"type": "string"}, self.required)]
        if _media_type(self.kind) == FORM:
            return list(self._fields(_as_schema(whole), taken))
        if not _can_be_flat(whole, taken):
            return [Argument(unique("body", taken), "body", "body", whole, self.required)]
        needed = whole.get("required", ()) if self.required else ()
        members = whole["properties"].items()
        return [Argument(unique(key, taken), "member", key, _as_schema(m), key in needed) for key, m in members]

    def _fields(self, whole: Mapping[str, Any], taken: set[str]) -> Iterator[Argument]:
        if not isinstance(whole.get("properties"), Mapping):
            raise ToolSchemaError("its form must be an object of named fields")
        needed = whole.get("required", ()) if self.required else ()
        for key, schema in whole["properties"].items():
            encoding = _as_schema(self.encodings.get(key))
            style = encoding.get("style", "form")
            if style not in STYLES["query"]:
                raise ToolSchemaError(f"field {key!r} of its form has the unknown style {style!r}")
            kind = encoding.get("contentType")
            if kind is not None and "style" not in encoding and not is_json(kind) and _media_type(kind) != "text/plain":
                raise ToolSchemaError(f"field {key!r} of its form has the content {kind!r}, which a tool cannot write")
            yield Argument(
                name=unique(_shown_name(key), taken),
                place="field",
                wire_name=key,
                schema=_as_schema(schema),
                required=key in needed,
                style=style,
                explode=bool(encoding.get("explode", style in ("form", "deepObject"))),
                reserved=bool(encoding.get("allowReserved")),
                as_json="style" not in encoding and ((kind is not None and is_json(kind)) or _is_object(schema)),
            )


def _is_object(schema: Any) -> bool:
    """Whether a form writes a field as JSON, where its encoding says nothing. Source: OpenAPI 3.1.1, section 4.8.15."""
    return isinstance(schema, Mapping) and ("properties" in schema or schema.get("type") == "object")


def _can_be_flat(schema: Any, taken: set[str]) -> bool:
    if not isinstance(schema, Mapping) or not schema.get("properties"):
        return False
    if schema.get("additionalProperties") or any(word in schema for word in ("oneOf", "anyOf")):
        return False
    if schema.get("type", "object") != "object":  # it may be null
        return False
    names = schema["properties"]
    return not set(names) & taken and all(
        re.fullmatch(r"[A-Za-z0-9_.-]+", name) and len(name) <= LONGEST_NAME for name in names
    )
