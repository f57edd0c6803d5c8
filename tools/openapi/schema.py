"""JSON schemas of an OpenAPI document, written out: without `$ref`, `allOf` and the forms of OpenAPI 3.0.

Owns `$ref` resolution within one document. What a value must be belongs to `agentrl.tools.openapi.checking`. The
library `referencing` (0.37) looks a reference up, which takes 20 lines here, but does not write the target out in its
place, which is what the schema that a model reads needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import product
from typing import Any
from urllib.parse import unquote

from agentrl.errors import ToolSchemaError

Schema = Mapping[str, Any]
MAX_NODES = 1_500
"""Schemas that one argument may hold, written out; references beyond that are replaced by what kind they name."""
MAX_NODES_WITHOUT_REFERENCES = 20_000
_DEPTHS = (64, 12, 8, 6, 4, 3, 2, 1)
_MOST_COMBINATIONS = 32
_UNIONS = ("oneOf", "anyOf")
_NOISE = frozenset(
    ("title", "example", "examples", "xml", "externalDocs", "discriminator", "deprecated", "$schema", "$comment", "$id")
)
# Keywords whose value is data, not a schema.
_PLAIN = frozenset({"enum", "const", "default", "required"})
# Keywords that say something of a schema next to its `$ref`, also in OpenAPI 3.0.
_ANNOTATIONS = frozenset({"description", "default", "nullable"})
# Branches of a union that hold nothing else leave the types as they are: only the server checks them.
_CONDITIONS = frozenset({"required", "description", "not", "title", "dependentRequired"})


def resolve(schema: Any, document: Schema) -> Any:
    """A schema in JSON-schema 2020 form, with every `$ref` replaced by the schema that it names.

    Where a schema contains itself, or would grow beyond `MAX_NODES`, an inner one is replaced by a schema of the same
    type that allows anything. `allOf` is merged, and the rules of OpenAPI 3.0 for null and exclusive bounds are
    replaced by their modern forms. Members that only a server may write are left out.

    Raises: ToolSchemaError if a reference leaves the document or names nothing, or if the schema is too large.
    """
    for depth in _DEPTHS:
        try:
            return _Resolver(document, depth, MAX_NODES).resolved(schema)
        except _TooLarge:
            continue
    try:
        return _Resolver(document, _DEPTHS[-1], MAX_NODES_WITHOUT_REFERENCES).resolved(schema)
    except _TooLarge:
        raise ToolSchemaError(f"a schema holds more than {MAX_NODES_WITHOUT_REFERENCES} others") from None


class _TooLarge(Exception):
    pass


class _Resolver:
    """Writes one schema out, down to a number of references inside each other."""

    def __init__(self, document: Schema, depth: int, most: int) -> None:
        self._document, self._depth, self._left = document, depth, most
        self._is_30 = str(document.get("openapi", "")).startswith("3.0")
        self._open: list[str] = []

    def resolved(self, schema: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise _TooLarge
        if isinstance(schema, list):
            return [self.resolved(item) for item in schema]
        if not isinstance(schema, Mapping):
            return schema
        if isinstance(schema.get("$ref"), str):
            return self._referred(schema)
        kept = {key: self._value(key, value) for key, value in schema.items() if key not in _NOISE}
        return _modern(kept)

    def _value(self, key: str, value: Any) -> Any:
        if key in _PLAIN:
            return value
        if key in ("properties", "patternProperties", "$defs", "dependentSchemas") and isinstance(value, Mapping):
            return self._members(value)  # the keys are names of members, which may equal a keyword
        return self.resolved(value)

    def _members(self, members: Mapping[str, Any]) -> dict[str, Any]:
        return {str(name): self.resolved(item) for name, item in members.items() if not _is_read_only(item)}

    def _referred(self, schema: Schema) -> Any:
        reference = schema["$ref"]
        target = look_up(reference, self._document)
        name = reference.rsplit("/", 1)[-1]
        if reference in self._open:
            found: Any = {"type": "object", "description": f"as {name} above"}
        elif len(self._open) >= self._depth:
            found = _kind_of(target, name)
        else:
            self._open.append(reference)
            found = self.resolved(target)
            self._open.pop()
        return self._with_siblings(found, schema)

    def _with_siblings(self, found: Any, schema: Schema) -> Any:
        """The schema that a reference names, with what stands next to the reference."""
        own = {key: value for key, value in schema.items() if key != "$ref" and key not in _NOISE}
        if not own or not isinstance(found, Mapping):
            return found
        notes = {key: own.pop(key) for key in list(own) if key in _ANNOTATIONS}
        if own and not self._is_30:  # 3.0 says that they are ignored
            return _modern({"allOf": [found, self.resolved(own)], **notes})
        return _modern({**found, **notes})


def _is_read_only(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("readOnly") is True


def _kind_of(target: Any, name: str) -> dict[str, Any]:
    """A schema of the same type as one that is not written out."""
    kind = target.get("type") if isinstance(target, Mapping) else None
    if kind is None and isinstance(target, Mapping) and "properties" in target:
        kind = "object"
    found: dict[str, Any] = {"description": f"{name}, which is not written out here"}
    return {"type": kind, **found} if isinstance(kind, str | list) else found


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
        siblings = {key: value for key, value in found.items() if key != "$ref" and key in _ANNOTATIONS}
        followed.append(reference)
        found = _at(reference, document)
        if siblings and isinstance(found, Mapping):
            found = {**found, **siblings}
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


# From older forms to those of JSON schema 2020.


def _modern(schema: dict[str, Any]) -> dict[str, Any]:
    nullable = schema.pop("nullable", False) is True
    if not isinstance(schema.get("required", []), list):  # true or false, as Swagger 2 wrote it at a member
        del schema["required"]
    for exclusive, plain in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if schema.get(exclusive) is True and plain in schema:
            schema[exclusive] = schema.pop(plain)
        elif isinstance(schema.get(exclusive), bool):
            del schema[exclusive]
    schema = merged(schema)
    return _or_null(schema) if nullable else schema


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, for a value that may also be null."""
    for union in _UNIONS:
        if union in schema:
            return {**schema, union: [*schema[union], {"type": "null"}]}
    if "enum" in schema and None not in schema["enum"]:
        schema["enum"] = [*schema["enum"], None]
    if isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    elif isinstance(schema.get("type"), list):
        schema["type"] = [*(kind for kind in schema["type"] if kind != "null"), "null"]
    elif "properties" in schema:
        schema["type"] = ["object", "null"]
    return schema


