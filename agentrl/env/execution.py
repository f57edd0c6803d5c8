"""Answers to tool calls: each runs in place, awaited, or in a thread under a timeout. Owns their order.

What a failure means is decided here: `ToolError` is for the model, anything else is an `EnvFault` that
`agentrl.env.blame` attributes. A timeout cancels an `async` tool, and interrupts the thread of a blocking one; a thread
that one call into C holds is left behind. How a result reads belongs to `agentrl.env.results`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from threading import get_ident
from time import perf_counter
from typing import Any

from msgspec import structs

from agentrl.env.author_code import acting, awaited
from agentrl.env.blame import fault_of, is_authors
from agentrl.env.results import to_text
from agentrl.env.started.threads import check_left
from agentrl.env.watchdog import HOOK_TIMEOUT_S, Hung, leave, running
from agentrl.errors import EnvFault, ToolError, did_you_mean
from agentrl.messages import Message, ToolCall
from agentrl.safe_json import safe_text, shown
from agentrl.tool_schema import Tool

ToolStats = dict[str, dict[str, int]]

logger = logging.getLogger(__name__)
SLOW_INLINE_S = 1.0
_MOST_COMPARED = 100  # characters of a name
MAX_CALLS = 128
"""Calls of one turn that are run by default; the others are answered with an error."""
MAX_CHARS = 100_000
"""Characters of one tool's result by default."""
_RESULTS_OF_A_TURN = 4  # times as many characters as one result may have
_ERROR = "Error: "
AS_ABOVE = f"{_ERROR}the same as above"


async def answer_all(
    tools: Mapping[str, Tool],
    calls: Sequence[ToolCall],
    stats: ToolStats,
    timeout_s: float,
    limit_s: float = HOOK_TIMEOUT_S,
) -> list[Message]:
    """The answers to the calls of one turn, in the order of the calls; see `answer`.

    The calls run one after the other. Neighbouring calls of tools that wait and are `parallel` run at the same time;
    the first fault then cancels the others. A timeout counts from when its own call begins.

    Args:
        timeout_s: seconds for tools that do not name a timeout of their own.
        limit_s: seconds after which the watchdog names a plain `def` tool that has not returned.
    """
    answers: list[Message] = []
    for together, group in groupby(calls, lambda call: _waits_beside_others(tools, call)):
        neighbours = list(group)
        if together and len(neighbours) > 1:
            answers += await _answer_together(tools, neighbours, stats, timeout_s, limit_s)
            continue
        for call in neighbours:
            answers.append(await _answer_one(tools, call, stats, timeout_s, limit_s))
    return answers


def without_repeats(answers: Sequence[Message]) -> Sequence[Message]:
    """The answers to the calls of one turn, each error written out once: a call that got an equal one says `AS_ABOVE`.

    Every call keeps its answer, which chat formats and servers ask for.
    """
    if len(answers) < 2:
        return answers
    seen: set[str] = set()
    found = []
    for message in answers:
        is_repeated = message.content in seen
        found.append(structs.replace(message, content=AS_ABOVE) if is_repeated else message)
        if message.content.startswith(_ERROR) and len(message.content) > len(AS_ABOVE):
            seen.add(message.content)
    return found


def too_many(calls: Sequence[ToolCall], most: int) -> list[Message]:
    """The answers to the calls of a turn that are beyond the number that is run."""
    text = f"{_ERROR}this call was not run: one turn may make at most {most} calls; make the others in later turns"
    return [Message("tool", text, (), call.id, call.name) for call in calls[most:]]


def within(answers: Sequence[Message], most: int) -> Sequence[Message]:
    """The answers of one turn, each cut to a number of characters, and all of them to four times that number."""
    left = _RESULTS_OF_A_TURN * most
    if sum(len(message.content) for message in answers) <= most:
        return answers
    found = []
    for message in answers:
        kept = min(len(message.content), most, left)
        left -= kept
        found.append(message if kept == len(message.content) else _cut(message, kept))
    return found


def _cut(message: Message, kept: int) -> Message:
    text = message.content
    return structs.replace(message, content=f"{text[:kept]} [cut off: {kept} of {len(text)} characters]")


async def _answer_together(
    tools: Mapping[str, Tool], calls: Sequence[ToolCall], stats: ToolStats, timeout_s: float, limit_s: float
) -> list[Message]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_answer_one(tools, call, stats, timeout_s, limit_s)) for call in calls]
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
        raise first from first.__cause__
    return [task.result() for task in tasks]


def answer(tools: Mapping[str, Tool], call: ToolCall, stats: ToolStats, limit_s: float = HOOK_TIMEOUT_S) -> Message:
    """Run one call of a plain `def` tool in place and return the tool message that answers it.

    Args:
        tools: the tools that may be called, by name, bound to their environment.
        call: what the model asked for; a call that cannot be run is answered with the reason.
        stats: calls and errors by tool, counted up here.
        limit_s: seconds after which the watchdog names a tool that has not returned.
    Raises: EnvFault if the tool fails with anything but ToolError.
    """
    name = call.name
    tool = tools.get(name)
    counts = stats.get(name) or _counts(stats, name if tool is not None else "(unknown)")
    counts["calls"] += 1
    try:
        if tool is None or call.error is not None:
            raise _refusal(tools, call)
        content = run_inline(tool, _validated(tool, call, limit_s), limit_s)
    except ToolError as error:
        content = _error_text(counts, error)
    except EnvFault as fault:
        content = _read(tools[name], counts, fault)
    return Message("tool", content, (), call.id, name)


