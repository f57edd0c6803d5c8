"""The HTTP side of a server of environments: what is served, its tasks, and errors in words. Owns no session."""

from __future__ import annotations

import logging

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from agentrl.errors import AgentRLError, TaskError
from agentrl.serving.envs.describe import Served
from agentrl.serving.envs.guard import Gate, Guarded
from agentrl.serving.envs.seats import NotPlaying
from agentrl.serving.envs.wire import DESCRIPTION, MOST_BYTES, TASKS, encoded

logger = logging.getLogger(__name__)


def make_app(served: Served, gate: Gate, more: list[BaseRoute] | None = None) -> ASGIApp:
    """The application.

    Args:
        served: the environment.
        gate: decides who may ask.
        more: routes of other doors.
    """

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "healthy"})

    async def description(request: Request) -> Response:
        return Response(encoded(served.description), media_type="application/json")

    async def tasks(request: Request) -> Response:
        begin = request.query_params.get("from", "0")
        if not begin.isascii() or not begin.isdigit() or len(begin) > 12:
            raise HTTPException(400, f"`from` must be a whole number from 0 on, got {begin[:40]!r}")
        return Response(encoded(served.page(request.path_params["split"], int(begin))), media_type="application/json")

    routes: list[BaseRoute] = [
        Route("/health", health),
        Route(DESCRIPTION, description),
        Route(f"{TASKS}/{{split}}", tasks),
        *(more or []),
    ]
    handlers = {
        ClientDisconnect: _cut_off,
        HTTPException: _refused,
        TaskError: _not_there,
        NotPlaying: _not_now,
        ValueError: _not_valid,
        AgentRLError: _environment_failed,
        Exception: _failed,
    }
    return Guarded(Starlette(routes=routes, exception_handlers=handlers), gate)  # type: ignore[arg-type]


async def _refused(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


async def _cut_off(request: Request, error: Exception) -> Response:
    """The guard ends a body that is too large or too slow as if its client had gone."""
    text = f"the body is larger than {MOST_BYTES >> 20} MiB, or did not come in time"
    return JSONResponse({"error": text}, 413, {"connection": "close"})


async def _not_there(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 404)


async def _not_now(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 409)


async def _not_valid(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422)


async def _environment_failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 500)


async def _failed(request: Request, error: Exception) -> Response:
    logger.error("a request failed", exc_info=error)
    return JSONResponse({"error": f"the server failed: {type(error).__name__}"}, 500)
