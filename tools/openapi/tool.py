"""A tool of one operation: how the model sees it, and how its arguments become a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, create_model

from agentrl.env.author_code import acting_env
from agentrl.errors import EnvFault, ToolError, ToolSchemaError
from agentrl.tool_schema import Tool
from agentrl.tools.http_api import Draft, HttpApi
from agentrl.tools.openapi.argument import Argument, is_json
from agentrl.tools.openapi.arguments import Arguments, Choice, arguments_of
from agentrl.tools.openapi.checking import Checked, plain
from agentrl.tools.openapi.document import Operation, path_pattern
from agentrl.tools.openapi.files import Part, content_of, file_part, written
from agentrl.tools.openapi.schema import closed
from agentrl.tools.openapi.styles import (
    cookie_pairs,
    deep_items,
    header_value,
    json_text,
    path_part,
    query_parts,
    text_of,
)
from agentrl.wire.reply import Reply, reply_text
from agentrl.wire.request_text import header_text, writing

MAX_DESCRIPTION_CHARS = 300
_NOT_GIVEN: Any = object()


@dataclass(frozen=True, eq=False)
class Endpoint:
    """One operation of an API, ready to be called.

    Attributes:
        server: where it is, if that is not the base URL of the API.
        paths: those of all operations with the same method.
    """

    operation: Operation
    arguments: Arguments
    api: HttpApi
    paths: frozenset[str]
    server: str | None = None

    @classmethod
    def of(
        cls,
        operation: Operation,
        document: Mapping[str, Any],
        choice: Choice,
        api: HttpApi,
        paths: frozenset[str],
        server: str | None = None,
    ) -> Endpoint:
        """Raises: ToolSchemaError if the operation cannot be offered, with the reason."""
        try:
            arguments = arguments_of(operation, document, choice)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            if isinstance(error, ToolSchemaError):
                raise
            raise ToolSchemaError(
                f"what the document says of it cannot be read: {type(error).__name__}: {error}"[:200]
            ) from error
        return cls(operation, arguments, api, paths, server)

    async def send(self, values: Mapping[str, Any]) -> Reply:
        """Send the request with these values, by the names of the arguments.

        Raises: as `HttpApi.request`.
        """
        reply: Reply = await self.api.send(self.draft(values))
        return reply

    def draft(self, values: Mapping[str, Any]) -> Draft:
        """The request. Raises: ToolError if it cannot be written."""
        with writing():
            return self._draft(values)

    def _draft(self, values: Mapping[str, Any]) -> Draft:
        made = _Written(self.operation.path, self.arguments)
        for argument, fixed in self.arguments.fixed:
            value = fixed(acting_env()) if callable(fixed) else fixed
            if value is not None:
                made.put_fixed(argument, value)
        for argument in self.arguments.shown:
            if argument.name in values:
                made.put(argument, values[argument.name])
        self._check(made)
        return Draft(
            self.operation.method.upper(),
            made.path,
            "&".join(made.query),
            made.headers,
            tuple(made.cookies),
            *made.body(self.arguments.body_type),
            self.operation.path,
            self.server,
        )

    def _check(self, made: _Written) -> None:
        """Raises: ToolError if a server that reads `%2F` as `/`, and resolves `..`, would call something else."""
        if not made.slashed:
            return
        own, read = self.operation.path, unquote(made.path).replace("\\", "/")
        resolved = _resolved(read)
        if any(_is_at(other, resolved) for other in self.paths if other != own):
            raise ToolError(f"{made.slashed}: a '/' in it would call another tool")
        if ".." in read.split("/") and not _is_at(own, resolved):
            raise ToolError(f"{made.slashed}: '..' leads out of its place in the address")


class _Written:
    """Collects the parts of one request."""

    def __init__(self, path: str, arguments: Arguments) -> None:
        self.path = path
        self.slashed = ""
        """The last argument that puts a `/` or `\\` into the path; empty if none does."""
        self.query: list[str] = []
        self.headers: dict[str, str] = {}
        self.cookies: list[tuple[str, str]] = []
        self._json: Any = _NOT_GIVEN if arguments.empty is None else dict(arguments.empty)
        self._form: list[str] | None = None
        self._bytes: bytes | None = None
        self._parts: list[Part] = []

    def put_fixed(self, argument: Argument, value: Any) -> None:
        """`put` for a value of the caller's. Raises: EnvFault if it cannot be sent: it is not the model's to change."""
        try:
            with writing():
                self.put(argument, value)
            if argument.place == "path" and ".." in unquote(_segment(argument, value)).replace("\\", "/").split("/"):
                raise ToolError("'..' leads out of its place in the address")
        except ToolError as error:
            name = argument.wire_name
            raise EnvFault(f"fix={{{name!r}: ...}} cannot be sent: {error}", who="author") from error

    def put(self, argument: Argument, value: Any) -> None:
        name, style, explode = argument.wire_name, argument.style, argument.explode
        if argument.as_json and argument.place != "part":
            value = json_text(value)
        match argument.place:
            case "path":
                segment = _segment(argument, value)
                self.path = self.path.replace("{" + name + "}", segment)
                if "%2F" in segment or "%5C" in segment:
                    self.slashed = argument.name
            case "query":
                self.query += query_parts(name, value, style, explode, argument.reserved, argument.name)
            case "header":
                self.headers[name] = header_text(argument.name, header_value(value, explode))
            case "cookie":
                self.cookies += cookie_pairs(name, value, explode)
            case "member":
                self._json = {**({} if self._json is _NOT_GIVEN else self._json), name: value}
            case "body":
                self._json = value
            case "text" | "bytes":
                self._bytes = content_of(argument.name, value if argument.place == "bytes" else text_of(value))
            case "part":
                self._parts += _parts(argument, value)
            case "field":
                parts = query_parts(name, value, style, explode, argument.reserved, argument.name)
                self._form = [*(self._form or ()), *parts]

    def body(self, kind: str) -> tuple[bytes | None, str]:
        """The bytes of the body and their content type; None and an empty text if there is none."""
        if self._form is not None:
            return "&".join(self._form).encode(), kind
        if self._parts:
            form: tuple[bytes, str] = written(self._parts)
            return form
        if self._bytes is not None:
            return self._bytes, kind
        if self._json is _NOT_GIVEN:
            return None, ""
        return json_text(self._json).encode(), kind if is_json(kind) else "application/json"


def _parts(argument: Argument, value: Any) -> list[Part]:
    """The parts of one field of a form with files: one for each item of a list. Raises: ToolError."""
    name, media = argument.wire_name, argument.media
    if argument.style == "deepObject" and isinstance(value, Mapping | list):
        return [Part(f"{name}{path}", text_of(item).encode(), media) for path, item in deep_items(value)]
    items = value if isinstance(value, list) else [value]
    if argument.is_file:
        return [file_part(argument.name, name, item, media) for item in items]
    write = json_text if argument.as_json else text_of
    return [Part(name, write(item).encode(), media) for item in items]


def _segment(argument: Argument, value: Any) -> str:
    """A value as one segment of a path. Raises: ToolError if clients and servers would resolve it."""
    text: str = path_part(argument.wire_name, value, argument.style, argument.explode)
    if unquote(text) in ("", ".", ".."):
        raise ToolError(f"{argument.name}: {unquote(text)[:80]!r} cannot be part of an address")
    return text


def _resolved(path: str) -> str:
    """The path without empty segments, `.` and `..`; empty if it leads above where it begins."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == ".." and not kept:
            return ""
        if segment == "..":
            kept.pop()
        elif segment not in ("", "."):
            kept.append(segment)
    return "/" + "/".join(kept)


