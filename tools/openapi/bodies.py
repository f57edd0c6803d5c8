"""The body of an operation as arguments: JSON, forms, forms with files, texts and bytes.

Owns which bodies can be offered. How they are written belongs to `agentrl.tools.openapi.files` and `styles`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agentrl.errors import ToolSchemaError
from agentrl.tools.openapi.argument import Argument, Place, as_schema, is_json, media_type, shown_name
from agentrl.tools.openapi.document import LONGEST_NAME, Operation, unique
from agentrl.tools.openapi.files import BYTES, MULTIPART, file_schema
from agentrl.tools.openapi.schema import look_up, resolve
from agentrl.tools.openapi.styles import STYLES
from agentrl.wire.request_text import FORM, JSON

_NO_BYTES = ("text/", "application/xml", "multipart/")


@dataclass(frozen=True, slots=True)
class Body:
    """The body of an operation: how it is written, its content type, its schema and the encodings of its fields.

    Attributes:
        place: of an argument that is the whole body, or one member, field or part of it.
        kind: content type.
        schema: resolved.
    """

    place: Place
    kind: str
    schema: Any
    required: bool
    encodings: Mapping[str, Any]

    @classmethod
    def of(cls, operation: Operation, document: Mapping[str, Any]) -> Body | None:
        """Raises: ToolSchemaError if there is only a content type that a tool cannot send."""
        body = operation.content.get("requestBody")
        if not isinstance(body, Mapping):
            return None
        if "$ref" in body:
            body = look_up(body["$ref"], document)
        content = body.get("content") or {}
        for suits, place in _PREFERRED:
            for kind, media in content.items():
                media = as_schema(media)
                if suits(str(kind), media, document):
                    schema = resolve(media.get("schema", {}), document)
                    return cls(
                        place,
                        _sent_as(str(kind), place),
                        schema,
                        bool(body.get("required")),
                        media.get("encoding") or {},
                    )
        raise ToolSchemaError(
            f"it takes a body of {', '.join(map(str, content)) or 'no type'}, which a tool cannot send"
        )

    def arguments(self, taken: set[str]) -> list[Argument]:
        """One argument for each member of the body; a single argument `body` if that is not possible."""
        if self.place in ("field", "part"):
            return list(self._fields(taken))
        schema = self.schema
        if self.place == "text":
            schema = schema or {"type": "string"}
        elif self.place == "bytes":
            schema = file_schema(schema, named=False)
        elif _can_be_flat(schema, taken):
            needed = schema.get("required", ()) if self.required else ()
            members = schema["properties"].items()
            return [Argument(unique(key, taken), "member", key, as_schema(m), key in needed) for key, m in members]
        return [Argument(unique("body", taken), self.place, "body", schema, self.required)]

    def _fields(self, taken: set[str]) -> Iterator[Argument]:
        whole = as_schema(self.schema)
        if not isinstance(whole.get("properties"), Mapping):
            raise ToolSchemaError("its form must be an object of named fields")
        needed = whole.get("required", ()) if self.required else ()
        for key, schema in whole["properties"].items():
            make = self._part if self.place == "part" else self._field
            yield make(key, schema, as_schema(self.encodings.get(key)), unique(shown_name(key), taken), key in needed)

    def _field(self, key: str, schema: Any, encoding: Mapping[str, Any], name: str, required: bool) -> Argument:
        style = encoding.get("style", "form")
        if style not in STYLES["query"]:
            raise ToolSchemaError(f"field {key!r} of its form has the unknown style {style!r}")
        kind = encoding.get("contentType")
        if kind is not None and "style" not in encoding and not is_json(kind) and media_type(kind) != "text/plain":
            raise ToolSchemaError(f"field {key!r} of its form has the content {kind!r}, which a tool cannot write")
        return Argument(
            name=name,
            place="field",
            wire_name=key,
            schema=as_schema(schema),
            required=required,
            style=style,
            explode=bool(encoding.get("explode", style in ("form", "deepObject"))),
            reserved=bool(encoding.get("allowReserved")),
            as_json="style" not in encoding and ((kind is not None and is_json(kind)) or _is_object(schema)),
        )

    def _part(self, key: str, schema: Any, encoding: Mapping[str, Any], name: str, required: bool) -> Argument:
        """Source: OpenAPI 3.0.4 and 3.1.1, sections 4.7.15 and 4.8.15 (defaults of `contentType`)."""
        needed = [h for h, header in as_schema(encoding.get("headers")).items() if as_schema(header).get("required")]
        if needed:
            raise ToolSchemaError(
                f"field {key!r} of its form requires the header {needed[0]!r}, which a tool cannot write"
            )
        is_list = as_schema(schema).get("type") == "array"
        item = as_schema(as_schema(schema).get("items") if is_list else schema)
        media = str(encoding.get("contentType") or item.get("contentMediaType") or "").split(",")[0].strip()
        if not media.isprintable():
            raise ToolSchemaError(f"field {key!r} of its form has the content {media!r}, which a tool cannot write")
        is_deep = encoding.get("style") == "deepObject"
        is_file = not is_deep and _is_bytes(item, media)
        as_json = not is_deep and not is_file and (is_json(media) if media else _is_object(item))
        shown = as_schema(schema)
        if is_file:
            shown = {**shown, "items": file_schema(item)} if is_list else file_schema(item)
            media = media if media and "*" not in media else BYTES
        return Argument(
            name=name,
            place="part",
            wire_name=key,
            schema=shown,
            required=required,
            style="deepObject" if is_deep else "form",
            as_json=as_json,
            media=JSON if as_json and not media else media,
            is_file=is_file,
        )


def _is_object(schema: Any) -> bool:
    """Whether a form writes a field as JSON, where its encoding says nothing. Source: OpenAPI 3.1.1, section 4.8.15."""
    return isinstance(schema, Mapping) and ("properties" in schema or schema.get("type") == "object")


def _is_bytes(schema: Mapping[str, Any], media: str) -> bool:
    """Whether a value is bytes: by the words of OpenAPI 3.0 (`format`), or those of 3.1 (a content type)."""
    if schema.get("type", "string") != "string" or schema.get("contentEncoding") or "enum" in schema:
        return False
    return schema.get("format") == "binary" or (
        bool(media) and not is_json(media) and not media_type(media).startswith(_NO_BYTES)
    )


def _is_text(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "string" and schema.get("format") != "binary"


Suits = Callable[[str, Mapping[str, Any], Mapping[str, Any]], bool]


def _schema_of(media: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = as_schema(resolve(media.get("schema", {}), document))
    return found


# How a body may be written, the best first: (content type, what the document says of it, document) -> whether it suits.
_PREFERRED: list[tuple[Suits, Place]] = [
    (lambda kind, media, document: is_json(kind), "body"),
    (lambda kind, media, document: media_type(kind) == FORM, "field"),
    (lambda kind, media, document: media_type(kind) == MULTIPART, "part"),
    (lambda kind, media, document: media_type(kind) == "text/plain", "text"),
    (lambda kind, media, document: bool(media_type(kind)) and _is_text(_schema_of(media, document)), "text"),
    (lambda kind, media, document: media_type(kind).startswith("text/") and not media.get("schema"), "text"),
    (lambda kind, media, document: _is_bytes(_schema_of(media, document), media_type(kind)), "bytes"),
]


def _sent_as(kind: str, place: Place) -> str:
    """The content type of a request, where the document may allow several."""
    if "*" in kind:
        kind = {"body": JSON, "text": "text/plain"}.get(place, BYTES)
    is_plain = place == "text" and media_type(kind).startswith("text/") and "charset" not in kind.lower()
    return f"{kind}; charset=utf-8" if is_plain else kind


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
