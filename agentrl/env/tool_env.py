"""`ToolEnv`: an environment whose actions are tool calls, ended by an answer, a tool or a limit.

Owns running the calls, their statistics and the reward's assembly. Schemas and argument checks
belong to `agentrl.tool`; parsing a model's text into calls belongs to the policy.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic_core import to_jsonable_python

from agentrl.env.base import Env, Observation, StepResult, as_action, contains_await
from agentrl.env.rubric import Rubric
from agentrl.errors import EnvFault, ToolError, did_you_mean
from agentrl.messages import Action, Message, ToolCall
from agentrl.tool import Tool, is_tool
from agentrl.trajectory import Task

logger = logging.getLogger(__name__)
_SLOW_INLINE_S = 1.0


class ToolEnv(Env):
    """Write `tasks`, `start`, tools and `score`; the rest is here.

    Class attributes:
        system_prompt: a first system message, if any.
        rubric: weights of the components that `score` and `add_reward` name.
        tool_timeout_s: seconds before an `async` or blocking tool call counts as a fault.
        score_truncated: also score an episode that a limit cut off (its answer is None).
        extra_tools: tools that are not methods, shared by all instances.
    """

    system_prompt: ClassVar[str | None] = None
    rubric: ClassVar[Rubric] = Rubric()
    tool_timeout_s: ClassVar[float] = 30.0
    score_truncated: ClassVar[bool] = False
    extra_tools: ClassVar[Sequence[Tool]] = ()
    not_state: ClassVar[tuple[str, ...]] = ("_tools", "_started_s")
    _class_tools: ClassVar[dict[str, Tool]] = {}
    _class_schemas: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    _class_waits: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        tools = {t.name: t for t in cls.extra_tools}
        for name in dir(cls):
            function = inspect.getattr_static(cls, name)
            if is_tool(function):
                made = Tool.of(function)
                tools[made.name] = made
        cls._class_tools = tools
        cls._class_schemas = tuple(t.schema for t in tools.values())
        hooks = (cls.start, cls.score, cls.respond, cls.aclose)
        cls._class_waits = any(t.is_async or t.blocking for t in tools.values()) or any(map(contains_await, hooks))

    def __init__(self, *, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        own = {t.name for t in self.extra_tools}
        self._tools = {n: t if n in own else t.bound_to(self) for n, t in self._class_tools.items()}

    # What an author writes.

    async def start(self, task: Task) -> str | Message | Sequence[Message]:
        """Set up the episode; return the first user message (or messages)."""
        raise NotImplementedError(f"{type(self).__name__} must implement start(self, task)")

    async def score(self, answer: str | None) -> float | Mapping[str, float]:
        """The final reward, or its named components. `answer` is None where a tool or a limit ended it."""
        raise NotImplementedError(f"{type(self).__name__} must implement score(self, answer)")

    async def respond(self, text: str) -> str | None:
        """What the user says to a turn without tool calls; None (the default) takes it as the answer."""
        return None

    # What an author calls.

    def add_reward(self, component: str, value: float) -> None:
        """Add to a named component of this turn's reward."""
        self._components[component] = self._components.get(component, 0.0) + float(value)

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
        task = self._begin(seed, options)
        self._turn, self._tokens, self._ending, self._over = 0, 0, False, False
        self._components: dict[str, float] = {}
        self.success: bool | None = None
        self.tool_stats: dict[str, dict[str, int]] = {}
        self._started_s = time.monotonic()
        first = await self.start(task)
        messages = _as_messages(first)
        if self.system_prompt is not None:
            messages = (Message("system", self.system_prompt), *messages)
        return messages, {"task_id": task.id}

    async def astep(self, action: Any) -> StepResult:
        if getattr(self, "_over", True):
            raise RuntimeError("the episode is over (or never began): call reset before step")
        action = as_action(action)
        self._turn += 1
        self._tokens += len(action.token_ids or ()) or (action.usage or {}).get("completion_tokens", 0)
        if action.tool_calls:
            observation = await self._run_calls(action.tool_calls)
            if self._ending:
                return await self._finish(None, observation)
        elif action.finish_reason == "length":
            return await self._truncate("turn_tokens", ())
        else:
            reply = None if self._ending else await self.respond(action.text)
            if reply is None:
                return await self._finish(action.text, ())
            observation = (Message("user", reply),)
            if self._ending:
                return await self._finish(None, observation)
        limit = self._limit_reached()
        if limit is not None:
            return await self._truncate(limit, observation)
        reward, info = self._take_reward()
        return observation, reward, False, False, info

    def _waits(self) -> bool:
        return self._class_waits

    # Ending an episode.

    async def _finish(self, answer: str | None, observation: Observation) -> StepResult:
        self._add_score(await self.score(answer))
        return self._last(observation, terminated=True)

    async def _truncate(self, limit: str, observation: Observation) -> StepResult:
        if self.score_truncated:
            self._add_score(await self.score(None))
        obs, reward, terminated, truncated, info = self._last(observation, terminated=False)
        info["truncated_by"] = limit
        return obs, reward, terminated, truncated, info

    def _add_score(self, score: float | Mapping[str, float]) -> None:
        parts = score if isinstance(score, Mapping) else {"reward": score}
        for name, value in parts.items():
            self.add_reward(name, value)

    def _last(self, observation: Observation, *, terminated: bool) -> StepResult:
        self._over = True
        reward, info = self._take_reward()
        info["tool_stats"] = {name: dict(stats) for name, stats in self.tool_stats.items()}
        if self.success is not None:
            info["success"] = self.success
        return observation, reward, terminated, not terminated, info

    def _take_reward(self) -> tuple[float, dict[str, Any]]:
        components, self._components = self._components, {}
        if not components:
            return 0.0, {"task_id": self.task.id}
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

    # Running calls.

    async def _run_calls(self, calls: Sequence[ToolCall]) -> Observation:
        waiting = len(calls) > 1 and any(self._is_async(call.name) for call in calls)
        if not waiting:
            return tuple([await self._run_call(call) for call in calls])
        results = await asyncio.gather(*(self._run_call(call) for call in calls), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return tuple(results)  # type: ignore[arg-type]

    def _is_async(self, name: str) -> bool:
        found = self._tools.get(name)
        return found is not None and (found.is_async or found.blocking)

    async def _run_call(self, call: ToolCall) -> Message:
        found = self._tools.get(call.name)
        stats = self.tool_stats.setdefault(call.name if found else "(unknown)", {"calls": 0, "errors": 0})
        stats["calls"] += 1
        try:
            if call.error is not None:
                raise ToolError(f"the call could not be read: {call.error}")
            if found is None:
                raise ToolError(f"there is no tool {call.name!r}.{did_you_mean(call.name, self._tools)}")
            content = to_text(await self._execute(found, found.validate(call.arguments)))
        except ToolError as error:
            stats["errors"] += 1
            content = f"Error: {error}"
        return Message("tool", content, tool_call_id=call.id, name=call.name)

    async def _execute(self, found: Tool, arguments: Mapping[str, Any]) -> Any:
        try:
            if not found.is_async and not found.blocking:
                return _run_inline(found, arguments)
            timeout_s = found.timeout_s if found.timeout_s is not None else self.tool_timeout_s
            work = found.function(**arguments) if found.is_async else in_thread(found.function, arguments)
            return await _within(work, timeout_s, found.name)
        except (ToolError, EnvFault):
            raise
        except Exception as error:
            raise EnvFault(f"tool {found.name!r} raised {type(error).__name__}: {error}") from error


def _run_inline(found: Tool, arguments: Mapping[str, Any]) -> Any:
    started = time.perf_counter()
    result = found.function(**arguments)
    seconds = time.perf_counter() - started
    if seconds > _SLOW_INLINE_S:
        logger.warning(
            "tool %r held every episode for %.1f s: make it `async def`, or mark it @tool(blocking=True)",
            found.name,
            seconds,
        )
    return result


async def _within(work: Awaitable[Any], timeout_s: float, name: str) -> Any:
    task = asyncio.ensure_future(work)
    try:
        finished, _ = await asyncio.wait({task}, timeout=timeout_s)
        if finished:
            return task.result()
        raise EnvFault(f"tool {name!r} did not return within {timeout_s} s")
    finally:
        task.cancel()


def in_thread(function: Callable[..., Any], arguments: Mapping[str, Any]) -> asyncio.Future[Any]:
    """Run a blocking function in a daemon thread of its own, which never holds up the exit."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def work() -> None:
        result, failure = None, None
        try:
            result = function(**arguments)
        except BaseException as error:
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=work, daemon=True, name=f"tool-{getattr(function, '__name__', '')}").start()
    return future


def to_text(value: Any) -> str:
    """A tool's result as the model reads it: text as it is, anything else as JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return "ok"
    return json.dumps(value if isinstance(value, (int, float)) else to_jsonable_python(value), ensure_ascii=False)


def _as_messages(first: str | Message | Sequence[Message]) -> Observation:
    if isinstance(first, str):
        return (Message("user", first),)
    return (first,) if isinstance(first, Message) else tuple(first)


def call(name: str, /, **arguments: Any) -> Action:
    """An action with one tool call, for oracles and tests: `call("price", item="tea")`."""
    return Action(tool_calls=(ToolCall(name, arguments),))
