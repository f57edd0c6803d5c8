"""The proxy as an ASGI application: routes, keys, sizes, times, answers whole and in pieces. Owns no session.

Every route but `/health` needs a session's key, and every request one of the server's own host names. It does not
encrypt, and who has a session's key is trusted with that session: an agent could call the environment's tools itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from agentrl.serving.api_errors import ApiError
from agentrl.serving.app import BODY_S, closing, error_handlers, read_body, read_json, unless_gone
from agentrl.serving.capture.desk import Desk
from agentrl.serving.capture.dialects.base import Dialect
from agentrl.serving.capture.dialects.chat import Chat
from agentrl.serving.capture.dialects.messages import Messages
from agentrl.serving.capture.dialects.responses import Responses
from agentrl.serving.capture.episode import Episode
from agentrl.serving.capture.session import Attempt, Session
from agentrl.serving.capture.waiting import Handed, Waiting, answered, begun, pieces

DIALECTS: Mapping[str, Dialect] = {"/chat/completions": Chat(), "/responses": Responses(), "/messages": Messages()}
PING_S = 10.0
_GONE = Response(status_code=499)  # nobody reads it
_NO_SESSION = "there is no session of this name and key: use the base URL and the key that the agent was given"


class Proxy:
    """The application and the sessions that it serves.

    Args:
        hosts: names under which it may be asked.
        ping_s: seconds of silence after which a stream is told that it lives.
    """

    def __init__(self, hosts: Sequence[str], *, ping_s: float = PING_S) -> None:
        self._ping_s = ping_s
        self.desk: Desk | None = None
        self.episodes: dict[str, Episode] = {}
        self._by_key: dict[bytes, str] = {}
        both = ("", "/s/{session}")
        asks = [
            Route(f"{start}{version}{path}", self._asks(dialect), methods=["POST"])
            for start in both
            for version in ("/v1", "")
            for path, dialect in DIALECTS.items()
        ]
        routes = [
            Route("/health", _health),
            *asks,
            *(Route(f"{start}/v1/models", self._models) for start in both),
            Route("/s/{session}/task", self._task),
            Route("/s/{session}/tools", self._tools),
            Route("/s/{session}/tools/{tool}", self._call, methods=["POST"]),
            Route("/s/{session}/answer", self._answer, methods=["POST"]),
            Route("/s/{session}/done", self._done, methods=["POST"]),
            Route("/next", self._next, methods=["POST"]),
        ]
        guard = Middleware(TrustedHostMiddleware, allowed_hosts=[*hosts], www_redirect=False)
        handlers = error_handlers(f"below a base URL there is {', '.join(f'POST {path}' for path in DIALECTS)}")
        self.app = Starlette(routes=routes, middleware=[guard], exception_handlers=handlers)

    def add(self, episode: Episode) -> None:
        """Serve a session."""
        self.episodes[episode.session.name] = episode
        self._by_key[_digest(episode.session.key)] = episode.session.name

    def remove(self, session: Session) -> None:
        """Serve it no longer."""
        self.episodes.pop(session.name, None)
        self._by_key.pop(_digest(session.key), None)

    # Who asks.

    def _episode(self, request: Request) -> Episode:
        """The episode of a request's key. The answer to a wrong key does not say whether there is such a session."""
        name = self._by_key.get(_digest(_key(request)))
        if name is None or request.path_params.get("session", name) != name:
            raise ApiError(_NO_SESSION, status=401, code="invalid_api_key")
        return self.episodes[name]

    # What agents ask of the model.

    def _asks(self, dialect: Dialect) -> Callable[[Request], Any]:
        async def ask(request: Request) -> Response:
            try:
                return await self._asked(request, dialect)
            except ApiError as error:
                return JSONResponse(dialect.refused(error), error.status, closing(error))

        return ask

    async def _asked(self, request: Request, dialect: Dialect) -> Response:
        session = self._episode(request).session
        raw, body = await _read(request)
        found = dialect.read(body, session.sampling)
        model = body.get("model")
        name = model if isinstance(model, str) else session.model.name
        digest = hashlib.blake2b(request.url.path.encode() + b"\n" + raw, digest_size=16).digest()
        attempt = Attempt(digest, request.headers.get("x-stainless-retry-count", "0") not in ("", "0"))
        waiting = Waiting(request, session, found, attempt)
        if found.stream:
            parts = pieces(waiting, dialect, name, self._ping_s)
            return StreamingResponse(await begun(parts), media_type="text/event-stream")
        node = await waiting.node()
        if node is None:
            return _GONE

        def told(is_read: bool) -> None:
            node.delivered = node.delivered or is_read
            if not is_read:
                attempt.gone.set()

        return Handed(dialect.whole(answered(node, name, found)), told)

    async def _models(self, request: Request) -> Response:
        model = self._episode(request).session.model
        return JSONResponse({"object": "list", "data": [model.card(0)]})

    # What agents ask of the environment.

    async def _task(self, request: Request) -> Response:
        episode = self._episode(request)
        messages = [message.to_openai() for message in episode.observation]
        return JSONResponse({"id": episode.task.id, "text": episode.text, "messages": messages})

    async def _tools(self, request: Request) -> Response:
        return JSONResponse([dict(schema) for schema in self._episode(request).tools])

    async def _call(self, request: Request) -> Response:
        episode = self._episode(request)
        _, arguments = await _read(request)
        return PlainTextResponse(await episode.call(request.path_params["tool"], arguments))

    async def _answer(self, request: Request) -> Response:
        session = self._episode(request).session
        _, body = await _read(request)
        if not isinstance(body.get("answer"), str):
            raise ApiError("answer must be a text", param="answer")
        session.answer = body["answer"]
        return JSONResponse({})

    # What processes ask that play one episode after the other.

    async def _next(self, request: Request) -> Response:
        desk = self.desk
        try:
            variables = await unless_gone(request, desk.next(_key(request))) if desk is not None else None
        except LookupError:
            raise ApiError(_NO_SESSION, status=401, code="invalid_api_key") from None
        if desk is None or variables is None:
            return Response(status_code=204)
        return Handed(dict(variables), lambda is_read: None if is_read else desk.take_back(variables))

    async def _done(self, request: Request) -> Response:
        session = self._episode(request).session
        _, body = await _read(request)
        if self.desk is not None:
            self.desk.done(session.key, str(body.get("error") or ""))
        return JSONResponse({})


def _key(request: Request) -> str:
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    given = bearer.strip() if scheme.lower() == "bearer" else ""
    return request.headers.get("x-api-key", "").strip() or given


async def _read(request: Request) -> tuple[bytes, Mapping[str, Any]]:
    """The JSON object of a body. Raises: ApiError."""
    raw = await read_body(request, BODY_S)
    body = read_json(raw)
    if not isinstance(body, dict):
        raise ApiError("the body must be a JSON object")
    if rb"\ud" in raw.lower():
        _check_text(body)
    return raw, body


def _check_text(body: Mapping[str, Any]) -> None:
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ApiError("the body has half of a character (a lone surrogate): send valid Unicode") from None


def _digest(key: str) -> bytes:
    """Keys are looked up by their hash, so that the time of a look-up tells nothing of them."""
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})
