"""Reads an OpenAPI 3 document: its server and its operations, and which of them the caller chose."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from agentrl.errors import ToolSchemaError, did_you_mean
from agentrl.tools.json_schema import look_up

METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
DOCUMENT_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path of the document."""

    name: str
    method: str
    path: str
    content: Mapping[str, Any]
    parameters: tuple[Mapping[str, Any], ...]

    @property
    def known_as(self) -> frozenset[str]:
        """Every name that `include` and `exclude` may use for it."""
        return frozenset({self.name, f"{self.method.upper()} {self.path}", self.content.get("operationId", self.name)})


def load_document(document: Mapping[str, Any] | str | Path) -> tuple[Mapping[str, Any], str | None]:
    """Read an OpenAPI document.

    Returns: the document, and the address that it was fetched from; None if it was not fetched.
    Raises: ToolSchemaError if it is not an OpenAPI 3 document.
    """
    address = None
    if isinstance(document, Mapping):
        content: Any = document
    elif isinstance(document, str) and document.startswith(("http://", "https://")):
        address = document
        answer = httpx.get(document, timeout=DOCUMENT_TIMEOUT_S)
        answer.raise_for_status()
        content = _parse(answer.text, document)
    else:
        content = _parse(Path(document).read_text(encoding="utf-8"), str(document))
    version = content.get("openapi") if isinstance(content, Mapping) else None
    if not str(version).startswith("3."):
        given = f"swagger {content['swagger']}" if isinstance(content, Mapping) and "swagger" in content else version
        raise ToolSchemaError(f"expected an OpenAPI 3.0 or 3.1 document, got version {given!r}; convert it first")
    return content, address


def _parse(text: str, name: str) -> Any:
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ToolSchemaError(f"{name} is not valid JSON: {error}") from error
    try:
        import yaml  # type: ignore[import-untyped]  # an optional extra: JSON documents need none
    except ImportError:
        raise ToolSchemaError(f"{name} is not JSON; to read YAML: pip install pyyaml") from None
    return yaml.safe_load(text)


def server_url(document: Mapping[str, Any], address: str | None) -> str:
    """The address of the first server, with the default values of its variables.

    Raises: ToolSchemaError if it is not a full address.
    """
    servers = document.get("servers") or [{}]
    url = str(servers[0].get("url", ""))
    for name, variable in (servers[0].get("variables") or {}).items():
        url = url.replace("{" + name + "}", str(variable["default"]))
    if address is not None:
        return str(httpx.URL(address).join(url))
    if not url.startswith(("http://", "https://")):
        raise ToolSchemaError(f"the document names no full server address (its server is {url!r}): give base_url=...")
    return url


def operations(document: Mapping[str, Any]) -> Iterator[Operation]:
    """The operations of a document, in its order; their tool names are unique."""
    taken: set[str] = set()
    for path, item in (document.get("paths") or {}).items():
        item = look_up(item["$ref"], document) if "$ref" in item else item
        for method in METHODS:
            if method in item:
                content = item[method]
                name = unique(_tool_name(content.get("operationId") or f"{method}_{path}"), taken)
                shared, own = item.get("parameters", ()), content.get("parameters", ())
                yield Operation(name, method, path, content, _parameters(shared, own, document))


def _parameters(shared: Any, own: Any, document: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Parameters of the path and of the operation; the operation's replace the path's of the same name."""
    found = [look_up(p["$ref"], document) if "$ref" in p else p for p in (*shared, *own)]
    return tuple({(p["in"], p["name"]): p for p in found}.values())


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
