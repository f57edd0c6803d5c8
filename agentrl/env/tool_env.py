"""`ToolEnv`: an environment whose actions are tool calls; an answer, a tool or a limit ends the episode.

Owns the course of an episode, and the sum of its reward. Schemas and argument checks belong to
`agentrl.tool_schema`, running a call to `agentrl.env.execution`, parsing a model's text to the policy.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Self

from agentrl.env import watchdog
from agentrl.env.author_class import call_own_close, draw_from_own_generators
from agentrl.env.author_code import ask
from agentrl.env.base import Env, Observation, StepResult, as_action
from agentrl.env.driving.without_loop import contains_await
from agentrl.env.execution import (
    MAX_CALLS,
    MAX_CHARS,
    ToolStats,
    answer,
    answer_all,
    in_thread,
    too_many,
    within,
    without_repeats,
)
from agentrl.env.results import plain_number, plain_truth, to_text, with_safe_text
from agentrl.env.rubric import Rubric
from agentrl.env.toolbox import (
    Offered,
    Toolbox,
    check_attributes,
    check_hidden,
    chosen_from,
    extra_of_class,
    tools_of_class,
    with_extra,
)
from agentrl.env.users.user import LastWords
from agentrl.messages import Action, Message, ToolCall
from agentrl.safe_json import safe_text
from agentrl.tool_schema import Tool
from agentrl.trajectory import Ending, Task

__all__ = ["ToolEnv", "call", "in_thread", "to_text", "tools_of"]

First = str | Message | Mapping[str, Any] | Sequence[Message | Mapping[str, Any]]
Score = float | Mapping[str, float]


class ToolEnv(Env):
    """The author writes `tasks`, `start`, tools and `score`; this class does the rest.

    `start`, `respond`, `score` and the tools may each be `def` or `async def`. The model reads the
    `ToolError` of a tool; any other exception of a tool becomes an `EnvFault`. An `Exception` of `start`,
    `respond` or `score` is passed on unchanged: a rollout records it as a fault. `SystemExit` becomes an
    `EnvFault` everywhere. The calls of one turn run in order.

    Private attributes and methods of an author's collide with none of this class. Names of the methods here belong to
    them: a tool or an attribute of such a name is refused.

    Class attributes:
        system_prompt: a first system message, if any.
        rubric: weights of the components that `score` and `add_reward` name.
        tool_timeout_s: seconds before an `async` or blocking tool call counts as a fault.
        hook_timeout_s: seconds before a `start`, `respond` or `score` counts as a fault, and before a plain `def` tool
            does: it is interrupted where it is. One call into C that nothing interrupts ends a command (exit code 4).
        score_truncated: also score an episode that a limit cut off (its answer is None).
        extra_tools: tools that are not methods: `Tool` objects, or functions with type hints. A function whose first
            parameter is `self` gets the instance. An instance may set its own, also in `start`.
        max_calls_per_turn: calls of one turn that are run; the others are answered with an error.
        max_result_chars: characters of one tool's result; all results of a turn may have four times as many. What is
            beyond is cut off, and the model reads so.
        own_random: for libraries that draw from the global `random` or `numpy.random`: while `start`, `respond`,
            `score` and the tools run, these are generators of the episode, seeded from its seed. Not in blocking tools.
    """

    system_prompt: ClassVar[str | None] = None
    rubric: ClassVar[Rubric] = Rubric()
    tool_timeout_s: ClassVar[float] = 30.0
    hook_timeout_s: ClassVar[float] = watchdog.HOOK_TIMEOUT_S
    score_truncated: ClassVar[bool] = False
    extra_tools: Sequence[Offered] = ()
    max_calls_per_turn: ClassVar[int] = MAX_CALLS
    max_result_chars: ClassVar[int] = MAX_CHARS
    own_random: ClassVar[bool] = False
    not_state: ClassVar[tuple[str, ...]] = (
        *("_ToolEnv__box", "_ToolEnv__extra", "_ToolEnv__readable", "_ToolEnv__closing", "_ToolEnv__started_s"),
        "_ToolEnv__box_of",
    )
    __method_tools: ClassVar[Mapping[str, Tool]] = {}
    __class_extra: ClassVar[tuple[Offered, ...]] = ()
    __class_box: ClassVar[Toolbox] = Toolbox({}, (), True)
    __hooks_wait: ClassVar[bool] = False
    __over: bool | None = None  # before the first episode
    __choosing = False
    __readable: Set[str]
    __closing: dict[Callable[[], Awaitable[None]], None]
    __extra: tuple[Offered, ...]
    __chosen: tuple[Offered | str, ...] | None = None
    success: bool | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_attributes(cls)
        cls.__method_tools = tools_of_class(cls)
        cls.__class_extra = extra_of_class(cls)
        cls.__class_box = Toolbox.of(with_extra(cls.__method_tools, cls.__class_extra, cls.__qualname__))
        cls.__hooks_wait = _hooks_wait(cls)
        if inspect.isfunction(cls.__dict__.get("close")) and "aclose" not in cls.__dict__:
            call_own_close(cls)
        if cls.own_random:
            draw_from_own_generators(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls, *args, **kwargs)
        self.__readable, self.__closing = frozenset(), {}
        self.__extra = cls.__class_extra
        self.__put(cls.__class_box)
        return self

    # What an author writes.

    def start(self, task: Task) -> First | Awaitable[First]:
        """Set up the episode; return the first user message (or messages)."""
        raise NotImplementedError(f"{type(self).__name__} must implement start(self, task)")

    def score(self, answer: str | None) -> Score | Awaitable[Score]:
        """The final reward, or its named components. `answer` is None where a tool or a limit ended it."""
        raise NotImplementedError(f"{type(self).__name__} must implement score(self, answer)")

    def respond(self, text: str) -> str | Awaitable[str | None] | None:
        """The user's reply to a turn without tool calls; None (the default) makes that turn the answer.

        `LastWords` are a reply after which that turn is the answer too.
        """
        return None

    # What an author calls.

    def add_reward(self, component: str, value: float) -> None:
        """Add to a named component of this turn's reward; the value may be numpy's or torch's."""
        number = value if type(value) is float else plain_number(value, f"the reward component {component!r}")
        self.__components[component] = self.__components.get(component, 0.0) + number

    def add_info(self, **values: Any) -> None:
        """Add JSON values to the `info` of the episode's end, for measures and feedback."""
        self.__own_info.update(values)

    def use_tools(self, *tools: Offered | str) -> None:
        """Offer these tools alone in this episode; to be called in `start`.

        Args:
            tools: names of tools of the class or of `extra_tools`, further `Tool` objects, or functions.
        Raises: ToolSchemaError for an unknown name; RuntimeError outside of `start`: the model was told its tools then.
        """
        if not self.__choosing:
            raise RuntimeError("use_tools is to be called in `start`: the tools of an episode do not change later")
        self.__chosen = tools
        self.__gather(forced=True)

    def terminate(self) -> None:
        """End the episode after this turn; `score(None)` then gives the final reward."""
        self.__ending = True

    # The contract.

    @property
    def tool_schemas(self) -> Sequence[Mapping[str, Any]]:
        self.__gather()
        return self.__box.schemas

    async def areset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        if self.__over is not True:  # the first episode: what `__init__` has set
            check_hidden(self)
        self.__over, self.__chosen = True, None
        task = Env._begin(self, seed, options)
        self.__turn, self.__tokens, self.__ending = 0, 0, False
        self.__components: dict[str, float] = {}
        self.__own_info: dict[str, Any] = {}
        self.success = None
        self.tool_stats: ToolStats = {}
        self.__started_s = time.monotonic()
        watchdog.start()
        self.__choosing = True
        try:
            messages = _as_messages(await ask(self, "start", self.start, task))
        finally:
            self.__choosing = False
        check_hidden(self)
        self.__gather()
        if self.system_prompt is not None:
            messages = (Message("system", safe_text(self.system_prompt)), *messages)
        self.__over = False
        return messages, {"task_id": task.id}

    async def astep(self, action: Any) -> StepResult:
        if self.__over is not False:
            raise RuntimeError("the episode is over (or never began): call reset before step")
        action = as_action(action)
        self.__turn += 1
        if action.token_ids:
            self.__tokens += len(action.token_ids)
        elif action.usage:
            self.__tokens += action.usage.get("completion_tokens", 0)
        calls = action.tool_calls
        if calls:
            if len(calls) == 1 and self.__box.inline and self.max_calls_per_turn > 0:
                message = answer(self.__box.tools, calls[0], self.tool_stats, self.hook_timeout_s)
                fits = len(message.content) <= self.max_result_chars
                observation = (message,) if fits else tuple(within((message,), self.max_result_chars))
            else:
                observation = await self.__answers(calls)
        elif action.finish_reason == "length":
            return await self.__finish(Ending("limit", "turn_tokens"), ())
        else:
            reply = await ask(self, "respond", self.respond, action.text)
            if reply is None:
                return await self.__finish(Ending("answer"), (), action.text)
            if not isinstance(reply, str):
                raise TypeError(f"respond must return text or None, got {type(reply).__name__}")
            observation = (Message("user", safe_text(str.__str__(reply))),)
            if isinstance(reply, LastWords):
                return await self.__finish(Ending("answer"), observation, action.text)
        if self.__ending:
            return await self.__finish(Ending("tool" if calls else "environment"), observation)
        limit = self.__limit_reached()
        if limit is not None:
            return await self.__finish(Ending("limit", limit), observation)
        reward, info = self.__take_reward()
        return observation, reward, False, False, info

    async def __answers(self, calls: Sequence[ToolCall]) -> Observation:
        """The tool messages that answer the calls of one turn."""
        tools, stats, most = self.__box.tools, self.tool_stats, self.max_calls_per_turn
        if not self.__box.inline:
            answers: Sequence[Message] = await answer_all(
                tools, calls[:most], stats, self.tool_timeout_s, self.hook_timeout_s
            )
        else:
            limit_s = self.hook_timeout_s
            answers = [answer(tools, call, stats, limit_s) for call in calls[:most]]
        if len(calls) > 1:
            answers = without_repeats([*answers, *too_many(calls, most)])
        return tuple(within(answers, self.max_result_chars))

    async def aclose(self) -> None:
        """Free what the tools hold; an override calls `await super().aclose()`."""
        async with AsyncExitStack() as stack:  # closes all, even if one of them raises
            for close in self.__closing:
                stack.push_async_callback(close)

    def make_readable(self, tools: Set[str]) -> None:
        self.__readable = frozenset(tools)
        self.__gather(forced=True)

    def _agentrl_waits(self) -> bool:
        return self.__hooks_wait or not self.__box.inline or bool(self.__closing)

    # Tools.

    def __gather(self, *, forced: bool = False) -> None:
        """Offer the tools of the class, of `extra_tools` as it is now, or those that the episode chose."""
        extra = self.extra_tools
        extra = tuple(extra) if isinstance(extra, (list, tuple)) else extra
        if not forced and extra == self.__extra and self.__chosen is self.__box_of:
            return
        owner = type(self).__qualname__
        tools = with_extra(self.__method_tools, extra, owner)
        if self.__chosen is not None:
            tools = chosen_from(tools, self.__chosen, owner)
        self.__extra = tuple(extra)
        self.__put(Toolbox.of(tools))

    def __put(self, box: Toolbox) -> None:
        self.__box, self.__box_of = box.bound_to(self, self.__readable), self.__chosen
        self.__closing.update((tool.aclose, None) for tool in box.tools.values() if tool.aclose is not None)

    # Ending an episode.

    async def __finish(self, ending: Ending, observation: Observation, answer: str | None = None) -> StepResult:
        check_hidden(self)
        truncated = ending.kind == "limit"
        if self.score_truncated or not truncated:
            self.__add_score(await ask(self, "score", self.score, answer))
        self.__over, self.ending = True, ending
        reward, info = self.__take_reward()
        info = {**self.__own_info, **info}
        info["tool_stats"] = {name: dict(stats) for name, stats in self.tool_stats.items()}
        if self.success is not None:
            info["success"] = plain_truth(self.success, "success")
        return observation, reward, not truncated, truncated, info

    def _agentrl_failed(self, why: str) -> StepResult:
        """The end of an episode that cannot be scored for what the model did; for base classes of AgentRL."""
        self.__over, self.success, self.ending = True, False, Ending("error", why)
        info = {
            "task_id": self.task.id,
            "reward_components": dict.fromkeys(self.rubric.weights, 0.0),
            "tool_stats": {name: dict(stats) for name, stats in self.tool_stats.items()},
            "success": False,
        }
        return (), 0.0, True, False, info

    def __add_score(self, score: Score) -> None:
        parts = score if isinstance(score, Mapping) else {"reward": score}
        for name, value in parts.items():
            if type(value) is not float:
                value = plain_number(value, f"score must return a number or a dict of numbers: {name}")
            self.add_reward(str(name), value)

    def __take_reward(self) -> tuple[float, dict[str, Any]]:
        components = self.__components
        if not components:
            return 0.0, {"task_id": self.task.id}
        self.__components = {}
        return self.rubric.total(components), {"task_id": self.task.id, "reward_components": components}

    def __limit_reached(self) -> str | None:
        limits = self.limits
        if limits.max_turns is not None and self.__turn >= limits.max_turns:
            return "max_turns"
        if limits.max_tokens is not None and self.__tokens >= limits.max_tokens:
            return "max_tokens"
        if limits.max_wall_s is not None and time.monotonic() - self.__started_s >= limits.max_wall_s:
            return "max_wall_s"
        return None

    # State: a restored episode has used as much wall time as the saved one.

    def get_state(self) -> dict[str, Any]:
        elapsed_s = time.monotonic() - self.__started_s if "_ToolEnv__started_s" in self.__dict__ else 0.0
        return {**super().get_state(), "elapsed_s": elapsed_s}

    def set_state(self, state: Mapping[str, Any]) -> None:
        super().set_state(state)
        self.__started_s = time.monotonic() - state["elapsed_s"]
        self.__gather()


