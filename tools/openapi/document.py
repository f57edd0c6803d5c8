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
from agentrl.wire.redaction import without_credentials
from agentrl.wire.reply import decode, read_bounded_blocking

LONGEST_NAME = 64
METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
DOCUMENT_TIMEOUT_S, WHOLE_DOCUMENT_TIMEOUT_S = 20.0, 120.0
MOST_DOCUMENT_BYTES = 200_000_000
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
    Raises: ToolSchemaError if it cannot be read, or is not an OpenAPI 3 document.
    """
    address = None
    if isinstance(document, Mapping):
        content: Any = document
    elif isinstance(document, str) and document.startswith(("http://", "https://")):
        text, address = _fetched(document)
        content = _parse(text, without_credentials(document))
    else:
        content = _parse(_read(Path(document)), str(document))
    version = content.get("openapi") if isinstance(content, Mapping) else None
    if not str(version).startswith("3."):
        given = f"swagger {content['swagger']}" if isinstance(content, Mapping) and "swagger" in content else version
        raise ToolSchemaError(f"expected an OpenAPI 3.0 or 3.1 document, got version {given!r}; convert it first")
    return content, address


def _fetched(document: str) -> tuple[str, str]:
    """The text of a document, and the address that it was found at, without user and password."""
    name = without_credentials(document)
    try:
        with httpx.stream("GET", document, timeout=DOCUMENT_TIMEOUT_S, follow_redirects=True) as answer:
            content = read_bounded_blocking(answer, MOST_DOCUMENT_BYTES + 1, WHOLE_DOCUMENT_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = without_credentials(str(error)) or type(error).__name__
        raise ToolSchemaError(f"{name} cannot be fetched: {reason}") from None
    if answer.status_code >= 400:
        raise ToolSchemaError(f"{name} cannot be fetched: status {answer.status_code}")
    if len(content) > MOST_DOCUMENT_BYTES:
        raise ToolSchemaError(f"{name} is longer than {MOST_DOCUMENT_BYTES} bytes")
    text = decode(content, "", answer.charset_encoding).removeprefix("\ufeff")
    return text, str(answer.url.copy_with(userinfo=b""))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ToolSchemaError(f"{path} cannot be read: {error}") from error


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
    """The name, or `name_2`, `name_3` and so on if it is taken, without its end if it is long. Adds it to `taken`."""
    number, free = 1, name
    while free in taken:
        number += 1
        end = f"_{number}"
        free = f"{name[: LONGEST_NAME - len(end)]}{end}"
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
