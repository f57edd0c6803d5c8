"""Makes a tool of each operation of an OpenAPI document; its arguments are checked against the document.

Owns the choice of operations, and what the caller decides for all of them: hidden and fixed parameters, the session of
an episode. Reading the document (OpenAPI 3.0 and 3.1) belongs to `document`, its schemas to `schema` and `checking`,
sending a request to `agentrl.tools.http_api`. The document's security schemes are not read: the caller passes `auth`.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import httpx

from agentrl.errors import EnvFault, ToolSchemaError, did_you_mean
from agentrl.tools.http_api import Auth, HttpApi, HttpSettings, Session
from agentrl.tools.openapi.arguments import Choice
from agentrl.tools.openapi.document import Operation, choose, load_document, operations, paths_by_method
from agentrl.tools.openapi.opening import Opening
from agentrl.tools.openapi.servers import Servers
from agentrl.tools.openapi.tool import ApiTool, Endpoint, tool_of

__all__ = ["ApiTools", "Skipped", "api_tools"]

logger = logging.getLogger(__name__)
_MOST_LISTED = 5


@dataclass(frozen=True, slots=True)
class Skipped:
    """An operation that cannot be offered to a model."""

    name: str
    reason: str


class ApiTools(list[ApiTool]):
    """The tools of an API; `aclose` closes its connections in the running event loop.

    Attributes:
        api: sends requests of your own, in the session of the environment whose hook or tool is running.
        skipped: operations that cannot be offered, each with the reason.
    """

    def __init__(
        self,
        tools: Sequence[ApiTool],
        api: HttpApi,
        skipped: Sequence[Skipped] = (),
        find: Callable[[str], Endpoint] | None = None,
    ) -> None:
        super().__init__(tools)
        self.api, self.skipped, self._find = api, tuple(skipped), find

    async def call(self, operation: str, /, **values: Any) -> Any:
        """Call an operation of the document, also one that is no tool, in `start`, `score` or a tool of your own.

        Args:
            operation: its id, tool name or `"GET /path"`.
            values: by the names of its arguments; they are not checked before they are sent.
        Returns: what the JSON of the answer says, or its text.
        Raises: ToolSchemaError if there is no such operation or argument; EnvFault if the answer is longer than
            `max_response_bytes`; as `HttpApi.request`.
        """
        if self._find is None:
            raise ToolSchemaError("these tools were not made of a document: use api.request(...)")
        endpoint = self._find(operation)
        known = {argument.name for argument in endpoint.arguments.shown}
        for name in values:
            if name not in known:
                raise ToolSchemaError(f"{operation} has no argument {name!r}.{did_you_mean(name, known)}")
        reply = await endpoint.send(values)
        if reply.cut_off:
            most = self.api.settings.max_response_bytes
            raise EnvFault(
                f"{operation}: its answer is longer than {most} bytes, so that it has no value: "
                "raise HttpSettings(max_response_bytes=...)",
                who="author",
            )
        try:
            return json.loads(reply.text)
        except (ValueError, RecursionError):
            return reply.text

    async def aclose(self) -> None:
        await self.api.aclose()


def api_tools(
    document: Mapping[str, Any] | str | Path,
    *,
    base_url: str | None = None,
    allow_hosts: Sequence[str] | None = None,
    auth: Auth | Sequence[Auth] | None = None,
    session: Session | str | None = None,
    hide: Sequence[str] = (),
    fix: Mapping[str, Any] | None = None,
    reset: str | None = None,
    seed: str | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    on_unsupported: Literal["skip", "refuse"] = "skip",
    settings: HttpSettings | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    rng: random.Random | None = None,
) -> ApiTools:
    """Make a tool of each operation of an OpenAPI document, for `ToolEnv.extra_tools`.

    Args:
        document: the document as a mapping, or the path or http(s) address of its JSON or YAML file.
        base_url: address of the API; the document's first server by default. It replaces that server alone: an
            operation with a server of its own is then offered only if `allow_hosts` names that host.
        allow_hosts: hosts that may be reached; by default that of the base URL, and those of the document's servers.
        auth: `bearer(...)`, `api_key(...)`, `basic(...)` or `oauth2(...)`, which name environment variables.
        session: a value of the episode that goes into every request; a text names a header, and `Session(...)` a query
            parameter, cookie or part of the path as well. The model does not see the parameter.
        hide: names of parameters and of members of a body that the model does not see, and that are not sent.
        fix: such names, with the value that is sent instead, or a function of the environment that gives it.
        reset: the operation that sets the server's state anew. It is no tool, and is called before the first request of
            each episode.
        seed: its argument that takes the episode's seed: `task.data["seed"]`, or else a number drawn from the seed of
            the environment and the id of the task.
        include: operation ids, tool names or `"GET /path"` of the operations to use; all by default.
        exclude: operations to leave out, named in the same ways.
        on_unsupported: `skip` leaves out operations that cannot be offered, logs a warning, and lists them in
            `ApiTools.skipped`; `refuse` raises. One that `include` names is always refused.
        settings: timeouts, retries and limits of requests.
        transport: an httpx transport, such as `Cassette(...)`.
        rng: draws the jitter of the waits between retries.
    Raises: ToolSchemaError if the document cannot be read, or if no operation can become a tool.
    """
    _check_options(on_unsupported, reset, seed)
    content, address = load_document(document)
    found = list(operations(content))
    servers = Servers(content, address, base_url, allow_hosts)
    shared: dict[str, Any] = {
        "allow_hosts": allow_hosts,
        "auth": auth,
        "session": session,
        "servers": servers.further(found),
    }
    api = HttpApi(servers.base, settings=settings, transport=transport, rng=rng, **shared)
    maker = _Maker(content, found, servers, api, Choice(_supplied(api), frozenset(hide), dict(fix or {})))
    chosen = choose(found, include, exclude if reset is None else [*exclude, reset])
    endpoints, skipped = maker.endpoints(chosen, named=include is not None, refuse=on_unsupported == "refuse")
    maker.open_with(reset, seed, endpoints)
    return ApiTools([tool_of(e) for e in endpoints], api, skipped, maker.named)


def _check_options(on_unsupported: str, reset: str | None, seed: str | None) -> None:
    if on_unsupported not in ("skip", "refuse"):
        raise ValueError(f"on_unsupported must be 'skip' or 'refuse', got {on_unsupported!r}")
    if seed is not None and reset is None:
        raise ValueError(f"seed={seed!r} names an argument of the operation that reset= names: give reset=... too")


def _supplied(api: HttpApi) -> frozenset[tuple[str, str]]:
    """The (place, name) of the parameters that credentials and the session supply."""
    places = {"query": "query", "cookie": "cookie"}
    found = {(places.get(auth.kind, "header"), auth.name.lower()) for auth in api.auth}
    if api.session is not None:
        found.add((api.session.where, api.session.name.lower()))
    return frozenset(found)


@dataclass(frozen=True)
class _Maker:
    """Makes endpoints of operations."""

    document: Mapping[str, Any]
    found: Sequence[Operation]
    servers: Servers
    api: HttpApi
    choice: Choice

    @cached_property
    def paths(self) -> dict[str, frozenset[str]]:
        paths: dict[str, frozenset[str]] = paths_by_method(self.found)
        return paths

    def find(self, name: str) -> Operation:
        """The operation of an id, tool name or `"GET /path"`. Raises: ToolSchemaError if there is none."""
        return choose(list(self.found), [name], ())[0]

    def named(self, name: str) -> Endpoint:
        """The endpoint of `find(name)`. Raises: ToolSchemaError."""
        return self.endpoint(self.find(name))

    def open_with(self, reset: str | None, seed: str | None, endpoints: Sequence[Endpoint]) -> None:
        """Call `reset` before the first request of an episode, and check the names that the caller gave.

        Raises: ToolSchemaError for a name that no operation has.
        """
        opening = [self.named(reset)] if reset is not None else []
        self.choice.check(frozenset().union(*(e.arguments.names for e in (*endpoints, *opening))))
        if opening:
            self.api.opening = Opening(opening[0], seed)

    def endpoint(self, operation: Operation) -> Endpoint:
        """Raises: ToolSchemaError that names the operation, if it cannot be offered."""
        try:
            server = self.servers.of(operation)
            paths = self.paths[operation.method]
            return Endpoint.of(operation, self.document, self.choice, self.api, paths, server)
        except ToolSchemaError as error:
            raise ToolSchemaError(f"{operation.name} cannot be a tool: {error}") from error

    def endpoints(
        self, chosen: Sequence[Operation], *, named: bool, refuse: bool
    ) -> tuple[list[Endpoint], list[Skipped]]:
        """The operations that can be offered, and those that cannot.

        Args:
            named: the caller named each operation, and so none may be left out.
        """
        made, skipped = [], []
        for operation in chosen:
            try:
                made.append(self.endpoint(operation))
            except ToolSchemaError as error:
                if named or refuse:
                    raise ToolSchemaError(f"{error}; leave it out with exclude=[{operation.name!r}]") from error
                skipped.append(Skipped(operation.name, str(error.__cause__)))
        listed = "; ".join(f"{one.name}: {one.reason}" for one in skipped[:_MOST_LISTED])
        if skipped and not made:
            raise ToolSchemaError(f"no operation can be a tool; {listed}; exclude=[{skipped[0].name!r}] leaves one out")
        if skipped:
            more = ", ..." if len(skipped) > _MOST_LISTED else ""
            logger.warning("%d operations are left out (ApiTools.skipped): %s%s", len(skipped), listed, more)
        return made, skipped
