"""Tasks that an author's code starts, as by `asyncio.gather`: they are watched, and none of them stops the event loop.

A step of such a task runs in the loop itself, outside of the hook or tool that started it. Without this module nothing
would notice one that does not return, and `sys.exit` in it would end the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from threading import get_ident
from typing import Any

from agentrl.env import watchdog
from agentrl.env.blame import fault_of, is_authors
from agentrl.env.started.threads import use_threads
from agentrl.env.watchdog import Running, running

Factory = Callable[..., Any]


def guard_loop() -> None:
    """Watch an author's code, and what it starts in the running event loop. Does nothing the second time."""
    watchdog.start()
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # an episode that never waits needs no loop
        return
    before = loop.get_task_factory()
    if not isinstance(before, _Tasks):
        loop.set_task_factory(_Tasks(before))
        use_threads(loop)


class _Tasks:
    """A factory of tasks. Args: before: the loop's own."""

    def __init__(self, before: Factory | None) -> None:
        self._before = before

    def __call__(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        now = running.get(get_ident())
        if now is not None and asyncio.iscoroutine(coroutine):
            coroutine = _Watched(coroutine, now)
        if self._before is not None:
            return self._before(loop, coroutine, **options)
        return asyncio.Task(coroutine, loop=loop, **options)


class _Watched(Coroutine[Any, Any, Any]):
    """A coroutine whose steps count as those of the code that started it."""

    def __init__(self, inner: Any, running_as: Running) -> None:
        self._inner, self._running_as = inner, running_as

    def send(self, value: Any) -> Any:
        return self._step(self._inner.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._inner.throw, *error)

    def close(self) -> None:
        self._step(self._inner.close)

    def __await__(self) -> Any:
        return self._inner.__await__()

    def __getattr__(self, name: str) -> Any:  # its name and frame, for whoever shows tasks
        return getattr(self._inner, name)

    def _step(self, go: Callable[..., Any], *given: Any) -> Any:
        thread = get_ident()
        before, running[thread] = running.get(thread), (*self._running_as,)
        try:
            return go(*given)
        except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:  # asyncio would stop the loop, or what waits
            if not is_authors(error):
                raise
            what = self._running_as[1]
            name = what if isinstance(what, str) else f"tool {what.name!r}"
            raise fault_of(f"a task of {name}", error) from error
        finally:
            running[thread] = before
