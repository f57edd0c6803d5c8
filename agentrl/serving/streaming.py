"""An answer in pieces: server-sent events while the model speaks. Owns how much of a text can be sent already."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from agentrl.messages import Action
from agentrl.serving.answer_forms import Head, Token, chunk, last_chunks, logprobs, usage_chunk
from agentrl.serving.api_errors import ApiError
from agentrl.serving.chat_model import Answer, ChatModel
from agentrl.serving.chat_request import ChatRequest

logger = logging.getLogger(__name__)
# With one of these a call or a thought may begin, in every chat format: what follows is sent at the end of the turn.
_OPENING = "<{[|`"
_EVERY = 64


class Pieces:
    """How far the text of one choice has been sent.

    Args:
        model: reads the ids.
        request: says what is a call, and where to stop.
    """

    def __init__(self, model: ChatModel, request: ChatRequest) -> None:
        self._model, self._request = model, request
        self._ids: list[int] = []
        self._waiting: list[Token] = []
        self._sent = ""
        self._told_reasoning = False

    def add(self, token: int, logprob: float) -> dict[str, Any] | None:
        """Take a sampled token. Returns: `delta` and `logprobs` of a piece that can be sent, or None."""
        self._ids.append(token)
        self._waiting.append(Token(self._model.policy.format.decode([token]), logprob))
        if len(self._ids) % (1 + len(self._ids) // _EVERY):  # reading a long turn again for each token would be slow
            return None
        action = self._model.read(self._request, self._ids)
        text = self._sure(action.text)
        grew = len(text) > len(self._sent) and text.startswith(self._sent)
        return self._piece(text, action.reasoning) if grew else None

    def rest(self, action: Action) -> dict[str, Any] | None:
        """The piece after all others. Args: action: the whole turn. Returns: as `add`."""
        text = action.text if action.text.startswith(self._sent) else self._sent
        untold = action.reasoning is not None and not self._told_reasoning
        return self._piece(text, action.reasoning) if untold or text != self._sent else None

    @property
    def waiting(self) -> list[Token]:
        """Tokens that no piece has carried yet."""
        return self._waiting

    def _piece(self, text: str, reasoning: str | None) -> dict[str, Any]:
        """A piece with what is new of the text; the first one brings the thought, which is whole before the text."""
        new, self._sent = text[len(self._sent) :], text
        delta = {"content": new} if new else {}
        if reasoning is not None and not self._told_reasoning:
            delta, self._told_reasoning = {"reasoning_content": reasoning, **delta}, True
        found: dict[str, Any] = {"delta": delta}
        if self._request.logprobs:
            found["logprobs"] = logprobs(self._waiting)
        self._waiting = []
        return found

    def _sure(self, text: str) -> str:
        """The beginning of a text that stays as it is, whatever the model says next."""
        text = text.rstrip("\ufffd")  # half of a character
        stops = self._request.sampling.stop
        if stops:
            text = text[: max(0, len(text) - max(map(len, stops)) + 1)]
        if self._request.calls:
            place = next((n for n, character in enumerate(text) if character in _OPENING), len(text))
            text = text[:place]
        return text.rstrip()


async def events(model: ChatModel, request: ChatRequest, prompt: tuple[int, ...], head: Head) -> AsyncIterator[bytes]:
    """The server-sent events of an answer. Leaving the loop early stops the sampling."""
    pieces = [Pieces(model, request) for _ in range(request.choices)]
    queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    def tell(number: int, token: int, logprob: float) -> None:
        piece = pieces[number].add(token, logprob)
        if piece is not None:
            queue.put_nowait(chunk(head, number, piece.pop("delta"), **piece))

    work = asyncio.create_task(model.answer(request, prompt, tell))
    work.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        for number in range(request.choices):
            yield _event(chunk(head, number, {"role": "assistant", "content": ""}))
        while (found := await queue.get()) is not None:
            yield _event(found)
        for found in _ends(request, pieces, head, work.result()):
            yield _event(found)
    except Exception as error:  # the answer has begun, so its status is sent: the error is told inside
        logger.exception("an answer failed")
        yield _event(ApiError(f"the answer failed: {type(error).__name__}", status=500).to_json())
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await work
    yield b"data: [DONE]\n\n"


def _ends(request: ChatRequest, pieces: list[Pieces], head: Head, answer: Answer) -> list[dict[str, Any]]:
    """What is left to send when every choice has ended."""
    found = []
    for number, choice in enumerate(answer.choices):
        rest = pieces[number].rest(choice.action)
        if rest is not None:
            found.append(chunk(head, number, rest.pop("delta"), **rest))
        further: dict[str, Any] = {"logprobs": logprobs(pieces[number].waiting)} if request.logprobs else {}
        ids = {"token_ids": list(choice.done.ids)} if request.token_ids else {}
        found += last_chunks(head, number, choice, **further, **ids)
    if request.include_usage:
        found.append(usage_chunk(head, answer))
    return found


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
