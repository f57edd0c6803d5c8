"""The page and its JSON, as an ASGI application. Owns routes and forms; what they say belongs to the other modules.

No path of a request is opened: sources, lines and forks are named by ids, and static files by a fixed list.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from agentrl.errors import AgentRLError
from agentrl.messages import Action, ToolCall
from agentrl.safe_json import for_terminal
from agentrl.viewer import query
from agentrl.viewer.curves import Curves
from agentrl.viewer.episodes import Gone, episode_json, messages_json, read_episode, read_line, safe, tools_json
from agentrl.viewer.forks import Fork, Forks
from agentrl.viewer.guard import Guard
from agentrl.viewer.query import MOST_LINE
from agentrl.viewer.sources import Source
from agentrl.viewer.tokens import tokens_json
from agentrl.viewer.watch import Watcher

logger = logging.getLogger(__name__)
_LOOK_S = 0.05
_PING_S = 15.0
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class _TaskQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")
    env: str = Field(max_length=300)
    task: str = Field(max_length=300)
    limit: int = Field(50, ge=1, le=query.MOST_ROWS)


class _TokenQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")
    row: int = Field(0, ge=0, le=MOST_LINE)
    start: int = Field(0, ge=0, le=MOST_LINE)


class _ForkForm(BaseModel):
    model_config = ConfigDict(extra="forbid")
    run: str = Field(max_length=40)
    line: int = Field(ge=1, le=MOST_LINE)
    turn: int = Field(ge=0)


class _CallForm(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=300)
    arguments: dict[str, Any] = {}


class _ActForm(BaseModel):
    """What a person does: a text, calls, or both; or the policy that plays on."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field("", max_length=100_000)
    calls: list[_CallForm] = Field([], max_length=16)
    policy: str = Field("", max_length=300)


def make_app(watcher: Watcher, forks: Forks, *, token: str, port: int) -> ASGIApp:
    """The application.

    Args:
        watcher: follows the stores.
        forks: plays on.
        token, port: of the guard.
    """
    viewer = _Viewer(watcher, forks)
    run, fork = "/api/runs/{run}", "/api/forks/{fork}"
    app = Starlette(
        routes=[
            Route("/", viewer.page),
            Route("/static/{name}", viewer.static),
            Route("/api/runs", viewer.runs),
            Route("/api/events", viewer.events),
            Route("/api/task", viewer.task),
            Route(run, viewer.run),
            Route(f"{run}/curves", viewer.curves),
            Route(f"{run}/episodes", viewer.episodes),
            Route(f"{run}/episodes/{{line:int}}", viewer.episode),
            Route(f"{run}/episodes/{{line:int}}/raw", viewer.raw),
            Route(f"{run}/episodes/{{line:int}}/tokens", viewer.tokens),
            Route("/api/forks", viewer.begin_fork, methods=["POST"]),
            Route(fork, viewer.show_fork, methods=["GET"]),
            Route(fork, viewer.end_fork, methods=["DELETE"]),
            Route(f"{fork}/act", viewer.act, methods=["POST"]),
            Route(f"{fork}/save", viewer.save_fork, methods=["POST"]),
        ],
        exception_handlers={
            HTTPException: _refused,
            KeyError: _not_found,
            ValidationError: _wrong_form,
            AgentRLError: _failed,
            ClientDisconnect: _too_large,
            Exception: _broken,
        },
    )
    return Guard(app, token, port)


