"""An episode that an agent plays: its session, and the environment whose tools it calls. Owns what it earns.

The agent's program asks the environment over HTTP, or does not use it at all; the environment scores what was done.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from agentrl.env.base import Env
from agentrl.env.blame import fault_of, is_authors
from agentrl.errors import EnvFault, PolicyFault, TaskError
from agentrl.messages import Action, Message, ToolCall
from agentrl.rollout.episode import ending_of
from agentrl.serving.api_errors import ApiError
from agentrl.serving.capture.session import Session
from agentrl.serving.capture.tree import Node
from agentrl.trajectory import Ending, Task

GAVE_UP = Ending("error", "the agent gave up on the model's turn before it had read one", "author")


class Episode:
    """One session and the environment behind it.

    Attributes:
        observation, tools: what the environment shows at the beginning.
        ending: why the environment ended; None while it goes on.
        info: what it said at the end.
        fault: what of it failed.
    """

    def __init__(self, session: Session, env: Env, task: Task) -> None:
        self.session, self.task = session, task
        self.env, self._lock = env, asyncio.Lock()
        self.observation: tuple[Message, ...] = ()
        self.tools: Sequence[Mapping[str, Any]] = ()
        self.ending: Ending | None = None
        self.info: dict[str, Any] = {}
        self.fault: EnvFault | PolicyFault | None = None
        self._waiting: list[tuple[float, Mapping[str, float]]] = []

    @property
    def text(self) -> str:
        """What the user asks for, as text."""
        return "\n\n".join(message.content for message in self.observation if message.role == "user")

    async def begin(self, seed: int) -> None:
        """Start the environment. Raises: EnvFault."""
        try:
            self.observation, self.info = await self.env.areset(seed=seed, options={"task": self.task})
            self.tools = self.env.tool_schemas
        except BaseException as error:
            raise _fault("reset", error) from error

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> str:
        """The result of a tool. Raises: ApiError if the episode is over, or the environment fails."""
        async with self._lock:
            if self.ending is not None:
                raise ApiError(f"the episode is over ({self.ending.detail or self.ending.kind})", status=409)
            observation = await self._step(Action(tool_calls=(ToolCall(tool, arguments),)))
            return "\n".join(message.content for message in observation)

    async def finish(self) -> None:
        """Give the environment the answer, if it still waits for one. Raises: EnvFault, PolicyFault."""
        async with self._lock:
            if self.ending is None:
                with suppress(ApiError):
                    await self._step(self._last_words())
            if self.fault is not None:
                raise self.fault
            self.ending = self.ending or Ending("answer")
            self._give(self.session.recorded)

    def _last_words(self) -> Action:
        """The answer that the agent named, else what the model said last."""
        if self.session.answer is not None:
            return Action(self.session.answer)
        last = self.session.nodes[-1].action
        return Action(last.text, finish_reason="length" if last.finish_reason == "length" else "stop")

    async def _step(self, action: Action) -> Sequence[Message]:
        try:
            observation, reward, terminated, truncated, info = await self.env.astep(action)
            self._earned(float(reward), info.get("reward_components") or {})
        except BaseException as error:
            self.fault = _fault("step", error)
            raise ApiError("the environment failed: this episode does not count", status=500) from error
        if terminated or truncated:
            self.ending = ending_of(self.env, truncated=truncated and not terminated)
            self.info |= {name: value for name, value in info.items() if name != "reward_components"}
        return observation

    def _earned(self, reward: float, components: Mapping[str, float]) -> None:
        """Give a reward to the turn that came before it; what was earned before any turn goes to the first one."""
        if not math.isfinite(reward):
            raise EnvFault(f"step returned reward {reward!r}; a reward must be a finite number", who="author")
        self._waiting.append((reward, components))
        self._give(self.session.nodes)

    def _give(self, nodes: Sequence[Node]) -> None:
        while nodes and self._waiting:
            reward, components = self._waiting.pop()
            nodes[-1].reward += reward
            for name, value in components.items():
                nodes[-1].components[name] = nodes[-1].components.get(name, 0.0) + value


def silence(session: Session, ended: str) -> EnvFault | PolicyFault | None:
    """The fault of a session of which no turn is recorded: nothing was asked, or nothing was sampled. Else None.

    Args: ended: how the agent ended.
    """
    if session.recorded:
        return None
    if session.too_slow:
        why = "it gave up on the model, which was too busy to begin its turn: give its client more time"
        return PolicyFault(f"{ended}; {why}", who="host")
    context = session.model.context
    why = f"all it asked was too long for a context of {context} tokens (model.max_context, --max-context)"
    return EnvFault(f"{ended}; {why if session.too_long else 'it asked the model for nothing'}", who="author")


def _fault(place: str, error: BaseException) -> EnvFault | PolicyFault:
    """The fault of an exception. Raises: the exception itself if it is a bug of ours, or a cancellation."""
    if isinstance(error, (EnvFault, PolicyFault)):
        return error
    if isinstance(error, TaskError) or not is_authors(error):
        raise error
    return fault_of(place, error)