async def _answer_one(
    tools: Mapping[str, Tool], call: ToolCall, stats: ToolStats, timeout_s: float, limit_s: float
) -> Message:
    if call.error is not None or not _waits(tools, call):
        return answer(tools, call, stats, limit_s)
    tool, counts = tools[call.name], _counts(stats, call.name)
    counts["calls"] += 1
    try:
        content = await run(tool, _validated(tool, call, limit_s), timeout_s)
    except ToolError as error:
        content = _error_text(counts, error)
    except EnvFault as fault:
        content = _read(tool, counts, fault)
    return Message("tool", content, (), call.id, call.name)


def _waits(tools: Mapping[str, Tool], call: ToolCall) -> bool:
    tool = tools.get(call.name)
    return tool is not None and not tool.is_inline


def _waits_beside_others(tools: Mapping[str, Tool], call: ToolCall) -> bool:
    return _waits(tools, call) and tools[call.name].parallel


def _refusal(tools: Mapping[str, Tool], call: ToolCall) -> ToolError:
    """Why a call is not run."""
    if call.error is not None:
        return ToolError(f"the call could not be read: {call.error}")
    return ToolError(f"there is no tool {shown(call.name)}.{did_you_mean(call.name[:_MOST_COMPARED], tools)}")


def _validated(tool: Tool, call: ToolCall, limit_s: float) -> dict[str, Any]:
    """The converted arguments; a validator of the author's may raise anything, and may not return."""
    thread = get_ident()
    before, running[thread] = running.get(thread), (None, tool, limit_s)
    try:
        return tool.convert(call.arguments)  # type: ignore[arg-type]  # safe actions hold a dict
    except (ToolError, EnvFault):
        raise
    except BaseException as error:
        if not is_authors(error):
            raise
        raise fault_of(f"a validator of tool {tool.name!r}", error) from error
    finally:
        running[thread] = before


def _counts(stats: ToolStats, name: str) -> dict[str, int]:
    return stats.setdefault(name, {"calls": 0, "errors": 0})


def _error_text(counts: dict[str, int], error: ToolError) -> str:
    counts["errors"] += 1
    return safe_text(f"{_ERROR}{error}")


def _read(tool: Tool, counts: dict[str, int], fault: EnvFault) -> str:
    """A fault as an error that the model reads, where the tool says so. Raises: the fault, with the tool's name."""
    if not tool.faults_are_read:
        fault.tool = tool.name
        raise fault
    return _error_text(counts, ToolError(str(fault)))


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
    limit_s = tool.timeout_s if tool.timeout_s is not None else timeout_s
    token = acting.set(getattr(tool.function, "__self__", None) or acting.get())
    waits: list[bool] = []
    try:
        if tool.is_async:
            waiting = tool.function(**arguments)
        else:
            waiting = in_thread(tool.function, arguments, lambda thread: waits.append(leave(thread)))
        return to_text(await awaited(waiting, (None, tool, limit_s), f"tool {tool.name!r}"))
    except EnvFault as fault:
        if any(waits):
            fault.at = "network"
        raise
    except ToolError:
        raise
    except BaseException as error:
        if not is_authors(error):
            raise
        raise fault_of(f"tool {tool.name!r}", error) from error
    finally:
        acting.reset(token)


def run_inline(tool: Tool, arguments: Mapping[str, Any], limit_s: float = HOOK_TIMEOUT_S) -> str:
    """Run a plain `def` tool in place; the log names a slow one, since every other episode waits for it."""
    thread, started_s = get_ident(), perf_counter()
    before, running[thread] = running.get(thread), (None, tool, limit_s)
    try:
        result = tool.function(**arguments)
        text = result if type(result) is str and result.isascii() else to_text(result)
    except (ToolError, EnvFault):
        raise
    except BaseException as error:
        if not is_authors(error):
            raise
        raise fault_of(f"tool {tool.name!r}", error) from error
    finally:
        running[thread] = before
    seconds = perf_counter() - started_s
    if seconds > SLOW_INLINE_S:
        logger.warning(
            "tool %r made every other episode wait for %.1f s: make it `async def`, or mark it @tool(blocking=True)",
            tool.name,
            seconds,
        )
    return text


def in_thread(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    on_cancel: Callable[[threading.Thread], object] | None = None,
) -> asyncio.Future[Any]:
    """Run a blocking function in a daemon thread of its own, which does not delay the program's exit.

    Args: on_cancel: called with the thread once nobody waits for its result any more.
    Raises: ThreadsLeft if too many threads have not ended that nobody waits for.
    """
    name = getattr(function, "__name__", "")
    check_left(name)
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
        result: Any = None
        failure: Exception | None = None
        try:
            result = function(**arguments)
        except StopIteration:  # a future cannot hold it
            failure = RuntimeError("the tool raised StopIteration")
        except Exception as error:
            failure = error
        except BaseException as error:  # SystemExit and its like must not stop the event loop
            failure = fault_of(f"{name or 'code'} in a thread", error)
            failure.__cause__ = error
        try:
            loop.call_soon_threadsafe(settle, result, failure)
        except RuntimeError:  # the loop was closed while the thread ran on after its timeout
            logger.debug("a tool returned after its event loop was closed")

    def watched() -> None:
        with suppress(Hung):  # which came when `work` had ended already
            work()

    thread = threading.Thread(target=watched, daemon=True, name=f"tool-{name}")
    if on_cancel is not None:
        future.add_done_callback(lambda ended: on_cancel(thread) if ended.cancelled() else None)
    thread.start()
    return future
