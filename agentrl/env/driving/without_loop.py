"""Coroutines that never wait, run without an event loop. Owns how they are told from those that wait."""

from __future__ import annotations

import asyncio
import dis
import inspect
from collections.abc import Callable, Coroutine
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def loop_is_running() -> bool:
    """Whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run_without_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits, without an event loop.

    Raises: RuntimeError if it waits after all.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("this coroutine waits; await it in an event loop")


@cache
def contains_await(function: Callable[..., Any]) -> bool:
    """Whether a function is `async def` and its body has an `await` (or `async for`/`async with`)."""
    if not inspect.iscoroutinefunction(function):
        return False
    return any(step.opname == "GET_AWAITABLE" for step in dis.get_instructions(function))
