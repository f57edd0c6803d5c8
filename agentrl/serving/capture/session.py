"""One session: an agent's requests become sampled turns. Owns retries, clients that go away, and what is recorded.

A turn trains only if its client read it: a client that hangs up ends the sampling, and a turn that nobody read is
handed to the next equal request. A session of which no turn was read keeps the last unread one, which never trains: how
long its turns are is the model's doing. HTTP belongs to `app`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
from msgspec import structs

from agentrl.errors import ModelError, PolicyFault
from agentrl.messages import Message
from agentrl.policy.base import SamplingParams
from agentrl.policy.engine.requests import Completion
from agentrl.sampling import turn_seed
from agentrl.serving.api_errors import ApiError, context_exceeded
from agentrl.serving.capture.tree import Node, Place, Tree
from agentrl.serving.chat_model import ChatModel
from agentrl.serving.chat_request import ChatRequest
from agentrl.trajectory import Turn

logger = logging.getLogger(__name__)
OnToken = Callable[[int, float], None]
_ASKED_S = 0.05
_IMPATIENT_S, _PATIENT_S = 1.0, 30.0
"""Who waits less for the first token gave up of its own accord; who waits longer had reason to."""


@dataclass(eq=False)
class Attempt:
    """One request of a client.

    Attributes:
        digest: equal for equal requests.
        retried: the client says that it has sent the request before.
        gone: set when the client has hung up.
        work: the task that answers it.
        node: its turn, once sampled.
        turn_id: names the turn, before it is sampled.
    """

    digest: bytes
    retried: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    work: asyncio.Task[Node] | None = None
    node: Node | None = None
    turn_id: str = ""

    async def is_lost(self) -> bool:
        """Whether the client has gone without its answer. A retry can arrive before the hang-up is noticed."""
        if self.node is not None and self.node.delivered:
            return False
        with suppress(TimeoutError):
            await asyncio.wait_for(self.gone.wait(), _ASKED_S)
        return self.gone.is_set() and not (self.node is not None and self.node.delivered)

    async def stop(self) -> None:
        """End its sampling."""
        self.gone.set()
        if self.work is not None and not self.work.done():
            self.work.cancel()
            await asyncio.wait({self.work})


@dataclass(frozen=True)
class _Asked:
    """A turn to be sampled: of which request, where it goes on, after which ids, since when, and what it has so far."""

    request: ChatRequest
    place: Place
    prompt: tuple[int, ...]
    node_id: str
    began: float = field(default_factory=time.monotonic)
    heard: list[tuple[int, float]] = field(default_factory=list)


class Session:
    """The turns that one agent samples.

    Args:
        model: answers.
        sampling: of every turn; a request may only ask for fewer tokens and for stop strings.
        max_turns: after these a request is refused.
        name: in the URL path.
    Attributes:
        key: that the agent sends.
        works: what is being sampled.
        too_slow: requests that the sampler kept waiting for the first token until their client gave up.
        too_long: requests that left no room for an answer.
        retries: requests that were answered with the turn of an earlier one, or took its place.
        answer: what the agent says its answer is; None leaves it to what the model said last.
    """

    def __init__(self, model: ChatModel, sampling: SamplingParams, *, max_turns: int, name: str) -> None:
        self.model, self.sampling, self.max_turns, self.name = model, sampling, max_turns, name
        self.key = f"sk-agentrl-{secrets.token_urlsafe(24)}"
        self.tree = Tree()
        self.works: set[asyncio.Task[Node]] = set()
        self.too_long = self.retries = self.too_slow = 0
        self.answer: str | None = None
        self._over = ""
        self._stream = secrets.token_hex(8) if sampling.seed is None else str(sampling.seed)
        self._newest: dict[bytes, Attempt] = {}
        self._used: dict[bytes, set[int]] = defaultdict(set)
        self._failed: dict[str, PolicyFault] = {}  # by the turn that was asked for
        self._cut: list[Node] = []  # the last turn of which only a part was sampled
        self._waited_s, self._since = 0.0, dict[str, float]()

    async def turn(self, request: ChatRequest, attempt: Attempt, on_token: OnToken | None = None) -> Node:
        """Sample the turn that a request asks for, or hand over the one of an earlier, equal request.

        Raises: ApiError.
        """
        earlier, self._newest[attempt.digest] = self._newest.get(attempt.digest), attempt
        if earlier is not None and (attempt.retried or await earlier.is_lost()):
            self.retries += 1
            await earlier.stop()
            if earlier.node is not None:
                attempt.node = earlier.node
                return earlier.node
        if self._over:
            raise ApiError(f"the session is over: {self._over}", code="session_over")
        attempt.node = await self._sampled(request, attempt, on_token)
        return attempt.node

    async def end(self, why: str) -> None:
        """Refuse what is asked from now on, and stop what is being sampled."""
        self._over, works = why, set(self.works)
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)

    def waited_s(self) -> float:
        """Seconds so far in which the agent waited for turns."""
        now = time.monotonic()
        return self._waited_s + sum(now - began for began in self._since.values())

    @property
    def nodes(self) -> list[Node]:
        """Turns that were read by a client, in the order in which they were sampled."""
        return [node for node in self.tree.nodes if node.delivered]

    @property
    def recorded(self) -> list[Node]:
        """Turns that were read; where there are none, the last one that nobody read."""
        return self.nodes or [*self.tree.nodes, *self._cut][-1:]

    @property
    def fault(self) -> PolicyFault | None:
        """Why the sampler failed, if it did and no retry got the turn."""
        return next(iter(self._failed.values()), None)

    def turns(self) -> list[Turn]:
        """The record of what `recorded` names; the exact ids that each turn saw and sampled."""
        nodes = self.recorded
        after: dict[str, tuple[Message, ...]] = {}
        for node in reversed(nodes):
            if node.parent is not None:
                after[node.parent.id] = node.new
        return [
            Turn(node.new, node.record(), node.reward, node.components, after.get(node.id, ()), None, node.seconds)
            for node in nodes
        ]

    def counts(self) -> dict[str, int]:
        """What is worth knowing of a session: where its conversation forked, and what was not recorded."""
        nodes = self.nodes
        return {
            "roots": sum(node.parent is None for node in nodes),
            "edited": sum(node.edited for node in nodes),
            "unread": len(self.tree.nodes) - len(nodes),
            "retries": self.retries,
            "too_long": self.too_long,
        }

    async def _sampled(self, request: ChatRequest, attempt: Attempt, on_token: OnToken | None) -> Node:
        if len(self.tree.nodes) >= self.max_turns:
            raise ApiError(f"the session has had its {self.max_turns} turns", code="session_over")
        place, prompt = self._prompt(request)
        key = hashlib.blake2b(np.asarray(prompt, np.int32).tobytes(), digest_size=16).digest()
        number = next(n for n in range(len(self._used[key]) + 1) if n not in self._used[key])
        self._used[key].add(number)
        stream = f"{self._stream}/{key.hex()}"
        node_id = attempt.turn_id = hashlib.blake2b(f"{stream}/{number}".encode(), digest_size=6).hexdigest()
        asked = _Asked(request, place, prompt, node_id)
        self._since[node_id] = asked.began
        try:
            done = await self._completion(asked, turn_seed(stream, number), on_token)
        except BaseException:
            self._used[key].discard(number)  # so that a retry samples the same turn
            raise
        finally:
            del self._since[node_id]
            self._waited_s += time.monotonic() - asked.began
        self._failed.pop(node_id, None)
        node = self._node(asked, done)
        self.tree.add(node, place)
        return node

    def _cut_short(self, asked: _Asked, *, has_begun: bool) -> None:
        """Note that nobody waits for a turn any more, with what was sampled of it so far.

        Args: has_begun: whether the engine had taken it in.
        """
        waited_s = time.monotonic() - asked.began
        if not asked.heard and waited_s >= (_PATIENT_S if has_begun else _IMPATIENT_S):
            self.too_slow += 1
            return
        ids, logprobs = tuple(id for id, _ in asked.heard), tuple(logprob for _, logprob in asked.heard)
        self._cut = [self._node(asked, Completion(ids, logprobs, "length", 0, ()))]

    def _prompt(self, request: ChatRequest) -> tuple[Place, tuple[int, ...]]:
        """Where a request goes on, and the ids that the model sees."""
        chat_format = self.model.policy.format
        place = self.tree.place(request.messages, request.tools)
        try:
            if place.parent is None:
                prompt = tuple(chat_format.render_first(request.messages, request.tools))
            else:
                prompt = (*place.parent.ids, *chat_format.render_more(place.new, closed=place.parent.closed))
        except (ModelError, RecursionError) as error:
            raise ApiError(f"the model's chat template cannot render the messages: {error}", param="messages") from None
        if len(prompt) >= self.model.context:
            self.too_long += 1
            raise context_exceeded(len(prompt), self.model.context)
        return place, prompt

    async def _completion(self, asked: _Asked, seed: int, on_token: OnToken | None) -> Completion:
        engine, owner = self.model.policy.engine, f"{self.name}/{asked.node_id}"
        sampling = replace(asked.request.sampling, seed=None)

        def hear(token: int, logprob: float) -> None:
            asked.heard.append((token, logprob))
            if on_token is not None:
                on_token(token, logprob)

        try:
            return await engine.sample(owner, asked.prompt, sampling, seed, on_token=hear)
        except asyncio.CancelledError:
            self._cut_short(asked, has_begun=engine.has_begun(owner))
            raise
        except Exception as error:
            fault = PolicyFault(f"the sampler failed: {type(error).__name__}: {error}", who="host")
            self._failed[asked.node_id] = fault
            raise ApiError(f"the sampler failed: {type(error).__name__}", status=500) from error
        finally:
            engine.release(owner)

    def _node(self, asked: _Asked, done: Completion) -> Node:
        choice = self.model.choice(asked.request, done, asked.node_id)
        usage = {"prompt_tokens": len(asked.prompt), "completion_tokens": len(done.ids), "cached_tokens": done.cached}
        action = structs.replace(
            choice.action,
            prompt_ids=asked.prompt,
            token_ids=done.ids,
            logprobs=done.logprobs,
            versions=done.versions,
            usage=usage,
        ).safe()
        place, closed = asked.place, not self.model.policy.format.stop_ids.isdisjoint(done.ids[-1:])
        seconds = time.monotonic() - asked.began
        tools = asked.request.tools
        return Node(asked.node_id, place.parent, place.new, tools, choice, action, closed, place.edited, seconds)
