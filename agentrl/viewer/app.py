"""The page and its JSON, as an ASGI application. Owns routes and forms; what they say belongs to the other modules.

No path of a request is opened: sources, lines and forks are named by ids, and static files by a fixed list.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from agentrl.messages import Action, ToolCall
from agentrl.viewer import query
from agentrl.viewer.answers import FAILURES, as_file, as_json, safe_row
from agentrl.viewer.curves import Curves
from agentrl.viewer.episodes import episode_json, messages_json, read_episode, read_line, safe, tools_json
from agentrl.viewer.forks.player import Fork
from agentrl.viewer.forks.playing import Forks
from agentrl.viewer.forms import ActForm, ForkForm, TaskQuery, TokenQuery, form_of, line_of
from agentrl.viewer.guard import Guard
from agentrl.viewer.sources import MOST_SOURCES, Source, said_by
from agentrl.viewer.tokens import tokens_json
from agentrl.viewer.watch import Progress, Watcher

_LOOK_S = 0.05
_PING_S = 15.0


def make_app(watcher: Watcher, forks: Forks, *, token: str, port: int, once: str = "") -> ASGIApp:
    """The application.

    Args:
        watcher: follows the stores.
        forks: plays on.
        token, port, once: of the guard.
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
        exception_handlers=FAILURES,
    )
    return Guard(app, token, port, once)


class _Viewer:
    def __init__(self, watcher: Watcher, forks: Forks) -> None:
        self._watcher, self._index, self._forks = watcher, watcher.index, forks
        self._curves, self._drawing = Curves(), asyncio.Lock()
        folder = files("agentrl.viewer") / "static"
        self._static = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}
        self._static["look.css"] = _look()

    async def page(self, request: Request) -> Response:
        return as_file("index.html", self._static["index.html"])

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        return as_file(name, self._static[name])

    async def runs(self, request: Request) -> Response:
        runs = await asyncio.to_thread(self._runs)
        return as_json({"runs": runs, "most": MOST_SOURCES, "policies": self._forks.options.names})

    def _runs(self) -> list[dict[str, Any]]:
        return [self._about(source) for source in list(self._watcher.sources.values())]

    def _about(self, source: Source) -> dict[str, Any]:
        progress = self._progress(source.id)
        state, policy = said_by(source.summary, progress["summary"])
        return {
            "id": source.id,
            "name": safe(source.name),
            "kind": source.kind,
            "status": safe(state) if source.kind != "store" else "",
            "policy": safe(policy),
            "problems": query.num_problems(self._index, source),
            "totals": [safe_row(row) for row in query.totals(self._index, source)],
            "progress": progress,
        }

    def _progress(self, run: str) -> dict[str, Any]:
        return asdict(self._watcher.progress.get(run) or Progress())

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
        return as_json({**about, "facets": {name: [(safe(v), n) for v, n in found] for name, found in lists.items()}})

    async def curves(self, request: Request) -> Response:
        source = self._source(request)
        async with self._drawing:
            return as_json(await asyncio.to_thread(self._curves.of, source))

    async def episodes(self, request: Request) -> Response:
        source, asked = self._source(request), query.EpisodeQuery.model_validate(dict(request.query_params))
        found = await asyncio.to_thread(query.episodes, self._index, source, asked)
        rows = [safe_row(row) for row in found.rows]
        return as_json({"rows": rows, "next": found.next, "scanned": found.scanned})

    async def episode(self, request: Request) -> Response:
        source, line = self._source(request), line_of(request)
        return as_json(await asyncio.to_thread(lambda: episode_json(read_episode(self._index, source, line))))

    async def raw(self, request: Request) -> Response:
        source, line = self._source(request), line_of(request)
        text = await asyncio.to_thread(read_line, self._index, source, line)
        headers = {"content-disposition": f'attachment; filename="episode-{line}.json"'}
        return Response(text, media_type="application/json", headers=headers)

    async def tokens(self, request: Request) -> Response:
        source, line = self._source(request), line_of(request)
        piece = TokenQuery.model_validate(dict(request.query_params))
        found = await asyncio.to_thread(tokens_json, self._index, source, line, row=piece.row, start=piece.start)
        return as_json(found)

    async def task(self, request: Request) -> Response:
        asked, sources = TaskQuery.model_validate(dict(request.query_params)), list(self._watcher.sources.values())
        rows = await asyncio.to_thread(query.of_task, self._index, sources, asked.env, asked.task, asked.limit)
        return as_json({"rows": [safe_row(row) for row in rows]})

    async def begin_fork(self, request: Request) -> Response:
        form = ForkForm.model_validate(await form_of(request))
        source = self._watcher.sources[form.run]
        recorded = await asyncio.to_thread(read_episode, self._index, source, form.line)
        return as_json(_fork_json(self._forks.begin(source.id, form.line, recorded, form.turn)))

    def _fork(self, request: Request) -> Fork:
        return self._forks.all[request.path_params["fork"]]

    async def show_fork(self, request: Request) -> Response:
        return as_json(_fork_json(self._fork(request)))

    async def act(self, request: Request) -> Response:
        fork, form = self._fork(request), ActForm.model_validate(await form_of(request))
        if form.policy:
            await self._forks.play_on(fork, form.policy)
        else:
            turn = sum(message.role == "assistant" for message in fork.messages)
            calls = [ToolCall(c.name, c.arguments, f"call_{turn}_{n}") for n, c in enumerate(form.calls)]
            await self._forks.act(fork, Action(form.text, tuple(calls)).safe())
        return as_json(_fork_json(fork))

    async def save_fork(self, request: Request) -> Response:
        fork = self._fork(request)
        await self._forks.save(fork)
        return as_json(_fork_json(fork))

    async def end_fork(self, request: Request) -> Response:
        await self._forks.end(self._fork(request))
        return as_json({})


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
    return (files("agentrl.bench.views") / "page.css.jinja").read_bytes()