class _Viewer:
    def __init__(self, watcher: Watcher, forks: Forks) -> None:
        self._watcher, self._index, self._forks = watcher, watcher.index, forks
        self._curves, self._drawing = Curves(), asyncio.Lock()
        folder = files("agentrl.viewer") / "static"
        self._static = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}
        self._static["look.css"] = _look()

    async def page(self, request: Request) -> Response:
        return _file("index.html", self._static["index.html"])

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        return _file(name, self._static[name])

    async def runs(self, request: Request) -> Response:
        return _json({"runs": await asyncio.to_thread(self._runs), "policies": self._forks.options.names})

    def _runs(self) -> list[dict[str, Any]]:
        return [self._about(source) for source in list(self._watcher.sources.values())]

    def _about(self, source: Source) -> dict[str, Any]:
        summary = source.summary()
        policy = summary.get("policy")
        status = summary.get("status") or ("finished" if summary else "unfinished")
        return {
            "id": source.id,
            "name": safe(source.name),
            "kind": source.kind,
            "status": safe(str(status)) if source.kind != "store" else "",
            "policy": safe(policy) if isinstance(policy, str) else "",
            "problems": query.num_problems(self._index, source),
            "totals": [_safe_row(row) for row in query.totals(self._index, source)],
            "progress": self._progress(source.id),
        }

    def _progress(self, run: str) -> dict[str, Any]:
        found = self._watcher.progress.get(run)
        if found is None:
            return {"episodes": 0, "metrics": 0, "generation": 0, "whole": False}
        return {
            "episodes": found.episodes,
            "metrics": found.metrics,
            "generation": found.generation,
            "whole": found.whole,
        }

    async def events(self, request: Request) -> Response:
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[str]:
        """An event with the progress of every source that moved; a comment now and then, for dead connections."""
        told: dict[str, dict[str, Any]] = {}
        changes, waited = -1, 0.0
        while True:
            if self._watcher.changes != changes:
                changes = self._watcher.changes
                now = {run: self._progress(run) for run in list(self._watcher.sources)}
                moved = {run: progress for run, progress in now.items() if told.get(run) != progress}
                event = {"moved": moved, "runs": len(now), "gone": [run for run in told if run not in now]}
                told, waited = now, 0.0
                yield f"data: {json.dumps(event)}\n\n"
            elif waited >= _PING_S:
                waited = 0.0
                yield ": still here\n\n"
            await asyncio.sleep(_LOOK_S)
            waited += _LOOK_S

    def _source(self, request: Request) -> Source:
        return self._watcher.sources[request.path_params["run"]]

    async def run(self, request: Request) -> Response:
        source = self._source(request)
        about = await asyncio.to_thread(self._about, source)
        lists = await asyncio.to_thread(query.facets, self._index, source)
        return _json({**about, "facets": {name: [(safe(v), n) for v, n in found] for name, found in lists.items()}})

    async def curves(self, request: Request) -> Response:
        source = self._source(request)
        async with self._drawing:
            return _json(await asyncio.to_thread(self._curves.of, source))

    async def episodes(self, request: Request) -> Response:
        source, asked = self._source(request), query.EpisodeQuery.model_validate(dict(request.query_params))
        found = await asyncio.to_thread(query.episodes, self._index, source, asked)
        rows = [_safe_row(row) for row in found.rows]
        return _json({"rows": rows, "next": found.next, "scanned": found.scanned})

    async def episode(self, request: Request) -> Response:
        source, line = self._source(request), _line(request)
        return _json(await asyncio.to_thread(lambda: episode_json(read_episode(self._index, source, line))))

    async def raw(self, request: Request) -> Response:
        source, line = self._source(request), _line(request)
        text = await asyncio.to_thread(read_line, self._index, source, line)
        headers = {"content-disposition": f'attachment; filename="episode-{line}.json"'}
        return Response(text, media_type="application/json", headers=headers)

    async def tokens(self, request: Request) -> Response:
        source, line, asked = (
            self._source(request),
            _line(request),
            _TokenQuery.model_validate(dict(request.query_params)),
        )
        return _json(await asyncio.to_thread(tokens_json, self._index, source, line, row=asked.row, start=asked.start))

    async def task(self, request: Request) -> Response:
        asked, sources = _TaskQuery.model_validate(dict(request.query_params)), list(self._watcher.sources.values())
        rows = await asyncio.to_thread(query.of_task, self._index, sources, asked.env, asked.task, asked.limit)
        return _json({"rows": [_safe_row(row) for row in rows]})

    async def begin_fork(self, request: Request) -> Response:
        form = _ForkForm.model_validate(await _form(request))
        source = self._watcher.sources[form.run]
        recorded = await asyncio.to_thread(read_episode, self._index, source, form.line)
        return _json(_fork_json(await self._forks.begin(source.id, form.line, recorded, form.turn)))

    def _fork(self, request: Request) -> Fork:
        return self._forks.all[request.path_params["fork"]]

    async def show_fork(self, request: Request) -> Response:
        return _json(_fork_json(self._fork(request)))

    async def act(self, request: Request) -> Response:
        fork, form = self._fork(request), _ActForm.model_validate(await _form(request))
        if form.policy:
            await self._forks.play_on(fork, form.policy)
        else:
            turn = sum(message.role == "assistant" for message in fork.messages)
            calls = [ToolCall(c.name, c.arguments, f"call_{turn}_{n}") for n, c in enumerate(form.calls)]
            await self._forks.act(fork, Action(form.text, tuple(calls)).safe())
        return _json(_fork_json(fork))

    async def save_fork(self, request: Request) -> Response:
        fork = self._fork(request)
        await self._forks.save(fork)
        return _json(_fork_json(fork))

    async def end_fork(self, request: Request) -> Response:
        await self._forks.end(self._fork(request))
        return _json({})


def _line(request: Request) -> int:
    line: int = request.path_params["line"]
    if line > MOST_LINE:
        raise KeyError(line)
    return line


def _fork_json(fork: Fork) -> dict[str, Any]:
    run, line, turn = fork.origin
    return {
        "id": fork.id,
        "run": run,
        "line": line,
        "turn": turn,
        "env": safe(str(fork.recorded.env)),
        "task": safe(fork.recorded.task.id),
        "state": fork.state,
        "problem": safe(fork.problem),
        "note": safe(fork.note),
        "messages": messages_json(fork.messages),
        "tools": tools_json(fork.tools),
        "result": None if fork.result is None else episode_json(fork.result),
        "saved": safe(fork.saved),
    }


def _look() -> bytes:
    """The style of the report, so that the page looks the same."""
    return (files("agentrl.bench.views") / "look.css").read_bytes()


async def _form(request: Request) -> dict[str, Any]:
    try:
        found = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return found


def _safe_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: safe(value) if isinstance(value, str) else value for name, value in row.items()}


def _json(value: Any) -> Response:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    return Response(text.encode(errors="replace"), media_type="application/json")


def _file(name: str, content: bytes) -> Response:
    return Response(content, media_type=f"{_TYPES.get(name.rpartition('.')[2], 'text/plain')}; charset=utf-8")


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": for_terminal(message)}, status)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail)


async def _not_found(request: Request, error: Exception) -> Response:
    return _error(404, "there is no such run, episode, fork or file")


async def _wrong_form(request: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError)
    told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
    return _error(400, told)


async def _too_large(request: Request, error: Exception) -> Response:
    return _error(413, "the body is too large")


async def _broken(request: Request, error: Exception) -> Response:
    logger.error("a request failed", exc_info=error)
    return _error(500, f"the page failed: {type(error).__name__}")


async def _failed(request: Request, error: Exception) -> Response:
    return _error(410 if isinstance(error, Gone) else 409, str(error))
