"""The MCP door: one episode at each address, its tools as MCP tools. Needs the extra `mcp`.

Whoever trains opens an episode over `/mcp/episodes` with the server's token, and reads the reward there. The agent gets
the episode's address alone, which holds a secret of its own: it cannot read rewards, tasks or other episodes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import mcp_types as types
from mcp.server.lowlevel.server import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from agentrl.errors import AgentRLError, EnvFault, TaskError
from agentrl.messages import Action, Message, ToolCall
from agentrl.serving.envs.seats import FAILED, NotPlaying, Seat, Start
from agentrl.serving.envs.sessions import Sessions, TooMany
from agentrl.serving.mcp.offers import McpOffers
from agentrl.serving.mcp.parts import (
    completions,
    content_of,
    prompt_messages,
    prompts_of,
    read_resource,
    resources_of,
    templates_of,
)

TASK_PROMPT = "task"
_SUBMIT = ("submit", "submit_answer", "submit_final_answer")
_OVER = "the episode is over"


def submit_name(tools: Sequence[Mapping[str, Any]]) -> str:
    """The name of the tool that gives the answer; the environment's own tools keep theirs."""
    taken = {tool["function"]["name"] for tool in tools}
    return next(name for name in _SUBMIT if name not in taken)


def task_text(first: Sequence[Message]) -> str:
    """The first messages of an episode as one text."""
    return "\n\n".join(message.content for message in first)


def mcp_tools(seat: Seat) -> list[types.Tool]:
    """The tools of an episode, and the one that gives the answer."""
    found = []
    for tool in seat.tools:
        function = tool["function"]
        schema = function.get("parameters") or {"type": "object", "properties": {}}
        found.append(
            types.Tool(name=function["name"], description=function.get("description"), input_schema=dict(schema))
        )
    answer = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    text = "Give the final answer, which ends the episode."
    return [*found, types.Tool(name=submit_name(seat.tools), description=text, input_schema=answer)]


async def called(seat: Seat, name: str, arguments: Mapping[str, Any] | None) -> types.CallToolResult:
    """One call as one turn of the episode. Raises: MCPError for a tool that there is not."""
    submit = submit_name(seat.tools)
    if name != submit and name not in {tool["function"]["name"] for tool in seat.tools}:
        raise MCPError(types.INVALID_PARAMS, f"there is no tool {name!r}")
    given = dict(arguments or {})
    if name == submit:
        answer = given.get("answer")
        if not isinstance(answer, str):
            return _text("Error: `answer` must be a text", is_error=True)
        action = Action(answer)
    else:
        action = Action(tool_calls=(ToolCall(name, given),))
    try:
        reply = await seat.step(action)
    except NotPlaying as error:
        return _text(f"Error: {error}", is_error=True)
    except EnvFault:
        return _text(f"Error: {FAILED}", is_error=True)
    text = "\n\n".join(message.content for message in reply.observation)
    parts = offers_of(seat).results.get(name)
    if parts is not None and not text.startswith("Error: ") and not seat.result.is_over:
        return types.CallToolResult(content=[content_of(part) for part in parts(text)], is_error=False)
    if seat.result.is_over:
        text = f"{text}\n\n({_OVER})" if text else _OVER
    return _text(text, is_error=text.startswith("Error: "))


def offers_of(seat: Seat) -> McpOffers:
    """What the environment offers in addition to its task and the text of its tools."""
    found = getattr(seat.env, "mcp_offers", None)
    return found if isinstance(found, McpOffers) else McpOffers()


def _text(text: str, *, is_error: bool = False) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=is_error)


