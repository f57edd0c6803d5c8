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
from agentrl.env.execution import ToolStats, answer_all
from agentrl.env.tool_env import ToolEnv
from agentrl.env.toolbox import Offered, Toolbox, with_extra
from agentrl.env.users.user import Heard, LastWords, Move, Reply, User
from agentrl.errors import EnvFault
from agentrl.messages import Action, Message, ToolCall
from agentrl.trajectory import Trajectory

_MANY = 1 << 31
_MOST_CALLS = 20  # turns of calls before a user must say something
USER_CALLS = "user_calls"
"""Key of an episode's info: what the user called before each of its replies."""
Calls = tuple[tuple[ToolCall, ...], ...]


class UserEnv(ToolEnv):
    """After a turn without tool calls the user speaks, until its stop rule; the assistant's last turn is the answer.

    The user's words are observations: they are recorded, and never trained on.

    Class attributes, which an instance may replace, also in `start`:
        user: the second speaker: `ScriptedUser`, `PolicyUser`, or your own `User`.
        goal: what it wants, for the user alone.
        user_tools: what the user may call and the assistant may not: `Tool` objects or functions with type hints, as
            `extra_tools`. They act on the same environment. The calls are recorded in `info["user_calls"]`.
    """

    user: User
    goal: str = ""
    user_tools: Sequence[Offered] = ()
    not_state: ClassVar[tuple[str, ...]] = ("_UserEnv__next_memory", "_UserEnv__next_calls_before")
    __next_memory: Mapping[str, Reply] = {}
    __memory: Mapping[str, Reply] = {}
    __messages: tuple[Message, ...] = ()
    __calls_before: Sequence[Calls] | None = None
    __next_calls_before: Sequence[Calls] | None = None
    __own: Mapping[int, tuple[Message, ...]] = {}
    __called: tuple[Calls, ...] = ()
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
        self.__calls_before, self.__next_calls_before = self.__next_calls_before, None
        self.__messages, self.__spoken, self.__seed = (), 0, seed or 0
        self.__own, self.__called = {}, ()
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
        self.__next_memory, self.__next_calls_before = words_of(earlier), calls_of(earlier)

    async def __say(self) -> Reply:
        key = _key(self.__messages) if self.__memory else ""
        calls = self.__recorded_calls() if key in self.__memory else None
        made: list[tuple[ToolCall, ...]] = []
        if calls is None:
            said = await self.__asked(made)
        else:
            for some in calls:
                await self.__run(some, made)
            said = self.__memory[key]
        self.__spoken += 1
        if self.user_tools:
            self.__called += (tuple(made),)
            self.add_info(**{USER_CALLS: [[[_plain(call) for call in some] for some in one] for one in self.__called]})
        return said

    def __recorded_calls(self) -> Calls | None:
        """What the user called before the recorded words; None if it must be asked, as that is not recorded."""
        if not self.user_tools:
            return ()
        recorded = self.__calls_before or ()
        return recorded[self.__spoken] if self.__spoken < len(recorded) else None

    async def __asked(self, made: list[tuple[ToolCall, ...]]) -> Reply:
        """What the user says, when it has called what it wants to call."""
        user, box = self.__speaker(), self.__user_box()
        user.join(self)
        for _ in range(_MOST_CALLS + 1):
            messages = _audible(self.__messages, self.__own)
            seed = _seed_of(self.__seed, self.__spoken, len(made))
            said: Move = await user.reply(Heard(messages, self.goal, self.__spoken, seed, box.schemas))
            if not isinstance(said, Action):
                return said
            if not said.tool_calls:
                return said.text
            await self.__run(said.tool_calls, made)
        raise EnvFault(f"the simulated user called tools {_MOST_CALLS} times and said nothing", who="server")

    async def __run(self, calls: Sequence[ToolCall], made: list[tuple[ToolCall, ...]]) -> None:
        """Run calls of the user, which hears the results; the assistant does not."""
        stats: ToolStats = {}
        answers = await answer_all(self.__user_box().tools, calls, stats, self.tool_timeout_s, self.hook_timeout_s)
        place = len(self.__messages)
        heard = (*self.__own.get(place, ()), Message("user", tool_calls=tuple(calls)), *answers)
        self.__own = {**self.__own, place: heard}
        made.append(tuple(calls))

    def __user_box(self) -> Toolbox:
        return Toolbox.of(with_extra({}, self.user_tools, type(self).__qualname__)).bound_to(self)

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


def calls_of(episode: Trajectory) -> list[Calls] | None:
    """What the user of a recorded episode called before each of its replies; None if that is not recorded."""
    recorded = episode.info.get(USER_CALLS)
    if not isinstance(recorded, list):
        return None
    return [tuple(tuple(ToolCall(c["name"], c["arguments"]) for c in some) for some in one) for one in recorded]


def _plain(call: ToolCall) -> dict[str, Any]:
    safe = call.safe()
    return {"name": safe.name, "arguments": dict(safe.arguments)}


def _audible(messages: Sequence[Message], own: Mapping[int, tuple[Message, ...]]) -> tuple[Message, ...]:
    """What a user hears: texts of both sides, and its own calls with their results where it made them."""
    heard: list[Message] = []
    for place, message in enumerate(messages):
        heard += own.get(place, ())
        if message.role in ("user", "assistant") and message.content:
            heard.append(Message(message.role, message.content))
    return (*heard, *own.get(len(messages), ()))


def _key(messages: Sequence[Message]) -> str:
    text = json.dumps([message.to_openai() for message in messages], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _seed_of(seed: int, turn: int, calls: int) -> int:
    name = f"{seed}/{turn}/{calls}" if calls else f"{seed}/{turn}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest) % _MANY