def _hooks_wait(cls: type[ToolEnv]) -> bool:
    """Whether a coroutine of the author's may wait; areset and astep of ToolEnv await nothing else."""
    hooks = [cls.start, cls.score, cls.respond]
    own = ((cls.areset, ToolEnv.areset), (cls.astep, ToolEnv.astep), (cls.aclose, ToolEnv.aclose))
    hooks += [hook for hook, base in own if hook is not base]
    return any(map(contains_await, hooks))


def _as_messages(first: Any) -> Observation:
    """What `start` returned, as messages. Raises: TypeError or ValueError that says what it must return."""
    if isinstance(first, str):
        return (Message("user", safe_text(first)),)
    one = isinstance(first, (Message, Mapping))
    if not one and not isinstance(first, Sequence):
        raise TypeError(
            f"start must return the first user message (a text, a Message or a list of them), got {first!r}"
        )
    messages = [Message.from_openai(m) if isinstance(m, Mapping) else m for m in ([first] if one else first)]
    for message in messages:
        if not isinstance(message, Message):
            raise TypeError(f"start must return a text, a Message or Messages, got {type(message).__name__} in it")
        if not isinstance(message.content, str):
            raise TypeError(f"start returned a message whose content is {type(message.content).__name__}, not text")
    if not messages:
        raise ValueError("start returned no message: the model needs a first one")
    return tuple([with_safe_text(message) for message in messages])


def tools_of(env: ToolEnv) -> Mapping[str, Tool]:
    """The tools that an environment offers now, by name, bound to it."""
    box: Toolbox = env._ToolEnv__box  # type: ignore[attr-defined]
    return box.tools


def call(name: str, /, **arguments: Any) -> Action:
    """An action with one tool call, for oracles and tests: `call("price", item="tea")`."""
    return Action(tool_calls=(ToolCall(name, arguments),))
