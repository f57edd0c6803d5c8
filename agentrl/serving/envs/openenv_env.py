"""A foreign OpenEnv server as an `Env`: its sessions over WebSocket. Needs the extra `openenv`.

A server with MCP tools offers them; another one is played by one tool, `act`, whose arguments are its action's schema.
What the protocol has no place for is not there: `done` always terminates, success is unknown, and nothing is said of a
fault's cause but that the server failed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit, urlunsplit

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from agentrl.env.base import Env, Observation, StepResult, as_action
from agentrl.env.tasks import Tasks
from agentrl.errors import ConfigError, EnvFault
from agentrl.messages import Message, ToolCall
from agentrl.serving.envs.wire import MOST_BYTES
from agentrl.trajectory import Ending, Task

_ACT = "act"
_SECONDS = 60.0
_MODELS_DOING = ("VALIDATION_ERROR",)


class OpenEnvEnv(Env):
    """A session on an OpenEnv server for each episode.

    Args:
        url: of the server.
        num_tasks: tasks of each of the splits `train` and `eval`; a task is a seed, since the protocol's task API is
            optional. The splits share no seed.
        reset: further arguments of every reset.
        headers: sent when connecting.
    """

    can_fork = False
    not_state: ClassVar[tuple[str, ...]] = ("tasks", "_socket")

    def __init__(
        self,
        url: str = "",
        *,
        num_tasks: int = 100,
        reset: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or num_tasks < 1:
            raise ConfigError(
                f"expected the URL of an OpenEnv server and num_tasks from 1 on, got {url!r}, {num_tasks}"
            )
        self._url, self._reset, self._headers = url.rstrip("/"), dict(reset or {}), dict(headers or {})
        self.tasks = Tasks.of(
            train=[{"seed": seed} for seed in range(num_tasks)],
            eval=[{"seed": seed} for seed in range(num_tasks, 2 * num_tasks)],
        )
        self._socket: ClientConnection | None = None
        self._tools: Sequence[Mapping[str, Any]] = ()
        self._schema: Mapping[str, Any] | None = None
        self._turn, self._is_over = 0, True

    @property
    def tool_schemas(self) -> Sequence[Mapping[str, Any]]:
        return self._tools

    async def areset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        task: Task = self._begin(seed, options)
        await self.aclose()
        self._socket = await self._connected()
        found = await self._asked("reset", {"seed": task.data.get("seed", seed or 0), **self._reset})
        self._tools = await self._offered()
        self._turn, self._is_over = 0, False
        return (Message("user", _text_of(found)),), {"task_id": task.id}

    async def _connected(self) -> ClientConnection:
        parts = urlsplit(self._url)
        address = urlunsplit(("wss" if parts.scheme == "https" else "ws", parts.netloc, f"{parts.path}/ws", "", ""))
        try:
            return await connect(
                address, additional_headers=self._headers, max_size=MOST_BYTES, open_timeout=_SECONDS, proxy=None
            )
        except (OSError, WebSocketException) as error:
            raise EnvFault(f"the OpenEnv server at {self._url} cannot be reached: {error}", who="network") from error

    async def _offered(self) -> Sequence[Mapping[str, Any]]:
        """Its MCP tools, or one for its typed action."""
        try:
            listed = (await self._asked("step", {"type": "list_tools"})).get("observation", {}).get("tools")
        except _Refused:
            listed = None
        if isinstance(listed, list):
            return tuple(_tool(one["name"], one.get("description", ""), one.get("input_schema")) for one in listed)
        if self._schema is None:
            self._schema = await self._action_schema()
        return (_tool(_ACT, "Take an action.", self._schema),)

    async def _action_schema(self) -> Mapping[str, Any]:
        try:
            async with httpx.AsyncClient(timeout=_SECONDS, headers=self._headers) as client:
                found = (await client.get(f"{self._url}/schema")).json()["action"]
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            raise EnvFault(f"the OpenEnv server at {self._url} does not tell its actions: {error!r}") from error
        properties = {k: v for k, v in (found.get("properties") or {}).items() if k != "metadata"}
        return {"type": "object", **found, "properties": properties}

    async def astep(self, action: Any) -> StepResult:
        if self._is_over:
            raise RuntimeError("the episode is over (or never began): call reset before step")
        action = as_action(action)
        self._turn += 1
        messages: list[Message] = []
        reward, done = 0.0, False
        for call in action.tool_calls or (self._as_call(action.text),):
            text, gained, done = await self._called(call)
            reward += gained
            is_reply = bool(action.tool_calls)
            messages.append(Message("tool", text, (), call.id, call.name) if is_reply else Message("user", text))
            if done:
                break
        limit = self.limits.max_turns
        truncated = not done and limit is not None and self._turn >= limit
        self._is_over = done or truncated
        if self._is_over:
            self.ending = Ending("environment") if done else Ending("limit", "max_turns")
        return tuple(messages), reward, done, truncated, {"task_id": self.task.id}

    def _as_call(self, text: str) -> ToolCall:
        """A turn without calls, for an action of one text."""
        properties = (self._schema or {}).get("properties") or {}
        return ToolCall("", {next(iter(properties), "text"): text})

    async def _called(self, call: ToolCall) -> tuple[str, float, bool]:
        """The text, the reward, and whether the episode is over."""
        names = {tool["function"]["name"] for tool in self._tools}
        if call.error is not None or (call.name and call.name not in names):
            return f"Error: {call.error or f'there is no tool {call.name!r}'}", 0.0, False
        data = dict(call.arguments)
        if call.name and _ACT not in names:
            data = {"type": "call_tool", "tool_name": call.name, "arguments": data}
        try:
            found = await self._asked("step", data)
        except _Refused as error:
            return f"Error: {error}", 0.0, False
        return _text_of(found), float(found.get("reward") or 0.0), bool(found.get("done"))

    async def _asked(self, kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """What the server answers. Raises: _Refused if it takes the action for wrong; EnvFault if it fails."""
        if self._socket is None:
            raise EnvFault("the session on the OpenEnv server has ended")
        try:
            async with asyncio.timeout(_SECONDS):
                await self._socket.send(json.dumps({"type": kind, "data": dict(data)}))
                found = json.loads(await self._socket.recv())
        except (OSError, TimeoutError, WebSocketException) as error:
            text = f"the OpenEnv server at {self._url} was lost: {type(error).__name__}: {error}"
            raise EnvFault(text, who="network") from error
        except ValueError as error:
            raise EnvFault(f"the OpenEnv server at {self._url} sent no JSON: {error}") from error
        content = found.get("data") or {}
        if found.get("type") != "error":
            return dict(content)
        if kind == "step" and content.get("code") in _MODELS_DOING:
            raise _Refused(str(content.get("message")))
        raise EnvFault(f"the OpenEnv server at {self._url} failed: {content.get('message')}")

    async def aclose(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()


class _Refused(Exception):
    """The server says that an action is wrong."""


def _tool(name: str, description: str, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    parameters = {key: value for key, value in (schema or {}).items() if key != "$schema"}
    parameters = parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _text_of(found: Mapping[str, Any]) -> str:
    """An observation as a model reads it: the text of a tool's result or of a message, else JSON."""
    observation = found.get("observation")
    if not isinstance(observation, Mapping):
        return "" if observation is None else str(observation)
    error, result = observation.get("error"), observation.get("result")
    if error:
        return f"Error: {error.get('message') if isinstance(error, Mapping) else error}"
    if isinstance(result, Mapping) and "data" in result:
        result = result["data"]
    for text in (result, observation.get("text")):
        if isinstance(text, str):
            return text
    shown = {key: value for key, value in observation.items() if key not in ("metadata", "done", "reward")}
    return json.dumps(shown if result is None else result, ensure_ascii=False)
