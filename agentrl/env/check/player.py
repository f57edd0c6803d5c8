"""The environment under check: how to make fresh instances, play recorded episodes, and give up on a hang.

Every episode runs in a thread of its own with a time limit, since nothing else gets control back from a
`while True`; such a thread is abandoned. Judging what was recorded belongs to the other modules of this folder.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from agentrl.env.base import Env
from agentrl.env.blame import culprit, fault_of, is_authors
from agentrl.env.watchdog import Hung, leave, place_in
from agentrl.errors import EnvFault
from agentrl.messages import Action, Message, ToolCall
from agentrl.schemas.values import draw_arguments
from agentrl.trajectory import Task, succeeded

T = TypeVar("T")
Behaviour = Callable[[Env, Sequence[Message]], Any]
MAX_STEPS = 200


class HangError(Exception):
    """Code under check did not return in time."""


@dataclass(frozen=True)
class Start:
    """Where an episode begins: a seed and a task."""

    seed: int
    task: Task


@dataclass
class Episode:
    """What an episode did.

    Attributes:
        actions: the assistant turns played.
        steps: one record per reset and step, JSON-like: messages, reward, ends, info.
        reward: sum of the rewards.
        ended: whether the environment ended it within the steps allowed.
        terminated: whether it ended by itself rather than at a limit.
        fault: what the environment raised, which also ends the episode.
    """

    actions: list[Action] = field(default_factory=list)
    steps: list[Mapping[str, Any]] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    reward: float = 0.0
    ended: bool = False
    terminated: bool = False
    success: bool | None = None
    fault: Exception | None = None

    def won(self) -> bool:
        if self.fault is not None:
            return False
        return succeeded({"success": self.success}, self.reward)


@dataclass(frozen=True)
class Subject:
    """The environment under check.

    Attributes:
        name: what the report calls it.
        env_class: its class.
        create: makes a fresh instance; takes constructor arguments that override the given ones.
        starts: seeds and tasks to begin episodes from, of every split.
        timeout_s: seconds that one episode or tool call may take.
        reference: an id or `module:Class` that another process can make, if there is one.
        kwargs: constructor arguments that go with `reference`.
    """

    name: str
    env_class: type[Env]
    create: Callable[..., Env]
    starts: tuple[Start, ...]
    timeout_s: float
    reference: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def run(self, coroutine: Coroutine[Any, Any, T], doing: str) -> T:
        """Run a coroutine in a thread with a loop of its own. Raises: as `call`."""
        return self.call(lambda: asyncio.run(coroutine), doing)

    def call(self, function: Callable[[], T], doing: str) -> T:
        """Call a function in a thread of its own, which does not delay the program's exit.

        Raises: HangError if it takes longer than `timeout_s`; whatever the function raises.
        """
        box: list[Any] = []

        def work() -> None:
            try:
                box.append((function(), None))
            except BaseException as error:
                box.append((None, error))

        thread = threading.Thread(target=work, daemon=True, name="check-env")
        thread.start()
        thread.join(self.timeout_s)
        if not box:
            where = f"; it is at {place_in(thread.ident)}" if thread.ident is not None else ""
            leave(thread)
            raise HangError(f"{doing} did not return within {self.timeout_s:g} s{where}")
        result, error = box[0]
        if error is not None:
            # SystemExit and its like must not end the check.
            raise error if isinstance(error, Exception) else fault_of(doing, error) from error
        return result  # type: ignore[no-any-return]

    def play(self, behaviour: Behaviour, start: Start, *, max_steps: int = MAX_STEPS, doing: str = "") -> Episode:
        """One episode on a fresh instance."""
        doing = doing or f"an episode with seed {start.seed} and task {start.task.id!r}"
        return self.run(self._play(behaviour, start, max_steps), doing)

    async def _play(self, behaviour: Behaviour, start: Start, max_steps: int) -> Episode:
        env = self.create()
        try:
            return await play_on(env, behaviour, start, max_steps)
        finally:
            await env.aclose()


async def play_on(env: Env, behaviour: Behaviour, start: Start, max_steps: int = MAX_STEPS) -> Episode:
    """One episode on a given instance, from reset to its end or to `max_steps`."""
    episode = Episode()
    await begin(env, episode, start)
    while not episode.ended and len(episode.actions) < max_steps:
        action = behaviour(env, episode.messages)
        await advance(env, episode, await action if inspect.isawaitable(action) else action)
    return episode


async def begin(env: Env, episode: Episode, start: Start) -> None:
    """Reset and record it; what the environment raises is recorded too."""
    try:
        observation, info = await env.areset(seed=start.seed, options={"task": start.task})
        record = {"observation": as_data(observation), "info": as_data(info)}
        episode.messages.extend(observation)
    except BaseException as error:
        _record_fault(episode, error, "reset")
    else:
        episode.steps.append(record)


async def advance(env: Env, episode: Episode, action: Any) -> None:
    """Take one step and record it; what the environment raises is recorded too."""
    action = Action.of(action)
    episode.actions.append(action)
    try:
        observation, reward, terminated, truncated, info = await env.astep(action)
        ends = {"terminated": bool(terminated), "truncated": bool(truncated)}
        record = {"observation": as_data(observation), "reward": as_data(float(reward)), **ends, "info": as_data(info)}
        episode.messages.extend((action.to_message(), *observation))
        success = info.get("success")
    except BaseException as error:
        _record_fault(episode, error, "step")
        return
    episode.steps.append(record)
    episode.reward += float(reward)
    episode.ended, episode.terminated = terminated or truncated, terminated
    episode.success = bool(success) if success is not None else episode.success


def _record_fault(episode: Episode, error: BaseException, doing: str) -> None:
    if not is_authors(error):
        raise error
    episode.fault, episode.ended = error if isinstance(error, Exception) else fault_of(doing, error), True
    episode.steps.append({"fault": f"{type(error).__name__}: {error}"})


def is_hang(fault: BaseException | None) -> bool:
    """Whether a fault says that a hook or a tool waited beyond its deadline."""
    return isinstance(fault, EnvFault) and (
        isinstance(fault.__cause__, Hung)
        or (isinstance(fault.__cause__, TimeoutError) and "did not return within" in str(fault))
    )


def is_authors_fault(fault: Exception) -> bool:
    """Whether the author's code itself raised, rather than said that its infrastructure failed."""
    if isinstance(fault, EnvFault):
        return fault.at == "author" and fault.__cause__ is not None
    return culprit(fault) == "author"


