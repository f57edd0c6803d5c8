"""`UserEnv`: a `ToolEnv` in which a simulated user answers the turns without tool calls.

Owns what the user hears, and that its words are the same when an episode is taken again: where a record of the episode
is at hand, the recorded words are said, and the user is not asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from agentrl.env.base import Observation, StepResult, as_action
from agentrl.env.tool_env import ToolEnv
from agentrl.env.users.user import Heard, LastWords, Reply, User
from agentrl.messages import Message
from agentrl.trajectory import Trajectory

_MANY = 1 << 31


class UserEnv(ToolEnv):
    """After a turn without tool calls the user speaks, until its stop rule; the assistant's last turn is the answer.

    The user's words are observations: they are recorded, and never trained on.

    Class attributes, which an instance may replace, also in `start`:
        user: the second speaker: `ScriptedUser`, `PolicyUser`, or your own `User`.
        goal: what it wants, for the user alone.
    """

    user: User
    goal: str = ""
    not_state: ClassVar[tuple[str, ...]] = ("_UserEnv__next_memory",)
    __next_memory: Mapping[str, Reply] = {}
    __memory: Mapping[str, Reply] = {}
    __messages: tuple[Message, ...] = ()
    __spoken = 0
    __seed = 0

    async def opening(self) -> str:
        """What the user says first; for `start`, which returns it as it is.

        Raises: ValueError if the user has nothing to say.
        """
        said = await self.__say()
        if said is None:
            raise ValueError(f"the user of {type(self).__name__} has left before the episode began")
        return str(said)

    async def respond(self, text: str) -> Reply:
        return await self.__say()

    async def areset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        self.__memory, self.__next_memory = self.__next_memory, {}
        self.__messages, self.__spoken, self.__seed = (), 0, seed or 0
        observation, info = await super().areset(seed=seed, options=options)
        self.__messages = tuple(observation)
        return observation, info

    async def astep(self, action: Any) -> StepResult:
        action = as_action(action)
        self.__messages += (action.to_message(),)
        result = await super().astep(action)
        self.__messages += tuple(result[0])
        return result

    async def aclose(self) -> None:
        user = getattr(self, "user", None)
        try:
            if isinstance(user, User):
                await user.leave(self)
        finally:
            await super().aclose()

    def _agentrl_recall(self, earlier: Trajectory) -> None:
        self.__next_memory = words_of(earlier)

    async def __say(self) -> Reply:
        key = _key(self.__messages) if self.__memory else ""
        if key in self.__memory:
            said = self.__memory[key]
        else:
            heard = Heard(_audible(self.__messages), self.goal, self.__spoken, _seed_of(self.__seed, self.__spoken))
            user = self.__speaker()
            user.join(self)
            said = await user.reply(heard)
        self.__spoken += 1
        return said

    def __speaker(self) -> User:
        user = getattr(self, "user", None)
        if not isinstance(user, User):
            kind = "nothing" if user is None else type(user).__name__
            raise TypeError(
                f"{type(self).__name__}.user is {kind}: write `user = ScriptedUser([...])`, or set `self.user` in start"
            )
        return user


def words_of(episode: Trajectory) -> dict[str, Reply]:
    """What the user of a recorded episode said, by a hash of the conversation before it."""
    found: dict[str, Reply] = {}
    messages: tuple[Message, ...] = ()
    for index, turn in enumerate(episode.turns):
        if not index:
            found[_key(())] = next((m.content for m in reversed(turn.observation) if m.role == "user"), None)
        messages += (*turn.observation, turn.action.to_message())
        is_last = index == len(episode.turns) - 1
        if turn.action.tool_calls or (is_last and episode.ending.kind in ("error", "fault")):
            continue
        said = next((m.content for m in turn.next_observation if m.role == "user"), None)
        leaves = is_last and said is not None and episode.ending.kind == "answer"
        found[_key(messages)] = LastWords(said) if leaves and said is not None else said
    return found


def _audible(messages: Sequence[Message]) -> tuple[Message, ...]:
    """What a user hears: texts of both sides."""
    return tuple(Message(m.role, m.content) for m in messages if m.role in ("user", "assistant") and m.content)


def _key(messages: Sequence[Message]) -> str:
    text = json.dumps([message.to_openai() for message in messages], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _seed_of(seed: int, turn: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{turn}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % _MANY
