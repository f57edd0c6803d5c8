"""The model behind the endpoint: a request becomes sampled turns. Owns what is cut, parsed and remembered.

Requests that wait at the same time are sampled together: the engine batches them. HTTP belongs to
`agentrl.serving.app`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from msgspec import structs

from agentrl.messages import Action, ToolCall
from agentrl.policy.base import SamplingParams
from agentrl.policy.engine.requests import Completion
from agentrl.policy.local import LocalPolicy
from agentrl.serving.api_errors import ApiError, context_exceeded
from agentrl.serving.chat_request import ChatRequest
from agentrl.serving.conversations import Conversations

OnToken = Callable[[int, int, float], None]
"""Called with the number of the choice, a token and its log-probability."""
_MOST_WAITING = 1024


@dataclass(frozen=True)
class Choice:
    """One answer.

    Attributes:
        action: text without what stop strings cut off, calls with ids of their own, `finish_reason`.
        raw: for each call that cannot be read, by its id, the text that stands for its arguments.
        done: the sampled tokens.
    """

    action: Action
    done: Completion
    raw: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """All answers to a request.

    Attributes:
        prompt: (P,) ids of the conversation.
    """

    prompt: tuple[int, ...]
    choices: list[Choice]

    def usage(self) -> dict[str, object]:
        """Counts of tokens, in OpenAI's form."""
        sampled = sum(len(choice.done.ids) for choice in self.choices)
        cached = max(choice.done.cached for choice in self.choices)
        return {
            "prompt_tokens": len(self.prompt),
            "completion_tokens": sampled,
            "total_tokens": len(self.prompt) + sampled,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


class ChatModel:
    """A local model that answers requests.

    Args:
        policy: the model; its default sampling is that of requests that name none.
        name: under which it is served.
    """

    def __init__(self, policy: LocalPolicy, name: str) -> None:
        self.policy, self.name = policy, name
        self.conversations = Conversations()

    @classmethod
    def from_folder(cls, folder: str | Path, *, name: str | None = None, **options: object) -> ChatModel:
        """The model of a folder, with the folder's sampling, and the chat format and context of an exported run.

        Args:
            name: under which it is served; the folder's by default.
            options: of `LocalPolicy`, and `device`; None leaves the folder's.
        Raises: ModelError if the folder cannot be used.
        """
        given = {option: value for option, value in options.items() if value is not None}
        policy = LocalPolicy.from_folder(folder, **{**_exported(Path(folder)), **given})
        policy.sampling = _sampling_of(policy)
        return cls(policy, name or Path(folder).resolve().name)

    @property
    def context(self) -> int:
        """Most tokens of a conversation, the answer included."""
        return self.policy.engine.options.context

    def card(self, created: int) -> dict[str, Any]:
        """The entry of a list of models. Args: created: seconds since 1970."""
        about = {"id": self.name, "object": "model", "created": created, "owned_by": "agentrl"}
        return {**about, "max_model_len": self.context}

    def prompt(self, request: ChatRequest) -> tuple[int, ...]:
        """Ids of the request's conversation. Raises: ApiError if they leave no room, or too many requests wait."""
        if self.policy.engine.busy + request.choices > _MOST_WAITING:
            raise ApiError("too many requests are waiting: send this one again later", status=503, code="overloaded")
        prompt = self.conversations.prompt(request.messages, request.tools, self.policy.format)
        if len(prompt) >= self.context:
            raise context_exceeded(len(prompt), self.context)
        return prompt

    async def answer(self, request: ChatRequest, prompt: tuple[int, ...], on_token: OnToken | None = None) -> Answer:
        """Sample the choices of a request. Cancelling it frees their places."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._choice(request, prompt, number, on_token)) for number in range(request.choices)
            ]
        return Answer(prompt, [task.result() for task in tasks])

    async def _choice(
        self, request: ChatRequest, prompt: tuple[int, ...], number: int, on_token: OnToken | None
    ) -> Choice:
        owner = secrets.token_hex(12)
        engine = self.policy.engine
        tell = None if on_token is None else lambda token, logprob: on_token(number, token, logprob)
        try:
            done = await engine.sample(owner, prompt, request.sampling, _seed(request.sampling, number), on_token=tell)
        finally:
            engine.release(owner)
        choice = self.choice(request, done, owner)
        if done.ids:
            closed = done.ids[-1] in self.policy.format.stop_ids
            seen = (*request.messages, choice.action.to_message())
            self.conversations.remember(seen, request.tools, (*prompt, *done.ids), closed=closed)
        return choice

    def choice(self, request: ChatRequest, done: Completion, owner: str) -> Choice:
        """The answer that sampled ids are. Args: owner: begins the ids of its calls."""
        action = self.read(request, done.ids)
        calls = tuple(
            ToolCall(call.name or "unknown", call.arguments, f"call_{owner}{number}", call.error)
            for number, call in enumerate(action.tool_calls)
        )
        raw = {call.id: self._text(done.ids) for call in calls if call.error is not None}
        finish = "tool_calls" if calls and done.finish == "stop" else done.finish
        action = structs.replace(action, tool_calls=calls, finish_reason=finish)
        return Choice(action, done, raw)

    def read(self, request: ChatRequest, ids: tuple[int, ...] | list[int]) -> Action:
        """What sampled ids say: a call only where the request allows it, and nothing from a stop string on."""
        action = self.policy.format.parse(ids, request.tools)
        if action.tool_calls and not request.calls:
            action = Action(self._text(ids))
        cut = min((place for stop in request.sampling.stop if (place := action.text.find(stop)) >= 0), default=-1)
        return action if cut < 0 else structs.replace(action, text=action.text[:cut])

    def _text(self, ids: tuple[int, ...] | list[int]) -> str:
        """The text of ids, without the token that ended the turn."""
        ends = bool(ids) and ids[-1] in self.policy.format.stop_ids
        return self.policy.format.decode(ids[:-1] if ends else ids)


def _seed(sampling: SamplingParams, number: int) -> int:
    """The seed of a choice; without one in the request it is drawn anew."""
    if sampling.seed is None:
        return secrets.randbits(128)
    return int.from_bytes(hashlib.blake2b(f"{sampling.seed}/{number}".encode(), digest_size=16).digest())


def _sampling_of(policy: LocalPolicy) -> SamplingParams:
    """The sampling that a folder's generation settings ask for; as many tokens as fit where they name no limit."""
    settings = policy.model.generation_config
    most = getattr(settings, "max_new_tokens", None) or policy.engine.options.context
    if not getattr(settings, "do_sample", False):
        return SamplingParams(temperature=0.0, max_tokens=most)
    names = ("temperature", "top_p", "top_k")
    known = {name: value for name in names if (value := getattr(settings, name, None)) is not None}
    return replace(SamplingParams(), **known, max_tokens=most)


def _exported(folder: Path) -> dict[str, object]:
    """The options that `agentrl export` wrote down; none where the folder is not from there."""
    try:
        found = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        known = {name: found.get(name) for name in ("chat_format", "max_context")}
    except (OSError, ValueError, AttributeError):
        return {}
    return {name: value for name, value in known.items() if value is not None}
