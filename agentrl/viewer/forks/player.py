"""One fork, and the policy that asks whoever is chosen for each of its turns: a person, or another policy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentrl.messages import Action, Message
from agentrl.policy.base import Policy, SamplingParams
from agentrl.trajectory import Trajectory

Make = Callable[[], Awaitable[Policy]]
State = Literal["restoring", "waiting", "playing", "ended", "failed"]


@dataclass
class Fork:
    """One continued episode.

    Attributes:
        id: in the page.
        origin: id of the source and line of the episode that it continues, and the turn.
        recorded: that episode.
        state: `waiting` for a person, or `playing`.
        messages: the conversation so far.
        problem: what failed last; empty if nothing did.
        note: what is not as it was when the episode was recorded.
        by_person: whether a person chose one of its actions.
        result: the episode, when it has ended.
        saved: the store in which it was saved.
    """

    id: str
    origin: tuple[str, int, int]
    recorded: Trajectory
    state: State = "restoring"
    messages: Sequence[Message] = ()
    tools: Sequence[Mapping[str, Any]] = ()
    problem: str = ""
    note: str = ""
    by_person: bool = False
    result: Trajectory | None = None
    saved: str = ""
    player: Player | None = None
    task: asyncio.Task[None] | None = None

    @property
    def turn(self) -> int:
        return self.origin[2]


class Player(Policy):
    """Asks whoever is chosen for each turn: the page, for one action, or a policy, until the end."""

    name = "fork"

    def __init__(self, fork: Fork) -> None:
        self._fork, self._env = fork, None
        self._wanted: asyncio.Queue[Action | Make] = asyncio.Queue()
        self._bound: Policy | None = None

    def bind(self, env: Any) -> Policy:
        self._env = env
        return self

    def send(self, wanted: Action | Make) -> None:
        """Play one action, or let the policy that this makes play on."""
        self._wanted.put_nowait(wanted)

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        fork = self._fork
        fork.messages, fork.tools = tuple(messages), tools
        while True:
            try:
                if self._bound is None:
                    wanted = await self._next()
                    if isinstance(wanted, Action):
                        fork.by_person = True
                        return wanted
                    self._bound = (await wanted()).bind(self._env)
                return await self._bound.act(messages, tools, episode_id=episode_id, sampling=sampling)
            except Exception as error:  # somebody else's policy: the person is told, and may go on
                fork.problem = f"{type(error).__name__}: {error}"
                await self.release(episode_id)

    async def _next(self) -> Action | Make:
        """What comes next, which is waited for."""
        self._fork.state = "waiting"
        wanted = await self._wanted.get()
        self._fork.state, self._fork.problem = "playing", ""
        return wanted

    async def release(self, episode_id: str) -> None:
        bound, self._bound = self._bound, None
        if bound is not None:
            await bound.release(episode_id)
