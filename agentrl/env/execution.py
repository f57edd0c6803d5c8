"""Running one tool call: in place, awaited, or in a thread, under a timeout. Owns how a result reads.

What a failure means is decided here once: `ToolError` is for the model, anything else is an `EnvFault`.
A timeout cancels an `async` tool; a thread cannot be stopped, so a blocking one is left behind.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from agentrl.errors import EnvFault, ToolError
from agentrl.tool_schema import Tool

logger = logging.getLogger(__name__)
SLOW_INLINE_S = 1.0


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
    """Run a plain `def` tool in place; one that holds up every other episode is named in the log."""
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
            "tool %r held every episode for %.1f s: make it `async def`, or mark it @tool(blocking=True)",
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
    """Run a blocking function in a daemon thread of its own, which never holds up the exit."""
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
