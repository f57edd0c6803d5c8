"""Reads an OpenAPI 3 document: its operations, and which of them the caller chose."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from agentrl.errors import ToolSchemaError, did_you_mean
from agentrl.tools.openapi.schema import look_up

METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
DOCUMENT_TIMEOUT_S = 20.0
_TEMPLATE = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path of the document.

    Attributes:
        servers: its own or those of its path; None where those of the document apply.
        problem: why it cannot be read; None if it can.
    """

    name: str
    method: str
    path: str
    content: Mapping[str, Any]
    parameters: tuple[Mapping[str, Any], ...] = ()
    servers: Any = None
    problem: str | None = None

    @property
    def known_as(self) -> frozenset[str]:
        """Every name that `include` and `exclude` may use for it."""
        given = str(self.content.get("operationId", self.name))
        return frozenset({self.name, f"{self.method.upper()} {self.path}", given})


def load_document(document: Mapping[str, Any] | str | Path) -> tuple[Mapping[str, Any], str | None]:
    """Read an OpenAPI document.

    Returns: the document, and the address that it was fetched from; None if it was not fetched.
    Raises: ToolSchemaError if it is not an OpenAPI 3 document.
    """
    address = None
    if isinstance(document, Mapping):
        content: Any = document
    elif isinstance(document, str) and document.startswith(("http://", "https://")):
        answer = httpx.get(document, timeout=DOCUMENT_TIMEOUT_S, follow_redirects=True)
        answer.raise_for_status()
        address = str(answer.url)
        content = _parse(answer.text, document)
    else:
        content = _parse(Path(document).read_text(encoding="utf-8-sig"), str(document))
    version = content.get("openapi") if isinstance(content, Mapping) else None
    if not str(version).startswith("3."):
        given = f"swagger {content['swagger']}" if isinstance(content, Mapping) and "swagger" in content else version
        raise ToolSchemaError(f"expected an OpenAPI 3.0 or 3.1 document, got version {given!r}; convert it first")
    return content, address


def _parse(text: str, name: str) -> Any:
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ToolSchemaError(f"{name} is not valid JSON: {error}") from error
    try:
        import yaml  # type: ignore[import-untyped]  # an optional extra: JSON documents need none
    except ImportError:
        raise ToolSchemaError(f"{name} is not JSON; to read YAML: pip install pyyaml") from None
    try:
        return yaml.load(text, Loader=_json_loader(yaml))  # it makes plain values only
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ToolSchemaError(f"{name} is not valid YAML: {error}") from error


@cache
def _json_loader(yaml: Any) -> Any:
    """A safe loader that reads the values that JSON has: `NO` and `2020-01-01` are texts, as OpenAPI asks for.

    Source: YAML 1.2, section 10.2 (JSON schema); OpenAPI 3.1.1, section 4.3.
    """
    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader: Any = type("JsonLoader", (base,), {"yaml_implicit_resolvers": {}})
    number = r"-?(0|[1-9][0-9]*)"
    for tag, pattern, first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", number, list("-0123456789")),
        ("float", rf"{number}(\.[0-9]*)?([eE][-+]?[0-9]+)?", list("-0123456789")),
        ("merge", r"<<", ["<"]),
    ):
        loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), first)
    return loader


def operations(document: Mapping[str, Any]) -> Iterator[Operation]:
    """The operations of a document, in its order; their tool names are unique."""
    taken: set[str] = set()
    paths = document.get("paths")
    for path, item in paths.items() if isinstance(paths, Mapping) else ():
        try:
            item = {**look_up(item["$ref"], document), **item} if "$ref" in item else item
        except (ToolSchemaError, TypeError) as error:
            name = unique(_tool_name(f"path_{path}"), taken)
            yield Operation(name, "get", str(path), {}, problem=f"its path cannot be read: {error}")
            continue
        for method in METHODS:
            if isinstance(item, Mapping) and isinstance(item.get(method), Mapping):
                yield _operation(method, str(path), item, document, taken)


def _operation(
    method: str, path: str, item: Mapping[str, Any], document: Mapping[str, Any], taken: set[str]
) -> Operation:
    content = item[method]
    name = unique(_tool_name(str(content.get("operationId") or f"{method}_{path}")), taken)
    servers = content.get("servers") or item.get("servers")
    try:
        parameters = _parameters(item.get("parameters") or (), content.get("parameters") or (), document)
    except (ToolSchemaError, TypeError) as error:
        problem = f"its parameters cannot be read: {error}"
        return Operation(name, method, path, content, servers=servers, problem=problem)
    return Operation(name, method, path, content, parameters, servers)


def _parameters(shared: Any, own: Any, document: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Parameters of the path and of the operation; the operation's replace the path's of the same name."""
    found = {}
    for parameter in (*shared, *own):
        if isinstance(parameter, Mapping) and "$ref" in parameter:
            parameter = look_up(parameter["$ref"], document)
        if not isinstance(parameter, Mapping) or not {"in", "name"} <= parameter.keys():
            raise ToolSchemaError(f"a parameter has no name or no place: {str(parameter)[:80]}")
        found[parameter["in"], str(parameter["name"])] = parameter
    return tuple(found.values())


def paths_by_method(found: Sequence[Operation]) -> dict[str, frozenset[str]]:
    """The paths that have an operation of each method."""
    methods = {o.method for o in found}
    return {method: frozenset(o.path for o in found if o.method == method) for method in methods}


@cache
def path_pattern(path: str) -> re.Pattern[str]:
    """What the addresses of an operation look like."""
    return re.compile(_TEMPLATE.sub("[^/]+", re.sub(r"[^\w{}/]", lambda m: re.escape(m[0]), path)))


def _tool_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "_", text).strip("_")[:60] or "call"


def unique(name: str, taken: set[str]) -> str:
    """The name, or `name_2`, `name_3` and so on if it is taken. The result is added to `taken`."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free)
    return free


def choose(found: list[Operation], include: Sequence[str] | None, exclude: Sequence[str]) -> list[Operation]:
    """The operations that `include` names, without those that `exclude` names.

    Raises: ToolSchemaError for a name that the document does not have.
    """
    known = {word for operation in found for word in operation.known_as}
    for word in (*(include or ()), *exclude):
        if word not in known:
            raise ToolSchemaError(f"the document has no operation {word!r}.{did_you_mean(word, known)}")
    wanted = [o for o in found if include is None or o.known_as & set(include)]
    return [o for o in wanted if not o.known_as & set(exclude)]
