"""The endpoint as an ASGI application: routes, the key, sizes, clients that go away. Owns no model.

It protects against web pages that a browser on this machine shows (only JSON bodies, only known host names where there
is no key) and against bodies that are too large. It does not encrypt: put a proxy with TLS before it on a network.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agentrl.errors import ModelError
from agentrl.safe_json import safe_text
from agentrl.serving.answer_forms import Head, Token, completion
from agentrl.serving.api_errors import ApiError
from agentrl.serving.chat_model import Answer, ChatModel
from agentrl.serving.chat_request import ChatRequest, chat_request
from agentrl.serving.streaming import events

logger = logging.getLogger(__name__)
_MOST_BYTES = 32 << 20
BODY_S = 30.0
_HUNG_UP_ON = (401, 403, 408, 413, 415)
"""Statuses after which a connection is closed: its body may not be read, and whoever holds it has no right to."""
T = TypeVar("T")
_GONE = Response(status_code=499)  # nobody reads it


def make_app(
    model: ChatModel, *, key: str = "", hosts: Sequence[str] = ("localhost", "127.0.0.1", "[::1]")
) -> Starlette:
    """The application.

    Args:
        model: answers.
        key: that clients send as a bearer token; empty asks for none.
        hosts: names under which it may be asked where there is no key; `*` allows all.
    """
    endpoint = _Endpoint(model, key)
    guard = [] if key else [Middleware(TrustedHostMiddleware, allowed_hosts=[*hosts], www_redirect=False)]
    return Starlette(
        routes=[
            Route("/health", endpoint.health),
            Route("/v1/models", endpoint.models),
            Route("/v1/models/{name:path}", endpoint.one_model),
            Route("/v1/chat/completions", endpoint.chat, methods=["POST"]),
        ],
        middleware=guard,
        exception_handlers=error_handlers("there is POST /v1/chat/completions and GET /v1/models"),
    )


class _Endpoint:
    def __init__(self, model: ChatModel, key: str) -> None:
        self._model, self._key = model, key
        self._began = int(time.time())

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(self, request: Request) -> Response:
        self._check_key(request)
        return JSONResponse({"object": "list", "data": [self._model.card(self._began)]})

    async def one_model(self, request: Request) -> Response:
        self._check_key(request)
        name = request.path_params["name"]
        if name != self._model.name:
            raise ApiError(f"The model {name!r} does not exist", status=404, param="model", code="model_not_found")
        return JSONResponse(self._model.card(self._began))

    async def chat(self, request: Request) -> Response:
        self._check_key(request)
        asked = chat_request(read_json(await read_body(request)), self._model.name, self._model.policy.sampling)
        try:
            prompt = self._model.prompt(asked)
        except (ModelError, RecursionError) as error:  # the template refuses the conversation
            raise ApiError(f"the model's chat template cannot render the messages: {error}", param="messages") from None
        head = Head(f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), self._model.name)
        if asked.stream:
            return StreamingResponse(events(self._model, asked, prompt, head), media_type="text/event-stream")
        answer = await unless_gone(request, self._model.answer(asked, prompt))
        return _GONE if answer is None else json_answer(completion(head, asked, answer, self._tokens(asked, answer)))

    def _tokens(self, asked: ChatRequest, answer: Answer) -> list[list[Token]]:
        if not asked.logprobs:
            return [[] for _ in answer.choices]
        decode = self._model.policy.format.decode
        return [
            [Token(decode([token]), logprob) for token, logprob in zip(c.done.ids, c.done.logprobs, strict=True)]
            for c in answer.choices
        ]

    def _check_key(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        right = scheme.lower() == "bearer" and secrets.compare_digest(given.strip().encode(), self._key.encode())
        if self._key and not right:
            raise ApiError("Incorrect API key provided: send it as a bearer token", status=401, code="invalid_api_key")


async def read_body(request: Request, seconds: float | None = None) -> bytes:
    """The body of a JSON request.

    Args: seconds: in which it must have come; `BODY_S` by default.
    Raises: ApiError if it is of another type, too large or too slow, or if its client has gone.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a web page can send other types without asking
        raise ApiError(f"the body must be of type application/json, got {kind or 'none'}", status=415)
    parts, size, too_large = [], 0, ApiError(f"the body is larger than {_MOST_BYTES >> 20} MiB", status=413)
    told = request.headers.get("content-length", "0")
    if not told.isdigit() or int(told) > _MOST_BYTES:
        raise too_large
    seconds = BODY_S if seconds is None else seconds
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > _MOST_BYTES:
                    raise too_large
                parts.append(part)
    except ClientDisconnect:
        raise ApiError("the client has gone", status=499) from None
    except TimeoutError:
        raise ApiError(f"the body did not arrive within {seconds:.0f} seconds", status=408) from None
    return b"".join(parts)


def read_json(body: bytes) -> Any:
    """The JSON of a body. Raises: ApiError."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(f"the body is not JSON: {error}") from None


async def disconnected(request: Request) -> None:
    """Returns when the client of a request whose body was read has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of some work; None if the client has gone, and then the work is stopped. Raises: as the work."""
    task, gone = asyncio.create_task(work), asyncio.create_task(disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.wait({task, gone})
    return None if task.cancelled() else task.result()


def json_answer(value: Any) -> Response:
    """A JSON answer; what UTF-8 cannot hold is U+FFFD."""
    return Response(safe_text(json.dumps(value, ensure_ascii=False)).encode(), media_type="application/json")


def error_handlers(known: str) -> dict[Any, Any]:
    """What an application answers to exceptions. Args: known: says which routes there are."""

    async def no_route(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {error.detail}; {known}"
        return JSONResponse(ApiError(message, status=error.status_code).to_json(), error.status_code)

    return {ApiError: _refused, HTTPException: no_route, Exception: _failed}


async def _refused(request: Request, error: ApiError) -> Response:
    headers = {"Retry-After": "1"} if error.status == 503 else closing(error)
    return JSONResponse(error.to_json(), error.status, headers)


def closing(error: ApiError) -> dict[str, str] | None:
    """Headers of the answer to a request that is refused."""
    return {"Connection": "close"} if error.status in _HUNG_UP_ON else None


async def _failed(request: Request, error: Exception) -> Response:
    logger.error("a request failed", exc_info=error)
    return JSONResponse(ApiError(f"the server failed: {type(error).__name__}", status=500).to_json(), 500)