def _is_at(path: str, address: str) -> bool:
    """Whether an address is one of those that a path of the document stands for."""
    return path_pattern(path.rstrip("/") or "/").fullmatch(address) is not None


@dataclass(frozen=True)
class ApiTool(Tool):
    """A tool whose schema is that of a document; the types that check its arguments are built at its first call.

    Attributes:
        parameters: the JSON schema of its arguments.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @cached_property
    def schema(self) -> dict[str, Any]:
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


def tool_of(endpoint: Endpoint) -> ApiTool:
    """The tool of an operation. The environment whose tool it is names the session of a request."""
    shown, api = endpoint.arguments.shown, endpoint.api

    async def function(self: Any = None, **given: Any) -> str:
        values = {a.name: plain(given[f"p{i}"]) for i, a in enumerate(shown) if given[f"p{i}"] is not _NOT_GIVEN}
        text: str = reply_text(await endpoint.send(values))
        return text

    function.__name__ = endpoint.operation.name
    return ApiTool(
        name=endpoint.operation.name,
        description=description_of(endpoint.operation),
        arguments=_model(endpoint.operation.name, endpoint.arguments),
        function=function,
        timeout_s=api.settings.total_s,
        aclose=api.aclose,
        parameters=_parameters(endpoint.arguments),
    )


def _model(name: str, arguments: Arguments) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for index, argument in enumerate(arguments.shown):
        options: dict[str, Any] = {} if argument.required else {"default_factory": lambda: _NOT_GIVEN}
        checked = Annotated[Any, Checked(argument.schema)]
        fields[f"p{index}"] = (checked, Field(alias=argument.name, **options))
    config = ConfigDict(extra="forbid", defer_build=True, protected_namespaces=())
    return create_model(name, __config__=config, **fields)


def _parameters(arguments: Arguments) -> dict[str, Any]:
    shown = arguments.shown
    properties = {a.name: closed(a.schema) if isinstance(a.schema, Mapping) else {} for a in shown}
    found = {"type": "object", "properties": properties, "additionalProperties": False}
    required = [a.name for a in shown if a.required]
    return {**found, "required": required} if required else found


def description_of(operation: Operation) -> str:
    """The longer of the summary and the first paragraph of the description: generators put a title in one of them."""
    texts = [str(operation.content.get(key) or "").strip().split("\n\n")[0] for key in ("summary", "description")]
    text = max((" ".join(text.split()) for text in texts), key=len)
    text = text or f"{operation.method.upper()} {operation.path}"
    return text if len(text) <= MAX_DESCRIPTION_CHARS else text[: MAX_DESCRIPTION_CHARS - 3] + "..."
