"""How answers are written: JSON, files, and what failed. Owns no question."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from agentrl.errors import AgentRLError
from agentrl.safe_json import for_terminal
from agentrl.viewer.episodes import Gone, safe

logger = logging.getLogger(__name__)
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def safe_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with texts that are safe to show."""
    return {name: safe(value) if isinstance(value, str) else value for name, value in row.items()}


def as_json(value: Any) -> Response:
    """An answer of JSON; numbers that are not finite are null, as JSON has none."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, default=str)
    return Response(text.encode(errors="replace"), media_type="application/json")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def as_file(name: str, content: bytes) -> Response:
    """A static file."""
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


FAILURES: Any = {
    HTTPException: _refused,
    KeyError: _not_found,
    ValidationError: _wrong_form,
    AgentRLError: _failed,
    ClientDisconnect: _too_large,
    Exception: _broken,
}
"""What each kind of error is answered with."""
