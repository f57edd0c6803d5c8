"""An event loop for tests of deadlines: its clock jumps to the next timer instead of waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop in which no timer takes time. Not for code that waits for threads."""

    def __init__(self) -> None:
        super().__init__()
        self._jumped_s = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None = None) -> Any:
            ready = select(0)
            if not ready and timeout:
                self._jumped_s += timeout
            return ready

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return super().time() + getattr(self, "_jumped_s", 0.0)


@pytest.fixture
def in_no_time() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine in a loop whose timers take no time."""

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            return runner.run(coroutine)

    return run
