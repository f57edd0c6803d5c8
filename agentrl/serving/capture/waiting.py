"""A client that waits for its turn: whole or in pieces, with signs of life, and what happens if it hangs up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agentrl.serving.api_errors import ApiError
from agentrl.serving.app import disconnected, json_answer
from agentrl.serving.capture.dialects.base import Answered, Dialect, event
from agentrl.serving.capture.session import Attempt, OnToken, Session
from agentrl.serving.capture.tree import Node
from agentrl.serving.chat_model import Answer
from agentrl.serving.chat_request import ChatRequest
from agentrl.serving.streaming import Pieces


class Handed(Response):
    """A JSON answer that says, once its bytes are written, whether its client was still there.

    Args: value: to be sent; told: called once.
    """

    def __init__(self, value: Any, told: Callable[[bool], None]) -> None:
        answer = json_answer(value)
        super().__init__(answer.body, media_type=answer.media_type)
        self._told = told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone, is_read = asyncio.create_task(disconnected(Request(scope, receive))), False
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self.body, "more_body": True})
            await asyncio.sleep(0)
            is_read = not gone.done()
        finally:
            gone.cancel()
            self._told(is_read)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Waiting:
    """A request whose turn is being sampled; a hang-up ends the sampling."""

    def __init__(self, request: Request, session: Session, asked: ChatRequest, attempt: Attempt) -> None:
        self.session, self.asked, self.attempt = session, asked, attempt
        self._request = request

    def begin(self, on_token: OnToken | None = None) -> asyncio.Task[Node]:
        """Begin to sample; `end` must follow."""
        self.attempt.work = work = asyncio.create_task(self.session.turn(self.asked, self.attempt, on_token))
        self.session.works.add(work)
        work.add_done_callback(self.session.works.discard)
        self._watch = asyncio.create_task(disconnected(self._request))
        self._watch.add_done_callback(self._hung_up)
        return work

    async def end(self) -> None:
        """Stop what is still going on."""
        tasks = [task for task in (self._watch, self.attempt.work) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def node(self) -> Node | None:
        """The turn; None if the client has gone. Raises: ApiError."""
        work = self.begin()
        try:
            await asyncio.wait({work})
            await asyncio.sleep(0)  # a hang-up that came at the same time is noticed now
            return None if self.attempt.gone.is_set() or work.cancelled() else work.result()
        finally:
            await self.end()

    def _hung_up(self, watch: asyncio.Task[None]) -> None:
        if not watch.cancelled() and self.attempt.work is not None:
            self.attempt.gone.set()
            self.attempt.work.cancel()


def answered(node: Node, model: str, request: ChatRequest) -> Answered:
    """A turn as it is sent. Args: model: the name that the client asked for."""
    return Answered(
        node.id, model, int(time.time()), request, Answer(tuple(node.action.prompt_ids or ()), [node.choice])
    )


async def pieces(waiting: Waiting, dialect: Dialect, model: str, ping_s: float) -> AsyncIterator[bytes]:
    """The server-sent events of an answer. Raises: ApiError before the first one, where the request is refused.

    Args: ping_s: seconds of silence after which a sign of life is sent.
    """
    stream, text = dialect.stream(model), Pieces(waiting.session.model, waiting.asked)
    queue: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()

    def tell(token: int, logprob: float) -> None:
        if (piece := text.add(token, logprob)) is not None:
            queue.put_nowait(piece["delta"])

    work = waiting.begin(tell)
    work.add_done_callback(lambda _: queue.put_nowait(None))
    has_begun = False
    try:
        while (part := await _next(queue, ping_s)) is not None:
            if not has_begun:
                yield b"".join(stream.begin(waiting.attempt.turn_id))
                has_begun = True
            yield b"".join(stream.piece(part)) if part else dialect.ping
        await asyncio.wait({work})
        if work.cancelled():  # the session has ended
            return
        node = work.result()
        rest = text.rest(node.choice.action)
        first = [] if has_begun else stream.begin(node.id)  # made first: events are numbered as they are made
        last = [*(stream.piece(rest["delta"]) if rest else []), *stream.end(answered(node, model, waiting.asked))]
        yield b"".join([*first, *last])
        await asyncio.sleep(0)  # a hang-up during the last write is noticed now
        node.delivered = node.delivered or not waiting.attempt.gone.is_set()
    except ApiError as error:
        if not has_begun:
            raise
        yield event(dialect.refused(error), "error")
    finally:
        if waiting.attempt.node is None or not waiting.attempt.node.delivered:
            waiting.attempt.gone.set()
        await waiting.end()


async def begun(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same parts, when the first one is there. Raises: ApiError if the request is refused."""
    first = await anext(parts, b"")

    async def all_parts() -> AsyncIterator[bytes]:
        async with aclosing(parts):  # type: ignore[type-var]
            yield first
            async for part in parts:
                yield part

    return all_parts()


async def _next(queue: asyncio.Queue[Mapping[str, Any] | None], ping_s: float) -> Mapping[str, Any] | None:
    """The next piece; an empty one after a silence, None at the end."""
    try:
        return await asyncio.wait_for(queue.get(), ping_s)
    except TimeoutError:
        return {}
