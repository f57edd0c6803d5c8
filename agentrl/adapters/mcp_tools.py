"""The tools of an MCP server in an environment: each episode has a process of the server, or a session with a URL.

Owns the connection and whose failure is whose. A server that is a command runs in the installation that the command
names: give it a virtual environment of its own, since servers need other versions of packages than AgentRL does. What a
server may do on this machine is not bounded here: run only servers that you trust with a model's calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel

from agentrl.env.base import Observation
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import EnvFault, ToolError
from agentrl.tool_schema import Tool

_START_S, _CALL_S, _END_S = 30.0, 60.0, 10.0
_INVALID = (-32602, -32601)
"""Codes of JSON-RPC for what the caller did: wrong arguments, and a tool that there is not."""


@dataclass(frozen=True)
class McpServer:
    """How a server is reached.

    Attributes:
        command: program and arguments of a server over stdio; empty where it has a URL.
        url: of a server over streamable HTTP.
        variables: of the command's environment, besides the few that every program gets.
        folder: in which the command runs.
    """

    command: Sequence[str] = ()
    url: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    folder: str | None = None

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.url) or isinstance(self.command, str):
            raise ValueError("an MCP server is a command (a list: program and arguments) or a URL, one of the two")

    def target(self) -> Any:
        """What the client takes."""
        if self.url:
            return self.url
        program, *arguments = self.command
        return StdioServerParameters(command=program, args=arguments, env=dict(self.variables), cwd=self.folder)


class McpConnection:
    """One connection, entered and left by a task of its own: the client belongs to the task that enters it.

    Args: server: that is connected to.
    """

    def __init__(self, server: McpServer) -> None:
        self._server = server
        self._owner: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._client: Any = None

    async def open(self) -> list[Any]:
        """Connect; returns the server's tools. Raises: EnvFault."""
        ready: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._owner = asyncio.ensure_future(self._own(ready))
        try:
            return await asyncio.wait_for(asyncio.shield(ready), _START_S)
        except Exception as error:
            await self.close()
            name = self._server.url or " ".join(self._server.command)
            raise EnvFault(f"the MCP server {name!r} did not start: {type(error).__name__}: {error}") from error

    async def _own(self, ready: asyncio.Future[list[Any]]) -> None:
        try:
            async with Client(self._server.target(), read_timeout_seconds=_CALL_S) as client:
                self._client = client
                found = (await client.list_tools()).tools
                if not ready.done():
                    ready.set_result(found)
                await self._closing.wait()
        except Exception as error:  # of a server that is gone; a call that waits has its own
            if not ready.done():
                ready.set_exception(error)
        finally:
            self._client = None

    async def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The text of a result. Raises: ToolError for what the model did wrong, EnvFault for the server's failures."""
        client = self._client
        if client is None:
            raise EnvFault("the MCP server of this episode has ended", answers=await self._answers())
        try:
            result = await client.call_tool(name, dict(arguments))
        except MCPError as error:
            if error.error.code in _INVALID:
                raise ToolError(str(error)) from error
            said = f"the MCP server failed at {name!r}: {error}"
            raise EnvFault(said, answers=await self._answers()) from error
        except Exception as error:
            said = f"the MCP server failed at {name!r}: {type(error).__name__}: {error}"
            raise EnvFault(said, answers=await self._answers()) from error
        text = "\n".join(_text_of(part) for part in result.content)
        if result.is_error:
            raise ToolError(text or "the tool failed and said nothing")
        return text or "ok"

    async def _answers(self) -> bool:
        """Whether the server serves a new connection, after a call that it failed at."""
        control = McpConnection(self._server)
        try:
            await control.open()
        except EnvFault:
            return False
        await control.close()
        return True

    async def close(self) -> None:
        """Leave; the process of a command ends."""
        self._closing.set()
        owner, self._owner = self._owner, None
        if owner is None:
            return
        done, _ = await asyncio.wait({owner}, timeout=_END_S)
        if not done:
            owner.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await owner


def _text_of(part: Any) -> str:
    text = getattr(part, "text", None)
    return text if isinstance(text, str) else f"[{getattr(part, 'type', 'content')} that is no text]"


class Anything(BaseModel):
    """Arguments that the server checks."""


@dataclass(frozen=True)
class McpTool(Tool):
    """A tool whose schema is the server's, which also checks the arguments.

    Attributes:
        parameters: the JSON schema.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def schema(self) -> dict[str, Any]:
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}

    def convert(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"given": given}


def tool_of(found: Any, connection: McpConnection) -> McpTool:
    """A server's tool, called over a connection."""

    async def function(given: Mapping[str, Any]) -> str:
        return await connection.call(found.name, given)

    function.__name__ = found.name
    schema = {key: value for key, value in found.input_schema.items() if key != "$schema"}
    return McpTool(found.name, found.description or "", Anything, function, timeout_s=_CALL_S, parameters=schema)


class McpEnv(ToolEnv):
    """Base class: `server` gives its tools to each episode, in addition to the tools of the class.

    The author writes `server`, `tasks`, `start` and `score`, as for `ToolEnv`.
    """

    server: McpServer
    can_fork = False
    not_state: ClassVar[tuple[str, ...]] = ("extra_tools", "_connection")
    _connection: McpConnection | None = None

    async def areset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        await self._disconnect()
        connection = McpConnection(self.server)
        self.extra_tools = [tool_of(found, connection) for found in await connection.open()]
        self._connection = connection
        return await super().areset(seed=seed, options=options)

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            await self._disconnect()

    async def _disconnect(self) -> None:
        connection, self._connection, self.extra_tools = self._connection, None, ()
        if connection is not None:
            await connection.close()

    def _agentrl_waits(self) -> bool:
        return True
