"""A JSON schema in the plain subset that small models and servers read: definitions written out, no titles.

Owns the change from one schema to the other. How a schema is made from a function belongs to `agentrl.tool_schema`.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

_DEFS = "#/$defs/"


def plain_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON schema without titles. Only a type that refers to itself keeps its `$ref`.

    Args:
        schema: as pydantic or an API description gives it, with definitions under `$defs`.
    """
    definitions = schema.get("$defs", {})
    recursive = {name for name in definitions if name in _reachable(definitions[name], definitions)}
    body = {key: value for key, value in schema.items() if key != "$defs"}
    plain: dict[str, Any] = _plain(body, definitions, recursive)
    if recursive:
        plain["$defs"] = {name: _plain(definitions[name], definitions, recursive) for name in sorted(recursive)}
    return plain


def _references(schema: Any) -> set[str]:
    """Names of the definitions that a schema refers to directly."""
    if isinstance(schema, list):
        return set().union(*map(_references, schema))
    if not isinstance(schema, Mapping):
        return set()
    own = {schema["$ref"].removeprefix(_DEFS)} if isinstance(schema.get("$ref"), str) else set()
    return own.union(*map(_references, schema.values()))


def _reachable(schema: Any, definitions: Mapping[str, Any]) -> set[str]:
    """Names of the definitions that a schema refers to, directly or through others."""
    found: set[str] = set()
    waiting = _references(schema)
    while waiting:
        name = waiting.pop()
        if name not in found and name in definitions:
            found.add(name)
            waiting |= _references(definitions[name])
    return found


def _plain(schema: Any, definitions: Mapping[str, Any], recursive: Set[str]) -> Any:
    if isinstance(schema, list):
        return [_plain(item, definitions, recursive) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    name = str(schema.get("$ref", "")).removeprefix(_DEFS)
    if name in definitions and name not in recursive:
        others = {key: value for key, value in schema.items() if key != "$ref"}
        return _plain({**definitions[name], **others}, definitions, recursive)
    cleaned: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "title" and isinstance(value, str):
            continue
        if key == "properties":
            cleaned[key] = {name: _plain(item, definitions, recursive) for name, item in value.items()}
        elif key in ("default", "enum", "const", "examples", "required"):
            cleaned[key] = value
        else:
            cleaned[key] = _plain(value, definitions, recursive)
    if "properties" in cleaned:
        cleaned.setdefault("additionalProperties", False)
    return cleaned