def as_data(value: Any) -> Any:
    """Plain data that compares by value: messages as dictionaries, other objects as their `repr`."""
    if isinstance(value, Message):
        return value.to_openai()
    if isinstance(value, Mapping):
        return {str(key): as_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_data(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    return value if value is None or isinstance(value, (str, int)) else repr(value)


def first_difference(one: Sequence[Any], other: Sequence[Any]) -> str | None:
    """`step 3: ... against ...`, or None where both are the same."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            key = next((k for k in a if a[k] != b.get(k)), "") if isinstance(a, Mapping) else ""
            left, right = (a[key], b.get(key)) if key else (a, b)
            return f"step {index}: {key} {_short(left)} against {_short(right)}"
    return None if len(one) == len(other) else f"{len(one)} steps against {len(other)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 160 else text[:157] + "..."


# Behaviours.


def nothing(env: Env, messages: Sequence[Message]) -> Action:
    """An empty turn."""
    return Action()


def say(text: str) -> Behaviour:
    """The same text in every turn."""
    return lambda env, messages: Action(text)


def oracle(env: Env, messages: Sequence[Message]) -> Any:
    """What the environment's own `oracle` says."""
    return env.oracle(messages)  # type: ignore[attr-defined]


def replay(actions: Sequence[Action]) -> Behaviour:
    """The recorded actions in order, then empty turns."""
    waiting = iter(actions)
    return lambda env, messages: next(waiting, Action())


def chance(seed: int, *, talk: float = 0.1) -> Behaviour:
    """Random tool calls with arguments that fit the schemas, and sometimes a random text.

    Each turn reports 64 sampled tokens, so that a limit on tokens is reached too.
    """
    rng = np.random.default_rng(seed)

    def act(env: Env, messages: Sequence[Message]) -> Action:
        usage = {"completion_tokens": 64}
        schemas = env.tool_schemas
        if not schemas or rng.random() < talk:
            return Action(str(rng.choice(["yes", "7", "I do not know", "500"])), usage=usage)
        function = schemas[int(rng.integers(len(schemas)))]["function"]
        arguments = draw_arguments(function["parameters"], rng)
        return Action(tool_calls=(ToolCall(function["name"], arguments),), usage=usage)

    return act
