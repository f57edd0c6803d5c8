"""`ToolEnv`: an environment whose actions are tool calls; an answer, a tool or a limit ends the episode.

Owns the course of an episode, and the sum of its reward. Schemas and argument checks belong to
`agentrl.tool_schema`, running a call to `agentrl.env.execution`, parsing a model's text to the policy.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Mapping, Sequence, Set
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, ClassVar

from msgspec import structs

from agentrl.env import watchdog
from agentrl.env.author_code import ask
from agentrl.env.base import Env, Observation, StepResult, as_action, contains_await
from agentrl.env.execution import MAX_CALLS, ToolStats, answer, answer_all, in_thread, too_many, without_repeats
from agentrl.env.results import plain_number, to_text
from agentrl.env.rubric import Rubric
from agentrl.errors import ToolSchemaError
from agentrl.messages import Action, Message, ToolCall
from agentrl.safe_json import safe_text
from agentrl.tool_schema import Tool, is_tool
from agentrl.trajectory import Ending, Task

__all__ = ["ToolEnv", "call", "in_thread", "to_text"]

First = str | Message | Sequence[Message]
Score = float | Mapping[str, float]


class ToolEnv(Env):
    """The author writes `tasks`, `start`, tools and `score`; this class does the rest.

    `start`, `respond`, `score` and the tools may each be `def` or `async def`. The model reads the
    `ToolError` of a tool; any other exception of a tool becomes an `EnvFault`. An `Exception` of `start`,
    `respond` or `score` is passed on unchanged: a rollout records it as a fault. `SystemExit` becomes an
    `EnvFault` everywhere. The calls of one turn run in order, at most 128 of them.

    Class attributes:
        system_prompt: a first system message, if any.
        rubric: weights of the components that `score` and `add_reward` name.
        tool_timeout_s: seconds before an `async` or blocking tool call counts as a fault.
        hook_timeout_s: seconds before a `start`, `respond` or `score` that waits counts as a fault. Nothing can
            interrupt a plain `def`: after this time the log names a hook or tool that has not returned, and a
            command ends with exit code 4.
        score_truncated: also score an episode that a limit cut off (its answer is None).
        extra_tools: tools that are not methods, shared by all instances.
    """

    system_prompt: ClassVar[str | None] = None
    rubric: ClassVar[Rubric] = Rubric()
    tool_timeout_s: ClassVar[float] = 30.0
    hook_timeout_s: ClassVar[float] = watchdog.HOOK_TIMEOUT_S
    score_truncated: ClassVar[bool] = False
    extra_tools: ClassVar[Sequence[Tool]] = ()
    not_state: ClassVar[tuple[str, ...]] = ("_tools", "_started_s")
    _class_tools: ClassVar[dict[str, Tool]] = {}
    _class_schemas: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    _class_inline: ClassVar[bool] = True
    _class_waits: ClassVar[bool] = False
    _over = True
    success: bool | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._class_tools = _collect_tools(cls)
        cls._class_schemas = tuple(t.schema for t in cls._class_tools.values())
        cls._class_inline = all(t.is_inline for t in cls._class_tools.values())
        cls._class_waits = not cls._class_inline or _hooks_wait(cls)

    def __init__(self, *, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self._tools = {n: t.bound_to(self) if t.takes_self else t for n, t in self._class_tools.items()}

    # What an author writes.

    def start(self, task: Task) -> First | Awaitable[First]:
        """Set up the episode; return the first user message (or messages)."""
        raise NotImplementedError(f"{type(self).__name__} must implement start(self, task)")

    def score(self, answer: str | None) -> Score | Awaitable[Score]:
        """The final reward, or its named components. `answer` is None where a tool or a limit ended it."""
        raise NotImplementedError(f"{type(self).__name__} must implement score(self, answer)")

    def respond(self, text: str) -> str | Awaitable[str | None] | None:
        """The user's reply to a turn without tool calls; None (the default) makes that turn the answer."""
        return None

    # What an author calls.

    def add_reward(self, component: str, value: float) -> None:
        """Add to a named component of this turn's reward; the value may be numpy's or torch's."""
        number = value if type(value) is float else plain_number(value, f"the reward component {component!r}")
        self._components[component] = self._components.get(component, 0.0) + number

    def add_info(self, **values: Any) -> None:
        """Add JSON values to the `info` of the episode's end, for measures and feedback."""
        self._own_info.update(values)

    def terminate(self) -> None:
        """End the episode after this turn; `score(None)` then gives the final reward."""
        self._ending = True

    # The contract.

    @property
    def tool_schemas(self) -> Sequence[Mapping[str, Any]]:
        return self._class_schemas

    async def areset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        self._over = True
        task = self._begin(seed, options)
        self._turn, self._tokens, self._ending = 0, 0, False
        self._components: dict[str, float] = {}
        self._own_info: dict[str, Any] = {}
        self.success = None
        self.tool_stats: ToolStats = {}
        self._started_s = time.monotonic()
        watchdog.start()
        messages = _as_messages(await ask(self, "start", self.start, task))
        if self.system_prompt is not None:
            messages = (Message("system", safe_text(self.system_prompt)), *messages)
        self._over = False
        return messages, {"task_id": task.id}

    async def astep(self, action: Any) -> StepResult:
        if self._over:
            raise RuntimeError("the episode is over (or never began): call reset before step")
        action = as_action(action)
        self._turn += 1
        self._tokens += len(action.token_ids or ()) or (action.usage or {}).get("completion_tokens", 0)
        calls = action.tool_calls
        if calls:
            tools, stats = self._tools, self.tool_stats
            if self._class_inline:
                limit_s = self.hook_timeout_s
                answers = [answer(tools, call, stats, limit_s) for call in calls[:MAX_CALLS]]
                observation = tuple(answers if len(calls) == 1 else without_repeats([*answers, *too_many(calls)]))
            else:
                observation = await answer_all(tools, calls, stats, self.tool_timeout_s, self.hook_timeout_s)
        elif action.finish_reason == "length":
            return await self._finish(Ending("limit", "turn_tokens"), ())
        else:
            reply = await ask(self, "respond", self.respond, action.text)
            if reply is None:
                return await self._finish(Ending("answer"), (), action.text)
            if not isinstance(reply, str):
                raise TypeError(f"respond must return text or None, got {type(reply).__name__}")
            observation = (Message("user", safe_text(reply)),)
        if self._ending:
            return await self._finish(Ending("tool" if calls else "environment"), observation)
        limit = self._limit_reached()
        if limit is not None:
            return await self._finish(Ending("limit", limit), observation)
        reward, info = self._take_reward()
        return observation, reward, False, False, info

    async def aclose(self) -> None:
        """Free what the tools hold; an override calls `await super().aclose()`."""
        async with AsyncExitStack() as stack:  # closes all, even if one of them raises
            for close in {tool.aclose for tool in self._class_tools.values() if tool.aclose is not None}:
                stack.push_async_callback(close)

    def make_readable(self, tools: Set[str]) -> None:
        self._tools = {n: replace(t, faults_are_read=True) if n in tools else t for n, t in self._tools.items()}

    def _waits(self) -> bool:
        return self._class_waits

    # Ending an episode.

    async def _finish(self, ending: Ending, observation: Observation, answer: str | None = None) -> StepResult:
        truncated = ending.kind == "limit"
        if self.score_truncated or not truncated:
            self._add_score(await ask(self, "score", self.score, answer))
        self._over, self.ending = True, ending
        reward, info = self._take_reward()
        info = {**self._own_info, **info}
        info["tool_stats"] = {name: dict(stats) for name, stats in self.tool_stats.items()}
        if self.success is not None:
            info["success"] = bool(self.success)
        return observation, reward, not truncated, truncated, info

    def _add_score(self, score: Score) -> None:
        parts = score if isinstance(score, Mapping) else {"reward": score}
        for name, value in parts.items():
            if type(value) is not float:
                value = plain_number(value, f"score must return a number or a dict of numbers: {name}")
            self.add_reward(str(name), value)

    def _take_reward(self) -> tuple[float, dict[str, Any]]:
        components = self._components
        if not components:
            return 0.0, {"task_id": self.task.id}
        self._components = {}
        return self.rubric.total(components), {"task_id": self.task.id, "reward_components": components}

    def _limit_reached(self) -> str | None:
        limits = self.limits
        if limits.max_turns is not None and self._turn >= limits.max_turns:
            return "max_turns"
        if limits.max_tokens is not None and self._tokens >= limits.max_tokens:
            return "max_tokens"
        if limits.max_wall_s is not None and time.monotonic() - self._started_s >= limits.max_wall_s:
            return "max_wall_s"
        return None

    # State: a restored episode has used as much wall time as the saved one.

    def get_state(self) -> dict[str, Any]:
        elapsed_s = time.monotonic() - self._started_s if hasattr(self, "_started_s") else 0.0
        return {**super().get_state(), "elapsed_s": elapsed_s}

    def set_state(self, state: Mapping[str, Any]) -> None:
        super().set_state(state)
        self._started_s = time.monotonic() - state["elapsed_s"]


