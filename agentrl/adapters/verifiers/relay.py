"""The model of a rollout of verifiers, whose turns come from elsewhere. Owns the conversation between the two.

verifiers asks a model over HTTP. This server is that model: it hands each request over, and answers with the action
that it is then given.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

from aiohttp import web

from agentrl.messages import Action, Message, Role

_PATH = "/v1/chat/completions"
_MOST_BYTES = 64 << 20
Json = dict[str, Any]


class Relay:
    """A server on this machine with one conversation; an asynchronous context manager.

    Attributes:
        url: base URL for a client of Chat Completions.
        tools: OpenAI definitions of the last request.
    """

    def __init__(self) -> None:
        self.tools: Sequence[Mapping[str, Any]] = ()
        self._requests: asyncio.Queue[list[Json]] = asyncio.Queue()
        self._answer: asyncio.Future[Json] | None = None
        self._seen: list[Json] = []

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=_MOST_BYTES)
        app.router.add_post(_PATH, self._asked)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.cancel()
        await self._runner.cleanup()

    async def _asked(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        if body.get("stream") or body.get("n", 1) != 1:
            return _refused("this model answers one choice, whole: leave out `stream` and `n`")
        if self._answer is not None and not self._answer.done():
            return _refused("this model answers one request after the other")
        self._answer = asyncio.get_running_loop().create_future()
        self.tools = tuple(body.get("tools") or ())
        self._requests.put_nowait(body["messages"])
        return web.json_response(_completion(await self._answer, body.get("model", "")))

    async def heard(self) -> tuple[Message, ...]:
        """The messages that the next request adds. Raises: Rewritten if it changes those of before."""
        messages = await self._requests.get()
        kept = messages[: len(self._seen)]
        if [_plain(m) for m in kept] != [_plain(m) for m in self._seen]:
            raise Rewritten("a request changes the conversation of before: such an agent cannot be played turn by turn")
        new, self._seen = messages[len(self._seen) :], messages
        if kept and (not new or new[0]["role"] != "assistant"):
            raise Rewritten("a request leaves the model's last turn out")
        return tuple(_message(message) for message in (new[1:] if kept else new))

    def say(self, action: Action) -> None:
        """Answer the request that waits."""
        if self._answer is None or self._answer.done():
            raise RuntimeError("no request waits for an action")
        self._answer.set_result(action.to_message().to_openai())


class Rewritten(Exception):
    """The conversation was changed."""


def _plain(message: Json) -> Json:
    return {"role": message["role"], "content": _text(message.get("content"))}


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if part.get("type") == "text")
    return "" if content is None else str(content)


def _message(message: Json) -> Message:
    role: Role = message["role"] if message["role"] in ("system", "user", "tool") else "user"
    return Message(role, _text(message.get("content")), (), message.get("tool_call_id"), message.get("name"))


def _completion(message: Json, model: str) -> Json:
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    choice = {"index": 0, "message": message, "finish_reason": finish}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    head = {"id": "turn", "object": "chat.completion", "created": 0, "model": model, "usage": usage}
    return {**head, "choices": [choice]}


def _refused(text: str) -> web.Response:
    return web.json_response({"error": {"message": text, "type": "invalid_request_error"}}, status=400)