def merged(schema: Schema) -> dict[str, Any]:
    """The schema with its `allOf` merged in, and with what it says of each branch of a `oneOf` or `anyOf` put there.

    Properties and required names are joined; other keywords of a later part replace those of an earlier one.
    """
    parts = [merged(part) for part in schema.get("allOf", ()) if isinstance(part, Mapping)]
    parts.append({key: value for key, value in schema.items() if key != "allOf"})
    base: dict[str, Any] = {}
    unions: list[tuple[str, list[Any]]] = []
    for part in parts:
        unions += [(word, part[word]) for word in _UNIONS if isinstance(part.get(word), list)]
        base = _merge_two(base, {key: value for key, value in part.items() if key not in _UNIONS})
    unions = [(word, branches) for word, branches in unions if not all(map(_is_condition, branches))]
    if not unions:
        return base
    if not base.keys() - {"description", "default", "type"} and len(unions) == 1:
        return {**base, unions[0][0]: unions[0][1]}
    return _distributed(base, unions)


def _is_condition(branch: Any) -> bool:
    return isinstance(branch, Mapping) and not branch.keys() - _CONDITIONS


def _distributed(base: dict[str, Any], unions: Sequence[tuple[str, list[Any]]]) -> dict[str, Any]:
    """One union, each of whose branches also holds what stands next to it, as closed objects need."""
    notes: dict[str, Any] = {key: base.pop(key) for key in ("description", "default") if key in base}
    combinations: list[tuple[Any, ...]] = []
    for combination in product(*(branches for _, branches in unions)):
        combinations.append(combination)
        if len(combinations) == _MOST_COMBINATIONS:
            break
    branches = []
    for combination in combinations:
        parts = [dict(part) for part in combination if isinstance(part, Mapping)]
        branches.append(reduce(_merge_two, [base, *parts]))
    return {**notes, unions[0][0]: branches}


def closed(schema: Any) -> Any:
    """A resolved schema as a model sees it: objects say that they are closed, and require what they declare alone."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: value if key in _PLAIN else closed(value) for key, value in schema.items() if key != "properties"}
    if isinstance(schema.get("properties"), Mapping):
        found["properties"] = {name: closed(item) for name, item in schema["properties"].items()}
        found.setdefault("additionalProperties", False)
        if "required" in found:
            found["required"] = [name for name in found["required"] if name in found["properties"]]
    return found


def _merge_two(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    joined = {**first, **second}
    if "properties" in first or "properties" in second:
        joined["properties"] = {**first.get("properties", {}), **second.get("properties", {})}
    if "required" in first or "required" in second:
        names = [*_list_of(first.get("required")), *_list_of(second.get("required"))]
        joined["required"] = list(dict.fromkeys(names))
    if isinstance(first.get("enum"), list) and isinstance(second.get("enum"), list):
        joined["enum"] = [value for value in first["enum"] if value in second["enum"]] or second["enum"]
    return joined


def _list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
