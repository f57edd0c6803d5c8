"""Seats: episodes that clients of other protocols play on this server. Owns what is kept of such an episode.

A seat is a session whose requests this process makes itself, so it counts, expires and is closed like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentrl.env.blame import fault_of
from agentrl.errors import AgentRLError, EnvFault
from agentrl.messages import Action, Message
from agentrl.serving.envs.client import exception_of
from agentrl.serving.envs.sessions import Session, Sessions
from agentrl.serving.envs.wire import Reply, Request, TaskForm
from agentrl.trajectory import Ending, succeeded

FAILED = "the environment failed, so this episode does not count"


class NotPlaying(AgentRLError):
    """A turn was taken before the episode began, or after its end."""


@dataclass(frozen=True)
class Start:
    """What an episode begins from.

    Attributes:
        seed: of the environment; the same seed and task give the same episode in every process.
        task: id of a task; by default one is drawn from the split.
        split: name of a split.
    """

    seed: int = 0
    task: str | None = None
    split: str | None = None


@dataclass
class Result:
    """What an episode has come to.

    Attributes:
        task_id: of its task.
        turns, reward: so far.
        terminated, truncated: whether it is over, and how.
        info: of the last step.
        ending: why it is over.
        components: named parts of the reward.
        fault: what failed that is not the agent's; such an episode has no meaningful reward.
    """

    task_id: str = ""
    turns: int = 0
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)
    ending: Ending | None = None
    components: dict[str, float] = field(default_factory=dict)
    fault: Ending | None = None

    @property
    def is_over(self) -> bool:
        return self.terminated or self.truncated or self.fault is not None

    def to_json(self) -> dict[str, Any]:
        """For a client that asks for the reward."""
        return {
            "task_id": self.task_id,
            "turns": self.turns,
            "reward": None if self.fault is not None else self.reward,
            "reward_components": self.components,
            "over": self.is_over,
            "truncated": self.truncated,
            "success": succeeded(self.info, self.reward) if self.is_over and self.fault is None else None,
            "ending": None if self.ending is None else self.ending.kind,
            "fault": None if self.fault is None else {"who": self.fault.who, "text": self.fault.detail},
        }


class Seat:
    """One episode after the other, on one session.

    Args:
        sessions: of the server.
        session: this seat's.
    """

    def __init__(self, sessions: Sessions, session: Session) -> None:
        self._sessions, self.session = sessions, session
        self._lock = asyncio.Lock()
        self.first: Sequence[Message] = ()
        self.tools: Sequence[Mapping[str, Any]] = ()
        self.result = Result()
        self.has_begun = False

    @classmethod
    async def at(cls, sessions: Sessions) -> Seat:
        """A new seat. Raises: TooMany."""
        return cls(sessions, await sessions.begin())

    @property
    def env(self) -> Any:
        """The environment's instance; None before the first reset."""
        return self.session.episodes.instance

    @property
    def is_open(self) -> bool:
        return self.session.id in self._sessions

    async def reset(self, start: Start) -> Reply:
        """Begin an episode. Raises: what the environment raises."""
        task = None if start.task is None else TaskForm(start.task)
        reply = await self._executed(Request(1, "reset", seed=start.seed, task=task, split=start.split))
        self.first, self.tools = reply.observation, reply.tools or ()
        self.result, self.has_begun = Result(str(reply.info.get("task_id", ""))), True
        return reply

    async def step(self, action: Action) -> Reply:
        """Take a turn. Raises: NotPlaying after the end; EnvFault, which is kept as the episode's result, and again."""
        async with self._lock:
            self.check()
            if not self.has_begun or self.result.is_over:
                raise NotPlaying("the episode is over" if self.has_begun else "the episode has not begun: reset first")
            try:
                reply = await self._executed(Request(1, "step", action=action))
            except Exception as error:
                fault = fault_of("step", error)
                self.result.fault = Ending("fault", str(fault), fault.at)
                raise fault from error
            result = self.result
            result.turns += 1
            result.reward += float(reply.reward)
            result.terminated, result.truncated = reply.terminated, reply.truncated
            result.info, result.ending = reply.info, reply.ending
            for name, value in (reply.info.get("reward_components") or {}).items():
                result.components[name] = result.components.get(name, 0.0) + value
            return reply

    def check(self) -> None:
        """Raises: EnvFault if the environment failed in this episode, which then has no end."""
        fault = self.result.fault
        if fault is not None:
            raise EnvFault(f"{FAILED}: {fault.detail}; reset to begin another one", who=fault.who or None)

    async def _executed(self, request: Request) -> Reply:
        try:
            with self.session.working():
                reply = await self.session.episodes.execute(request)
        except asyncio.CancelledError:
            if self.is_open:  # the client has gone
                raise
            raise EnvFault("the session was ended: it had no answer of the environment for too long") from None
        if reply.raised is not None:
            raise exception_of(reply.raised)
        return reply

    async def close(self) -> None:
        await self._sessions.end(self.session)
