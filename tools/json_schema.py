"""Turns JSON schemas of an API document into Python types, with which pydantic checks a tool's arguments.

Owns `$ref` resolution within one document and the types. The model sees keywords that pydantic cannot express
(format, `not`, conditional schemas), but only the server checks them.

The libraries `jsonschema` (4.26) and `referencing` (0.37) were measured and are not used:
- `import jsonschema` takes 150 ms on top of the 350 ms of httpx and pydantic, which tools need anyway.
- `jsonschema` matches `pattern` with Python's `re`: a model that sends 27 characters against `^(a+)+$` stops the
  process for 3 s. pydantic's engine takes 0.1 ms, because its time grows only linearly with the text.
- `jsonschema` refuses "5" for an integer, which every other tool converts, and its error texts repeat the whole
  wrong value, however long it is.
- `referencing` looks a reference up, which takes 20 lines here, but does not write the target out in its place,
  which is what the schema that a model reads needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Annotated, Any, Literal, Union
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model
from pydantic_core import SchemaError

from agentrl.errors import ToolSchemaError

Schema = Mapping[str, Any]
_NOISE = frozenset({"example", "examples", "xml", "externalDocs", "discriminator", "deprecated", "$schema", "$comment"})
_SIMPLE: dict[str, Any] = {"string": str, "integer": int, "number": int | float, "boolean": bool, "null": type(None)}
# For each type: keywords of JSON schema and the arguments of pydantic's Field with the same meaning.
_CONSTRAINTS = {
    "string": {"minLength": "min_length", "maxLength": "max_length", "pattern": "pattern"},
    "integer": {"minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt", "exclusiveMaximum": "lt"},
    "number": {"minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt", "exclusiveMaximum": "lt"},
    "array": {"minItems": "min_length", "maxItems": "max_length"},
}


def resolve(schema: Any, document: Schema, *, open_refs: tuple[str, ...] = ()) -> Any:
    """A schema in JSON-schema 2020 form, with every `$ref` replaced by the schema that it names.

    Where a schema contains itself, the inner one is replaced by a schema of any object. `nullable` and the
    boolean `exclusiveMinimum` of OpenAPI 3.0 are replaced by their modern forms.

    Raises: ToolSchemaError if a reference leaves the document or names nothing.
    """
    if isinstance(schema, list):
        return [resolve(item, document, open_refs=open_refs) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if reference in open_refs:
            return {"type": "object", "description": f"as {reference.rsplit('/', 1)[-1]} above"}
        target = resolve(look_up(reference, document), document, open_refs=(*open_refs, reference))
        own = {key: value for key, value in schema.items() if key == "description"}
        return {**target, **own} if isinstance(target, Mapping) else target
    resolved = {key: _resolve_value(key, value, document, open_refs) for key, value in schema.items()}
    return _modern({key: value for key, value in resolved.items() if key not in _NOISE})


def _resolve_value(key: str, value: Any, document: Schema, open_refs: tuple[str, ...]) -> Any:
    if key in ("enum", "const", "default", "required"):
        return value
    if key == "properties":  # the keys are names of properties, which may equal a keyword
        return {name: resolve(item, document, open_refs=open_refs) for name, item in value.items()}
    return resolve(value, document, open_refs=open_refs)


def look_up(reference: str, document: Schema) -> Any:
    """The value that a local reference (`#/components/schemas/Pet`) names. A chain of references is followed.

    Raises: ToolSchemaError if a reference leaves the document, names nothing, or leads back to itself.
    Source: RFC 6901, sections 4 and 6.
    """
    followed: list[str] = []
    found: Any = {"$ref": reference}
    while isinstance(found, Mapping) and isinstance(found.get("$ref"), str):
        reference = found["$ref"]
        if reference in followed:
            raise ToolSchemaError(
                f"reference {reference!r} leads back to itself: {' -> '.join([*followed, reference])}"
            )
        followed.append(reference)
        found = _at(reference, document)
    return found


def _at(reference: str, document: Schema) -> Any:
    if not reference.startswith("#/"):
        raise ToolSchemaError(f"reference {reference!r} leaves the document: bundle the document into one file first")
    found: Any = document
    for part in unquote(reference[2:]).split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise ToolSchemaError(f"reference {reference!r} names nothing in the document")
    return found


def _modern(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.pop("nullable", False) and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
        if "enum" in schema and None not in schema["enum"]:
            schema["enum"] = [*schema["enum"], None]
    for exclusive, plain in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if schema.get(exclusive) is True and plain in schema:
            schema[exclusive] = schema.pop(plain)
        elif isinstance(schema.get(exclusive), bool):
            del schema[exclusive]
    return schema


def python_type(schema: Any, name: str = "value") -> Any:
    """The type with which pydantic validates values of a resolved schema.

    Args:
        schema: what `resolve` returned.
        name: name of the pydantic model, if the schema is an object with properties.
    """
    if not isinstance(schema, Mapping):
        return Any
    if "const" in schema:
        return _literal([schema["const"]])
    if "enum" in schema:
        return _literal(schema["enum"])
    if "allOf" in schema:
        return python_type(merged(schema), name)
    for union in ("oneOf", "anyOf"):
        if union in schema:
            return Union[tuple(python_type(choice, f"{name}_{i}") for i, choice in enumerate(schema[union]))]  # noqa: UP007
    kinds = schema.get("type", "object" if "properties" in schema else None)
    if isinstance(kinds, str):
        return _of_kind(kinds, schema, name)
    if isinstance(kinds, Sequence) and kinds:
        return Union[tuple(_of_kind(kind, schema, name) for kind in kinds)]  # noqa: UP007
    return Any


def merged(schema: Schema) -> dict[str, Any]:
    """The schema with its `allOf` merged in: properties and required names are joined, other keywords replaced."""
    own = {key: value for key, value in schema.items() if key != "allOf"}
    parts = [merged(part) if "allOf" in part else dict(part) for part in schema.get("allOf", ())]
    return reduce(_merge_two, [*parts, own], {})


def _merge_two(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    joined = {**first, **second}
    if "properties" in first or "properties" in second:
        joined["properties"] = {**first.get("properties", {}), **second.get("properties", {})}
        joined["required"] = [*first.get("required", ()), *second.get("required", ())]
    return joined


def _literal(values: Sequence[Any]) -> Any:
    if all(isinstance(value, (str, int, bool)) or value is None for value in values):
        return Literal[tuple(values)]
    return Any


def _of_kind(kind: str, schema: Schema, name: str) -> Any:
    if kind == "object":
        return _object(schema, name)
    if kind == "array":
        base: Any = list[python_type(schema.get("items"), f"{name}_item")]  # type: ignore[misc]
    elif kind in _SIMPLE:
        base = _SIMPLE[kind]
    else:
        return Any
    options = {field: schema[word] for word, field in _CONSTRAINTS.get(kind, {}).items() if word in schema}
    return _constrained(base, options) if options else base


def _constrained(base: Any, options: dict[str, Any]) -> Any:
    try:
        TypeAdapter(Annotated[base, Field(**options)])
    except SchemaError:  # pydantic does not support this regular expression: only the server checks it
        options.pop("pattern", None)
    return Annotated[base, Field(**options)]


def _object(schema: Schema, name: str) -> Any:
    properties = schema.get("properties")
    more = schema.get("additionalProperties")
    if not properties:
        return dict[str, python_type(more, name)] if isinstance(more, Mapping) else dict[str, Any]  # type: ignore[misc]
    required = set(schema.get("required", ()))
    fields: dict[str, Any] = {}
    for index, (key, item) in enumerate(properties.items()):
        options: dict[str, Any] = {"alias": key} if key in required else {"alias": key, "default": None}
        # An optional member that is not given is not sent either: see `exclude_unset` in `openapi.py`.
        fields[f"p{index}"] = (python_type(item, f"{name}_{_word(key)}"), Field(**options))
    return create_model(_word(name), __base__=_OpenObject if more else _Object, **fields)


class _Object(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _OpenObject(BaseModel):
    model_config = ConfigDict(extra="allow")


def _word(text: str) -> str:
    return re.sub(r"\W+", "_", text) or "value"