def _collect_tools(cls: type[ToolEnv]) -> dict[str, Tool]:
    tools: dict[str, Tool] = {}
    for extra in cls.extra_tools:
        _add_tool(cls, tools, extra)
    for name in dir(cls):
        function = inspect.getattr_static(cls, name)
        if not is_tool(function):
            _check_override(cls, name, function)
        else:
            _add_tool(cls, tools, Tool.of(function, owner=cls.__qualname__))
    return tools


def _add_tool(cls: type[ToolEnv], tools: dict[str, Tool], made: Tool) -> None:
    if made.name in tools:
        raise ToolSchemaError(f"{cls.__qualname__} has two tools named {made.name!r}; give one @tool(name=...)")
    tools[made.name] = made


def _check_override(cls: type[ToolEnv], name: str, value: Any) -> None:
    """Refuse a method that hides an inherited tool and is no tool itself; None removes the tool."""
    if value is not None and any(is_tool(base.__dict__.get(name)) for base in cls.__mro__[1:]):
        raise ToolSchemaError(
            f"{cls.__qualname__}.{name} hides an inherited tool: mark it @tool as well, "
            f"or write `{name} = None` to remove the tool"
        )


def _hooks_wait(cls: type[ToolEnv]) -> bool:
    """Whether a coroutine of the author's may wait; areset and astep of ToolEnv await nothing else."""
    hooks = [cls.start, cls.score, cls.respond]
    own = ((cls.areset, ToolEnv.areset), (cls.astep, ToolEnv.astep), (cls.aclose, ToolEnv.aclose))
    hooks += [hook for hook, base in own if hook is not base]
    return any(map(contains_await, hooks))


def _as_messages(first: First) -> Observation:
    if isinstance(first, str):
        return (Message("user", safe_text(first)),)
    messages = (first,) if isinstance(first, Message) else tuple(first)
    for message in messages:
        if not isinstance(message, Message):
            raise TypeError(f"start must return a str, a Message or Messages, got {type(message).__name__} in it")
        if not isinstance(message.content, str):
            raise TypeError(f"start returned a message whose content is {type(message.content).__name__}, not text")
    return tuple([_safe(message) for message in messages])


def _safe(message: Message) -> Message:
    text = safe_text(message.content)
    return message if text is message.content else structs.replace(message, content=text)


def call(name: str, /, **arguments: Any) -> Action:
    """An action with one tool call, for oracles and tests: `call("price", item="tea")`."""
    return Action(tool_calls=(ToolCall(name, arguments),))