def mcp_server(name: str, seat_of: Any) -> Server[Any]:
    """A server whose episode is found anew with every request.

    Args:
        name: of the environment.
        seat_of: takes the request's context and gives its seat.
    """

    async def list_tools(ctx: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=mcp_tools(seat_of(ctx)))

    async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        return await called(seat_of(ctx), params.name, params.arguments)

    async def list_prompts(ctx: Any, params: Any) -> types.ListPromptsResult:
        task = types.Prompt(name=TASK_PROMPT, description="What is to be done in this episode")
        return types.ListPromptsResult(prompts=[task, *prompts_of(offers_of(seat_of(ctx)))])

    async def get_prompt(ctx: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        seat = seat_of(ctx)
        if params.name == TASK_PROMPT:
            content = types.TextContent(text=task_text(seat.first))
            return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=content)])
        prompts = offers_of(seat).prompts
        if params.name not in prompts:
            known = ", ".join((TASK_PROMPT, *prompts))
            raise MCPError(types.INVALID_PARAMS, f"there is no prompt {params.name!r}; there is {known}")
        messages = prompt_messages(prompts[params.name], dict(params.arguments or {}))
        return types.GetPromptResult(messages=messages, description=prompts[params.name].description)

    async def list_resources(ctx: Any, params: Any) -> types.ListResourcesResult:
        return types.ListResourcesResult(resources=resources_of(offers_of(seat_of(ctx))))

    async def list_templates(ctx: Any, params: Any) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult(resource_templates=templates_of(offers_of(seat_of(ctx))))

    async def read(ctx: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        return types.ReadResourceResult(contents=read_resource(offers_of(seat_of(ctx)), params.uri))

    async def complete(ctx: Any, params: types.CompleteRequestParams) -> types.CompleteResult:
        values = list(completions(offers_of(seat_of(ctx)), params))
        return types.CompleteResult(completion=types.Completion(values=values, total=len(values), has_more=False))

    return Server(
        name,
        instructions=f"Read the prompt {TASK_PROMPT!r}, do what it says with the tools, and give an answer if it asks.",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read,
        on_completion=complete,
    )


class McpDoor:
    """Episodes by their addresses.

    Args:
        name: of the environment.
        sessions: of the server.
    """

    def __init__(self, name: str, sessions: Sessions) -> None:
        self._sessions = sessions
        self._seats: dict[str, Seat] = {}
        self._server = mcp_server(name, self._seat_of)
        self._manager: StreamableHTTPSessionManager | None = None
        self._owner: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def routes(self) -> list[BaseRoute]:
        """Those of the one who trains, and those of agents."""
        return [
            Route("/mcp/episodes", self._open, methods=["POST"]),
            Route("/mcp/episodes/{id}", self._read, methods=["GET"]),
            Route("/mcp/episodes/{id}", self._end, methods=["DELETE"]),
            Mount("/e", self._agent),
        ]

    async def _open(self, request: Request) -> Response:
        self._forget_ended()
        start = _start(await request.body())
        try:
            seat = await Seat.at(self._sessions)
        except TooMany as error:
            raise HTTPException(503, str(error)) from error
        try:
            await seat.reset(start)
        except BaseException as error:
            await seat.close()
            if isinstance(error, TaskError):
                raise HTTPException(404, str(error)) from error
            if isinstance(error, AgentRLError):
                raise HTTPException(500, str(error)) from error
            raise
        self._seats[seat.session.id] = seat
        return JSONResponse({"id": seat.session.id, "path": f"/e/{seat.session.id}/mcp", **seat.result.to_json()}, 201)

    def _forget_ended(self) -> None:
        self._seats = {id: seat for id, seat in self._seats.items() if seat.is_open}

    def _found(self, id: str) -> Seat:
        seat = self._seats.get(id)
        if seat is None or not seat.is_open:
            raise HTTPException(404, "there is no such episode: it expired, or was closed")
        return seat

    async def _read(self, request: Request) -> Response:
        return JSONResponse(self._found(request.path_params["id"]).result.to_json())

    async def _end(self, request: Request) -> Response:
        seat = self._found(request.path_params["id"])
        await seat.close()
        self._forget_ended()
        return JSONResponse(seat.result.to_json())

    # Agents.

    async def _agent(self, scope: Scope, receive: Receive, send: Send) -> None:
        id, _, rest = scope["path"].removeprefix(scope.get("root_path", "")).strip("/").partition("/")
        if scope["type"] != "http" or rest != "mcp" or id not in self._seats or not self._seats[id].is_open:
            await JSONResponse({"error": "there is no such episode: it expired, or was closed"}, 404)(
                scope, receive, send
            )
            return
        manager = await self._running()
        await manager.handle_request(scope, receive, send)

    def _seat_of(self, ctx: Any) -> Seat:
        path: str = ctx.request.scope["path"]
        seat = self._seats.get(path.split("/")[-2])
        if seat is None or not seat.is_open:
            raise MCPError(types.INVALID_PARAMS, "there is no such episode: it expired, or was closed")
        return seat

    async def _running(self) -> StreamableHTTPSessionManager:
        if self._manager is None:
            manager = StreamableHTTPSessionManager(
                self._server,
                json_response=True,
                stateless=True,
                security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),  # the gate did that
            )
            ready = asyncio.Event()
            self._owner = asyncio.ensure_future(self._own(manager, ready))
            self._manager = manager
            await ready.wait()
        return self._manager

    async def _own(self, manager: StreamableHTTPSessionManager, ready: asyncio.Event) -> None:
        """Enter and leave in one task, which the library asks for."""
        async with manager.run():
            ready.set()
            await self._closing.wait()

    async def aclose(self) -> None:
        self._closing.set()
        if self._owner is not None:
            await self._owner


def _start(body: bytes) -> Start:
    """What a request names. Raises: HTTPException."""
    try:
        given = json.loads(body or b"{}")
        if not isinstance(given, dict) or set(given) - {"seed", "task", "split"}:
            raise ValueError("expected an object with `seed`, `task` or `split`")
        start = Start(given.get("seed", 0), given.get("task"), given.get("split"))
        if type(start.seed) is not int or start.seed < 0:
            raise ValueError("`seed` must be a whole number from 0 on")
        if not all(value is None or isinstance(value, str) for value in (start.task, start.split)):
            raise ValueError("`task` and `split` must be texts")
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, str(error)) from None
    return start
