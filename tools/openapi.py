"""Makes a tool of each operation of an OpenAPI document; its arguments are checked against the document.

Owns the arguments and how they become a request. Reading the document (OpenAPI 3.0 and 3.1) belongs to
`agentrl.tools.openapi_document`, sending a request to `agentrl.tools.http_api`. The document's security schemes
are not read: the caller passes `auth`.
"""

from __future__ import annotations

import json
import posixpath
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote

import httpx
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, WithJsonSchema, create_model

from agentrl.errors import ToolError, ToolSchemaError
from agentrl.tool_schema import Tool
from agentrl.tools.http_api import Auth, HttpApi, HttpSettings, reply_text
from agentrl.tools.json_schema import look_up, merged, python_type, resolve
from agentrl.tools.openapi_document import Operation, choose, load_document, operations, server_url, unique
from agentrl.wire.request_text import FORM, header_text, writing

MAX_DESCRIPTION_CHARS = 300
# OpenAPI says that documents cannot declare the first three. The others frame the request or name its server.
_IGNORED_HEADERS = frozenset(
    {"accept", "content-type", "authorization"}
    | {"host", "content-length", "transfer-encoding", "content-encoding", "accept-encoding", "connection"}
    | {"cookie", "expect", "keep-alive", "te", "trailer", "upgrade"}
)
_NOT_GIVEN = object()
_TEMPLATE = re.compile(r"\{[^{}]*\}")

Place = Literal["path", "query", "header", "json", "json_body", "form"]


class ApiTools(list[Tool]):
    """The tools of an API; `aclose` closes its connections in the running event loop."""

    def __init__(self, tools: Sequence[Tool], api: HttpApi) -> None:
        super().__init__(tools)
        self.api = api

    async def aclose(self) -> None:
        await self.api.aclose()


