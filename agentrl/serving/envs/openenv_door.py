"""The OpenEnv door: the protocol of OpenEnv 0.10, so that its clients and its `validate --url` run against this server.

Owns what of an `Env` fits there, and how. An action is OpenEnv's `call_tool`, an OpenAI assistant message (which may
hold several calls), or `{"text": ...}`. Observations hold the new messages in OpenAI's form. OpenEnv knows one `done`:
whether an episode was cut off, success and reward components stand in the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from agentrl.errors import AgentRLError
from agentrl.messages import Action, ToolCall
from agentrl.serving.envs.describe import Served
from agentrl.serving.envs.seats import Seat, Start
from agentrl.serving.envs.sessions import Sessions, TooMany
from agentrl.serving.envs.wire import MOST_BYTES, Reply

_INVALID, _NO_METHOD, _FAILED = -32600, -32601, -32603
_COOKIE = "agentrl_session"
_ANY = {"type": "object", "additionalProperties": True}


class OpenEnvDoor:
    """The routes, and the sessions that its clients share between HTTP and WebSocket.

    Args:
        served: the environment.
        sessions: of the server.
    """

    def __init__(self, served: Served, sessions: Sessions) -> None:
        self._served, self._sessions = served, sessions
        self._name = served.ref.id.rsplit("/", 1)[-1]
        self._seats: dict[str, Seat] = {}
        self._over_http: set[str] = set()

    def routes(self) -> list[BaseRoute]:
        """All of the protocol's."""
        return [
            Route("/metadata", self._metadata),
            Route("/schema", self._schema),
            Route("/openapi.json", self._openapi),
            Route("/reset", self._reset, methods=["POST"]),
            Route("/step", self._step, methods=["POST"]),
            Route("/state", self._state),
            Route("/mcp", self._mcp, methods=["POST"]),
            Route("/list_environments", self._environments),
            Route("/{env}/splits", self._splits),
            Route("/{env}/{asked}", self._tasks, methods=["POST"]),
            WebSocketRoute("/ws", self._socket),
        ]

    async def aclose(self) -> None:
        """Nothing of its own: sessions are the server's."""

    # What there is.

    async def _metadata(self, request: Request) -> Response:
        found = self._served.description
        return JSONResponse({"name": self._name, "description": found.summary, "version": found.version})

    async def _schema(self, request: Request) -> Response:
        return JSONResponse({"action": _ANY, "observation": _ANY, "state": _ANY})

    async def _openapi(self, request: Request) -> Response:
        posts, gets = ("/reset", "/step", "/mcp"), ("/health", "/metadata", "/schema", "/state")
        paths: dict[str, Any] = {path: {"post": {"responses": {"200": {"description": "ok"}}}} for path in posts}
        paths |= {path: {"get": {"responses": {"200": {"description": "ok"}}}} for path in gets}
        return JSONResponse({"openapi": "3.1.0", "info": {"title": self._name, "version": "1"}, "paths": paths})

    async def _environments(self, request: Request) -> Response:
        return JSONResponse([self._name])

    async def _splits(self, request: Request) -> Response:
        self._check_name(request)
        return JSONResponse([{"name": name, "type": _kind(name)} for name in self._served.tasks.splits])

    async def _tasks(self, request: Request) -> Response:
        self._check_name(request)
        asked, given = request.path_params["asked"], await _object(request)
        split = given.get("split", self._served.tasks.splits[0])
        if split not in self._served.tasks.splits:
            raise HTTPException(400, f"there is no split {str(split)[:60]!r}")
        tasks = self._served.tasks.split(split)
        if asked == "num_tasks":
            return JSONResponse({"num_tasks": len(tasks)})
        begin, end = (0, len(tasks)) if asked == "tasks" else _range(given, asked, len(tasks))
        found = [{"id": task.id, "split": task.split, **task.data} for task in tasks[begin:end]]
        if asked == "tasks":
            return JSONResponse({"tasks": found, "env_name": self._name})
        return JSONResponse({"task": found[0]} if asked == "task" else {"tasks": found})

    def _check_name(self, request: Request) -> None:
        if request.path_params["env"] != self._name:
            raise HTTPException(404, f"there is no such environment; there is {self._name!r}")

    # Episodes over HTTP alone. OpenEnv has no sessions there: ours is in a cookie, and in the metadata of a reset.

    async def _reset(self, request: Request) -> Response:
        self._forget_ended()
        seat = self._seats.get(_named(request))
        if seat is None:
            seat = await self._new_seat()
            try:
                found = await self._begun(seat, await _object(request))
            except BaseException:
                await seat.close()
                raise
            self._seats[seat.session.id] = seat
            self._over_http.add(seat.session.id)
        else:
            found = await self._begun(seat, await _object(request))
        id = seat.session.id
        reply = JSONResponse({**found, "metadata": {**found["metadata"], "session_id": id}})
        reply.set_cookie(_COOKIE, id, httponly=True, samesite="strict")
        return reply

    async def _step(self, request: Request) -> Response:
        given = await _object(request)
        seat = self._seat_of(request)
        if seat is None:
            raise HTTPException(409, "reset first")
        return JSONResponse(await self._acted(seat, given.get("action", given)))

    async def _state(self, request: Request) -> Response:
        return JSONResponse(_state_of(self._seat_of(request)))

    def _seat_of(self, request: Request) -> Seat | None:
        """The seat that a request names, or the one that plays over HTTP. Raises: HTTPException if it is not clear."""
        self._forget_ended()
        named = _named(request)
        if named:
            seat = self._seats.get(named)
            if seat is None:
                raise HTTPException(404, "there is no such session: it expired, or was closed; reset to begin another")
            return seat
        if len(self._over_http) > 1:
            raise HTTPException(
                409,
                f"{len(self._over_http)} episodes are played over HTTP: send the cookie that reset gave, or its "
                "metadata's session_id as ?session_id=",
            )
        return next((self._seats[id] for id in self._over_http), None)

    def _forget_ended(self) -> None:
        self._seats = {id: seat for id, seat in self._seats.items() if seat.is_open}
        self._over_http &= set(self._seats)

    async def _new_seat(self) -> Seat:
        """A seat over HTTP. Its clients never say goodbye, so it takes the place of one whose episode is over."""
        if len(self._sessions) >= self._sessions.bounds.sessions:
            over = next((self._seats[id] for id in sorted(self._over_http) if self._seats[id].result.is_over), None)
            if over is not None:
                await over.close()
                self._forget_ended()
        try:
            return await Seat.at(self._sessions)
        except TooMany as error:
            raise HTTPException(503, str(error)) from error

    async def _begun(self, seat: Seat, given: Mapping[str, Any]) -> dict[str, Any]:
        reply = await seat.reset(self._start(given))
        return {**_observed(seat, reply), "reward": None, "done": False}

    def _start(self, given: Mapping[str, Any]) -> Start:
        seed, split, index, task = (given.get(name) for name in ("seed", "split", "index", "task_id"))
        if type(seed or 0) is not int or (seed or 0) < 0:
            raise ValueError("`seed` must be a whole number from 0 on")
        if index is not None:
            tasks = self._served.tasks.split(str(split or self._served.tasks.splits[0]))
            if type(index) is not int or not 0 <= index < len(tasks):
                raise ValueError(f"`index` must be a whole number from 0 to {len(tasks) - 1}")
            task = tasks[index].id
        return Start(seed or 0, None if task is None else str(task), None if split is None else str(split))

    async def _acted(self, seat: Seat, given: Any) -> dict[str, Any]:
        if isinstance(given, Mapping) and given.get("type") == "list_tools":
            seat.check()
            return {"observation": {"tools": _tools(seat)}, "reward": None, "done": seat.result.is_over}
        reply = await seat.step(_action(given))
        found = _observed(seat, reply)
        if isinstance(given, Mapping) and given.get("type") == "call_tool":
            found["observation"] |= {"tool_name": given["tool_name"], "result": _said(reply), "error": None}
        return found

    # Sessions.

    async def _mcp(self, request: Request) -> Response:
        given = await _object(request)
        if given.get("jsonrpc") != "2.0" or not isinstance(given.get("method"), str):
            return JSONResponse(_rpc_error(given.get("id"), _INVALID, "this is no JSON-RPC 2.0 request"))
        return JSONResponse(await self._rpc(given, None))

    async def _rpc(self, given: Mapping[str, Any], own: Seat | None) -> dict[str, Any]:
        method, params, id = given.get("method"), given.get("params") or {}, given.get("id")
        try:
            if method == "openenv/session/create":
                self._forget_ended()
                seat = await Seat.at(self._sessions)
                try:
                    await seat.reset(Start())
                except BaseException:
                    await seat.close()
                    raise
                self._seats[seat.session.id] = seat
                return {"jsonrpc": "2.0", "id": id, "result": {"session_id": seat.session.id}}
            found = own or self._seats.get(str(params.get("session_id")))
            if found is None or not found.is_open:
                return _rpc_error(id, _INVALID, "there is no such session; openenv/session/create makes one")
            return {"jsonrpc": "2.0", "id": id, "result": await self._result(found, str(method), params)}
        except LookupError:
            return _rpc_error(id, _NO_METHOD, f"there is no method {str(method)[:60]!r}")
        except (AgentRLError, ValueError) as error:
            return _rpc_error(id, _FAILED, str(error))

    async def _result(self, seat: Seat, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if method == "openenv/session/close":
            self._seats.pop(seat.session.id, None)
            await seat.close()
            return {"closed": True}
        if method == "tools/list":
            return {"tools": _tools(seat)}
        if method != "tools/call":
            raise LookupError(method)
        call = {"type": "call_tool", "tool_name": params.get("name"), "arguments": params.get("arguments") or {}}
        return {"data": _said(await seat.step(_action(call)))}

    async def _socket(self, socket: WebSocket) -> None:
        await socket.accept()
        named = socket.query_params.get("session_id")
        seat = self._seats.get(named) if named else None
        try:
            if named and (seat is None or not seat.is_open):
                await socket.send_json(_error(f"Unknown session_id: {named[:60]}", "SESSION_ERROR"))
                return
            seat = seat or await Seat.at(self._sessions)
            while (message := await self._heard(socket, seat)) is not None:
                await socket.send_text(json.dumps(message))
        except TooMany as error:
            await socket.send_json(_error(str(error), "CAPACITY_REACHED"))
        except WebSocketDisconnect:
            pass
        finally:
            if seat is not None and not named:
                await seat.close()

    async def _heard(self, socket: WebSocket, seat: Seat) -> dict[str, Any] | None:
        """The answer to the next message; None where the client says goodbye."""
        text = await socket.receive_text()
        try:
            given: Any = json.loads(text) if len(text) <= MOST_BYTES else None
            kind, data = given["type"], given.get("data") or {}
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            return _error("Invalid JSON: expected an object with `type` and `data`", "INVALID_JSON")
        if kind == "close":
            return None
        try:
            if kind == "reset":
                return {"type": "observation", "data": await self._begun(seat, data)}
            if kind == "step":
                return {"type": "observation", "data": await self._acted(seat, data)}
            if kind == "state":
                return {"type": "state", "data": _state_of(seat)}
            if kind == "mcp":
                return {"type": "mcp", "data": await self._rpc(data, seat)}
        except (ValueError, TypeError) as error:
            return _error(str(error), "VALIDATION_ERROR")
        except Exception as error:
            text = str(error) if isinstance(error, AgentRLError) else f"{type(error).__name__}: {error}"
            return _error(text, "EXECUTION_ERROR")
        return _error(f"Unknown message type: {str(kind)[:60]}", "UNKNOWN_TYPE")


def _named(request: Request) -> str:
    """The session that a request names; empty where it names none."""
    return request.query_params.get("session_id") or request.cookies.get(_COOKIE) or ""


def _kind(split: str) -> str:
    return {"train": "train", "eval": "validation"}.get(split, "test")


def _range(given: Mapping[str, Any], asked: str, count: int) -> tuple[int, int]:
    if asked not in ("task", "task_range"):
        raise HTTPException(404, f"there is no {asked[:60]!r}")
    begin = given.get("index" if asked == "task" else "start", 0)
    end = begin + 1 if asked == "task" and type(begin) is int else given.get("stop", count)
    if type(begin) is not int or type(end) is not int or not 0 <= begin < end <= count:
        raise HTTPException(400, "Invalid task index")
    return begin, end


def _action(given: Any) -> Action:
    """What a client sent as an action. Raises: ValueError that says what is expected."""
    if isinstance(given, str):
        return Action.of(given)
    if isinstance(given, Mapping):
        if given.get("type") == "call_tool" or "tool_name" in given:
            name, arguments = given.get("tool_name"), given.get("arguments") or {}
            if isinstance(name, str) and isinstance(arguments, Mapping):
                return Action(tool_calls=(ToolCall(name, dict(arguments)),)).safe()
        elif "content" in given or "tool_calls" in given:
            return Action.of(given).safe()
        for name in ("text", "message", "action"):
            if isinstance(given.get(name), str):
                return Action(given[name]).safe()
    raise ValueError(
        'an action is {"type": "call_tool", "tool_name": ..., "arguments": {...}}, an OpenAI assistant message, '
        'or {"text": ...}'
    )


def _said(reply: Reply) -> str:
    return "\n\n".join(message.content for message in reply.observation)


def _observed(seat: Seat, reply: Reply) -> dict[str, Any]:
    metadata = {key: value for key, value in reply.info.items() if key in ("task_id", "reward_components", "success")}
    if seat.result.is_over:
        ending = seat.result.ending
        metadata |= {"truncated": seat.result.truncated, "ending": None if ending is None else ending.kind}
    return {
        "observation": {"messages": [message.to_openai() for message in reply.observation], "text": _said(reply)},
        "reward": float(reply.reward),
        "done": seat.result.is_over,
        "metadata": metadata,
    }


def _tools(seat: Seat) -> list[dict[str, Any]]:
    functions = [tool["function"] for tool in seat.tools]
    return [
        {"name": f["name"], "description": f.get("description", ""), "input_schema": dict(f.get("parameters") or {})}
        for f in functions
    ]


def _state_of(seat: Seat | None) -> dict[str, Any]:
    if seat is None or not seat.has_begun:
        return {"episode_id": None, "step_count": 0}
    return {"episode_id": seat.session.id[:8], "step_count": seat.result.turns, "task_id": seat.result.task_id}


def _error(message: str, code: str) -> dict[str, Any]:
    return {"type": "error", "data": {"message": message, "code": code}}


def _rpc_error(id: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}}


async def _object(request: Request) -> dict[str, Any]:
    body = await request.body()
    try:
        given = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return given
