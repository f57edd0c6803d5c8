"""Answers to tool calls: each runs in place, awaited, or in a thread under a timeout. Owns how a result reads.

What a failure means is decided here once: `ToolError` is for the model, anything else is an `EnvFault`.
A timeout cancels an `async` tool. A thread cannot be stopped: a blocking tool runs on after its timeout.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic_core import to_jsonable_python

from agentrl.errors import EnvFault, ToolError, did_you_mean
from agentrl.messages import Message, ToolCall
from agentrl.tool_schema import Tool

ToolStats = dict[str, dict[str, int]]

logger = logging.getLogger(__name__)
SLOW_INLINE_S = 1.0


async def answer_all(
    tools: Mapping[str, Tool], calls: Sequence[ToolCall], stats: ToolStats, timeout_s: float
) -> tuple[Message, ...]:
    """The answers to the calls of one turn, in the order of the calls; see `answer`.

    Plain `def` tools run one after the other. Where one tool may wait, all calls of the turn run at once;
    the first fault then cancels the others.

    Args:
        timeout_s: seconds for tools that do not name a timeout of their own.
    """
    if not any(_waits(tools, call) for call in calls):
        return tuple([answer(tools, call, stats) for call in calls])
    if len(calls) == 1:
        return (await _answer_waiting(tools, calls[0], stats, timeout_s),)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_answer_waiting(tools, call, stats, timeout_s)) for call in calls]
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
        raise first from first.__cause__
    return tuple([task.result() for task in tasks])


def answer(tools: Mapping[str, Tool], call: ToolCall, stats: ToolStats) -> Message:
    """Run one call of a plain `def` tool in place and return the tool message that answers it.

    Args:
        tools: the tools that may be called, by name, bound to their environment.
        call: what the model asked for; a call that cannot be run is answered with the reason.
        stats: calls and errors by tool, counted up here.
    Raises: EnvFault if the tool fails with anything but ToolError.
    """
    name = call.name
    tool = tools.get(name)
    counts = stats.get(name) or _counts(stats, name if tool is not None else "(unknown)")
    counts["calls"] += 1
    try:
        if tool is None or call.error is not None:
            raise _refusal(tools, call)
        content = run_inline(tool, tool.validate(call.arguments))
    except ToolError as error:
        content = _error_text(counts, error)
    return Message("tool", content, (), call.id, name)


async def _answer_waiting(tools: Mapping[str, Tool], call: ToolCall, stats: ToolStats, timeout_s: float) -> Message:
    if call.error is not None or not _waits(tools, call):
        return answer(tools, call, stats)
    tool, counts = tools[call.name], _counts(stats, call.name)
    counts["calls"] += 1
    try:
        content = await run(tool, tool.validate(call.arguments), timeout_s)
    except ToolError as error:
        content = _error_text(counts, error)
    return Message("tool", content, (), call.id, call.name)


def _waits(tools: Mapping[str, Tool], call: ToolCall) -> bool:
    tool = tools.get(call.name)
    return tool is not None and not tool.is_inline


def _refusal(tools: Mapping[str, Tool], call: ToolCall) -> ToolError:
    """Why a call is not run."""
    if call.error is not None:
        return ToolError(f"the call could not be read: {call.error}")
    return ToolError(f"there is no tool {call.name!r}.{did_you_mean(call.name, tools)}")


def _counts(stats: ToolStats, name: str) -> dict[str, int]:
    return stats.setdefault(name, {"calls": 0, "errors": 0})


def _error_text(counts: dict[str, int], error: ToolError) -> str:
    counts["errors"] += 1
    return f"Error: {error}"


async def run(tool: Tool, arguments: Mapping[str, Any], timeout_s: float) -> str:
    """Run a tool with validated arguments, and return its result as the model reads it.

    Args:
        tool: the tool, bound to its environment.
        arguments: what `Tool.validate` returned.
        timeout_s: seconds for tools that do not name a timeout of their own.
    Raises: ToolError as the tool raised it; EnvFault for any other failure, and for a timeout.
    """
    if tool.is_inline:
        return run_inline(tool, arguments)
    try:
        return to_text(await _within(tool, arguments, tool.timeout_s if tool.timeout_s is not None else timeout_s))
    except (ToolError, EnvFault):
        raise
    except Exception as error:
        raise _fault(tool, error) from error


def run_inline(tool: Tool, arguments: Mapping[str, Any]) -> str:
    """Run a plain `def` tool in place; the log names a slow one, since every other episode waits for it."""
    started_s = time.perf_counter()
    try:
        result = tool.function(**arguments)
        text = result if type(result) is str else to_text(result)
    except (ToolError, EnvFault):
        raise
    except Exception as error:
        raise _fault(tool, error) from error
    seconds = time.perf_counter() - started_s
    if seconds > SLOW_INLINE_S:
        logger.warning(
            "tool %r made every other episode wait for %.1f s: make it `async def`, or mark it @tool(blocking=True)",
            tool.name,
            seconds,
        )
    return text


def _fault(tool: Tool, error: Exception) -> EnvFault:
    return EnvFault(f"tool {tool.name!r} raised {type(error).__name__}: {error}")


async def _within(tool: Tool, arguments: Mapping[str, Any], timeout_s: float) -> Any:
    scope = asyncio.timeout(timeout_s)
    try:
        async with scope:
            if tool.is_async:
                return await tool.function(**arguments)
            return await in_thread(tool.function, arguments)
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise EnvFault(f"tool {tool.name!r} did not return within {timeout_s} s") from error


def in_thread(function: Callable[..., Any], arguments: Mapping[str, Any]) -> asyncio.Future[Any]:
    """Run a blocking function in a daemon thread of its own, which does not delay the program's exit."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
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
            failure = error if not isinstance(error, StopIteration) else RuntimeError("the tool raised StopIteration")
        try:
            loop.call_soon_threadsafe(settle, result, failure)
        except RuntimeError:  # the loop was closed while the thread ran on after its timeout
            logger.debug("a tool returned after its event loop was closed")

    threading.Thread(target=work, daemon=True, name=f"tool-{getattr(function, '__name__', '')}").start()
    return future


def to_text(value: Any) -> str:
    """A tool's result as the model reads it: text as it is, anything else as JSON.

    Raises: TypeError if the value has no JSON form.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return "ok"
    if isinstance(value, (int, float)):
        return json.dumps(value)
    try:
        return json.dumps(to_jsonable_python(value), ensure_ascii=False)
    except ValueError as error:  # pydantic's serialisation error is one
        raise TypeError(f"the result, a {type(value).__name__}, has no JSON form: {error}") from error