def api_tools(
    document: Mapping[str, Any] | str | Path,
    *,
    base_url: str | None = None,
    allow_hosts: Sequence[str] | None = None,
    auth: Auth | Sequence[Auth] | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    settings: HttpSettings | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    rng: random.Random | None = None,
) -> ApiTools:
    """Make a tool of each operation of an OpenAPI document, for `ToolEnv.extra_tools`.

    Args:
        document: the document as a mapping, or the path or http(s) address of its JSON or YAML file.
        base_url: address of the API; the document's first server by default.
        allow_hosts: hosts that may be reached; only the host of the base URL by default.
        auth: `bearer(...)`, `api_key(...)` or `basic(...)`, which name environment variables.
        include: operation ids, tool names or `"GET /path"` of the operations to use; all by default.
        exclude: operations to leave out, named in the same ways.
        settings: timeouts, retries and limits of requests.
        transport: an httpx transport, such as `Cassette(...)`.
        rng: draws the jitter of the waits between retries.
    Raises: ToolSchemaError if the document cannot be read, or if an operation cannot become a tool.
    """
    content, address = load_document(document)
    api = HttpApi(
        base_url or server_url(content, address),
        allow_hosts=allow_hosts,
        auth=auth,
        settings=settings,
        transport=transport,
        rng=rng,
    )
    found = list(operations(content))
    hidden = frozenset(part.name.lower() for part in api.auth)
    chosen = choose(found, include, exclude)
    tools = [_tool(o, _others(o, found), content, api, hidden) for o in chosen]
    return ApiTools(tools, api)


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a tool, with its place and its name in the request."""

    name: str
    place: Place
    wire_name: str
    schema: Mapping[str, Any]
    required: bool
    explode: bool = True
    deep: bool = False


# From an operation to a tool.


def _tool(
    operation: Operation,
    others: Sequence[re.Pattern[str]],
    document: Mapping[str, Any],
    api: HttpApi,
    hidden: frozenset[str],
) -> Tool:
    arguments = _arguments(operation, document, hidden)
    types = {a.name: python_type(a.schema, a.name) for a in arguments}
    adapters = {f"p{i}": (a, TypeAdapter(types[a.name])) for i, a in enumerate(arguments)}

    # A required body is sent even if no member of it is given.
    empty_body: dict[str, Any] | None = {} if _needs_object(operation, document, arguments) else None

    async def function(**values: Any) -> str:
        request = _Request(operation, others, empty_body)
        with writing():
            for field, (argument, adapter) in adapters.items():
                if values[field] is not _NOT_GIVEN:
                    plain = adapter.dump_python(values[field], by_alias=True, exclude_unset=True)
                    request.put(argument, plain)
            request.check_path()
        return await request.send(api)

    function.__name__ = operation.name
    return Tool(
        name=operation.name,
        description=_description(operation),
        arguments=_model(operation.name, arguments, types),
        function=function,
        timeout_s=api.settings.total_s,
        aclose=api.aclose,
    )


def _model(name: str, arguments: Sequence[Argument], types: Mapping[str, Any]) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for index, argument in enumerate(arguments):
        checked: Any = types[argument.name]
        options: dict[str, Any] = {} if argument.required else {"default_factory": lambda: _NOT_GIVEN}
        shown: Any = Annotated[checked, WithJsonSchema(dict(argument.schema))]
        fields[f"p{index}"] = (shown, Field(alias=argument.name, **options))
    return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)


def _description(operation: Operation) -> str:
    parts = [str(operation.content.get(key) or "").strip() for key in ("summary", "description")]
    text = next((part.split("\n\n")[0] for part in parts if part), f"{operation.method.upper()} {operation.path}")
    text = " ".join(text.split())
    return text if len(text) <= MAX_DESCRIPTION_CHARS else text[: MAX_DESCRIPTION_CHARS - 3] + "..."


def _arguments(operation: Operation, document: Mapping[str, Any], hidden: frozenset[str]) -> list[Argument]:
    taken: set[str] = set()
    found = []
    for parameter in operation.parameters:
        if _is_hidden(operation, parameter, hidden):
            continue
        name = unique(re.sub(r"[^A-Za-z0-9_.-]+", "_", parameter["name"]).strip("_") or "value", taken)
        found.append(_argument(name, parameter, document))
    found += _body_arguments(operation, document, taken)
    return found


def _is_hidden(operation: Operation, parameter: Mapping[str, Any], hidden: frozenset[str]) -> bool:
    name, place = parameter["name"].lower(), parameter["in"]
    if place == "cookie" and parameter.get("required") and name not in hidden:
        raise ToolSchemaError(
            f"{operation.name} needs the cookie {name!r}, and tools cannot send cookies: "
            f"leave it out with exclude=[{operation.name!r}]"
        )
    return place == "cookie" or name in hidden or (place == "header" and name in _IGNORED_HEADERS)


def _argument(name: str, parameter: Mapping[str, Any], document: Mapping[str, Any]) -> Argument:
    content = parameter.get("content")
    raw = next(iter(content.values())).get("schema", {}) if content else parameter.get("schema", {})
    schema = dict(resolve(raw, document)) if isinstance(raw, Mapping) else {}
    if parameter.get("description"):
        schema["description"] = " ".join(str(parameter["description"]).split())
    return Argument(
        name=name,
        place=parameter["in"],
        wire_name=parameter["name"],
        schema=schema,
        required=bool(parameter.get("required")) or parameter["in"] == "path",
        explode=bool(parameter.get("explode", parameter["in"] == "query" and parameter.get("style", "form") == "form")),
        deep=parameter.get("style") == "deepObject",
    )


def _body_arguments(operation: Operation, document: Mapping[str, Any], taken: set[str]) -> list[Argument]:
    """One argument for each member of the body; a single argument `body` if that is not possible."""
    body = _request_body(operation, document)
    if body is None:
        return []
    place, raw = _body_schema(operation, body.get("content") or {})
    schema = resolve(raw, document)
    whole = merged(schema) if isinstance(schema, Mapping) and "allOf" in schema else schema
    required = bool(body.get("required"))
    if not _can_be_flat(whole, taken):
        if place == "form":
            raise ToolSchemaError(
                f"{operation.name}: a form must be an object of named fields; "
                f"leave it out with exclude=[{operation.name!r}]"
            )
        return [Argument(unique("body", taken), "json_body", "", whole or {}, required)]
    needed = set(whole.get("required", ())) if required else set()
    items = [(key, item) for key, item in whole["properties"].items() if not _is_read_only(item)]
    return [Argument(unique(key, taken), place, key, _as_schema(item), key in needed) for key, item in items]


def _request_body(operation: Operation, document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    body: Mapping[str, Any] | None = operation.content.get("requestBody")
    return look_up(body["$ref"], document) if body and "$ref" in body else body


def _needs_object(operation: Operation, document: Mapping[str, Any], arguments: Sequence[Argument]) -> bool:
    required = bool((_request_body(operation, document) or {}).get("required"))
    return required and any(argument.place == "json" for argument in arguments)


def _body_schema(operation: Operation, content: Mapping[str, Any]) -> tuple[Place, Any]:
    for kind, media in content.items():
        if kind.split(";")[0].strip() == "application/json" or kind.split(";")[0].strip().endswith("+json"):
            return "json", media.get("schema", {})
    if FORM in content:
        return "form", content[FORM].get("schema", {})
    raise ToolSchemaError(
        f"{operation.name} takes a body of {', '.join(content) or 'no known type'}, which a tool cannot send: "
        f"leave it out with exclude=[{operation.name!r}]"
    )


def _can_be_flat(schema: Any, taken: set[str]) -> bool:
    if not isinstance(schema, Mapping) or not schema.get("properties"):
        return False
    if schema.get("additionalProperties") or any(word in schema for word in ("oneOf", "anyOf")):
        return False
    names = schema["properties"]
    return not set(names) & taken and all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in names)


def _is_read_only(schema: Any) -> bool:
    return isinstance(schema, Mapping) and bool(schema.get("readOnly"))


def _as_schema(schema: Any) -> Mapping[str, Any]:
    return schema if isinstance(schema, Mapping) else {}


# From arguments to a request.


class _Request:
    """Collects the parts of one request, then sends it."""

    def __init__(
        self, operation: Operation, others: Sequence[re.Pattern[str]], empty_body: dict[str, Any] | None
    ) -> None:
        self._operation = operation
        self._others = others
        self._path = operation.path
        self._params: list[tuple[str, str]] = []
        self._headers: dict[str, str] = {}
        self._json: Any = empty_body
        self._form: dict[str, str] | None = None

    def put(self, argument: Argument, value: Any) -> None:
        name = argument.wire_name
        match argument.place:
            case "path":
                self._path = self._path.replace("{" + name + "}", _segment(argument.name, value))
            case "query":
                self._params += _query_pairs(argument, value)
            case "header":
                self._headers[name] = header_text(argument.name, _joined(value))
            case "json":
                self._json = {**(self._json or {}), name: value}
            case "json_body":
                self._json = value
            case "form":
                self._form = {**(self._form or {}), name: _plain(value)}

    def check_path(self) -> None:
        """Raises: ToolError if a server that reads `%2F` as `/`, and resolves `..`, would call another operation."""
        if "%2F" not in self._path and "%5C" not in self._path:
            return
        read = "/" + posixpath.normpath(unquote(self._path).replace("\\", "/")).lstrip("/")
        if any(other.fullmatch(read) for other in self._others):
            raise ToolError("a '/' in the address would call another tool")

    async def send(self, api: HttpApi) -> str:
        reply = await api.request(
            self._operation.method,
            self._path,
            params=self._params,
            headers=self._headers,
            json=self._json,
            form=self._form,
            shape=self._operation.path,
        )
        return str(reply_text(reply))


def _segment(name: str, value: Any) -> str:
    """A value as one segment of a path; it cannot add or remove segments.

    Raises: ToolError if it is empty, `.` or `..`, which clients and servers resolve.
    """
    text = _joined(value)
    if text in ("", ".", ".."):
        raise ToolError(f"{name}: {text[:80]!r} cannot be part of an address")
    return quote(text, safe=",")


def _others(operation: Operation, found: Sequence[Operation]) -> list[re.Pattern[str]]:
    """The paths of the other operations with the same method, each as a pattern."""
    paths = {o.path for o in found if o.method == operation.method and o.path != operation.path}
    return [re.compile(_TEMPLATE.sub("[^/]+", re.sub(r"[^\w{}/]", lambda m: re.escape(m[0]), path))) for path in paths]


def _query_pairs(argument: Argument, value: Any) -> list[tuple[str, str]]:
    name = argument.wire_name
    if isinstance(value, Mapping):
        if argument.deep:
            return [(f"{name}[{key}]", _plain(item)) for key, item in value.items()]
        return [(key, _plain(item)) for key, item in value.items()] if argument.explode else [(name, _plain(value))]
    if isinstance(value, list):
        return [(name, _plain(item)) for item in value] if argument.explode else [(name, _joined(value))]
    return [(name, _plain(value))]


def _joined(value: Any) -> str:
    """A value as text; the items of an array are joined by commas."""
    return ",".join(map(_plain, value)) if isinstance(value, list) else _plain(value)


def _plain(value: Any) -> str:
    """A value as text outside a JSON body: a string unchanged, null as an empty text, anything else as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
