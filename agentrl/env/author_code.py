"""Runs an environment author's code: under a deadline where it waits, under the watchdog where it does not.

Owns deadlines, what escapes from author code, and whose code is running: a client that all environments share asks
`acting_env` which episode a request belongs to. What an exception means belongs to `agentrl.env.blame`.
"""

from __future__ import annotations

import asyncio
import logging
import types
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import get_ident
from typing import Any

from agentrl.env.blame import fault_of, is_authors
from agentrl.env.watchdog import Running, running
from agentrl.errors import EnvFault

logger = logging.getLogger(__name__)

# The environment whose hook or tool runs in this asyncio task.
acting: ContextVar[Any] = ContextVar("agentrl_acting_env", default=None)
_EPISODE = "agentrl: state of clients in this episode"
_ELSEWHERE = "held elsewhere"
_UNANSWERED = "unanswered"
LAST_S = 30.0
"""Seconds that cancelled code may take to clean up."""


def acting_env() -> Any:
    """The environment whose hook or tool is running; None outside of them."""
    return acting.get()


def episode_state(env: Any) -> dict[str, Any]:
    """What shared clients keep of an environment's episode, by a name of their own.

    It is part of the episode's state: a fork gets a copy, and `forget_episode` empties it.
    """
    state: dict[str, Any] = env.__dict__.setdefault(_EPISODE, {})
    return state


def hold_elsewhere(env: Any, what: str) -> None:
    """Say that a part of an episode is kept where a fork cannot copy it, such as a session of a server."""
    episode_state(env)[_ELSEWHERE] = what


def held_elsewhere(env: Any) -> str | None:
    """What `hold_elsewhere` said of this episode."""
    what: str | None = env.__dict__.get(_EPISODE, {}).get(_ELSEWHERE)
    return what


@contextmanager
def waiting_for(fault: EnvFault) -> Iterator[None]:
    """While author code waits for a server that AgentRL asks for it.

    Args: fault: what has failed if the deadline of the hook or tool ends the wait: that server, and not the author.
    """
    try:
        yield
    except asyncio.CancelledError:
        env = acting.get()
        if env is not None:
            episode_state(env)[_UNANSWERED] = fault
        raise


def _take_unanswered() -> EnvFault | None:
    """The fault of the wait that was ended last, which is then forgotten."""
    fault: EnvFault | None = getattr(acting.get(), "__dict__", {}).get(_EPISODE, {}).pop(_UNANSWERED, None)
    return fault


def forget_episode(env: Any) -> None:
    """Empty `episode_state`; a reset calls it."""
    env.__dict__.pop(_EPISODE, None)


async def ask(env: Any, name: str, hook: Callable[..., Any], *given: Any) -> Any:
    """What a hook returns, awaited where its author wrote `async def`; `env.hook_timeout_s` is its deadline.

    Args:
        env: whose hook it is.
        name: `start`, `respond` or `score`.
    Raises: EnvFault if the hook does not return in time, or raises what is no `Exception` (`SystemExit`). An
        `Exception` is passed on as it is.
    """
    limit_s, thread = env.hook_timeout_s, get_ident()
    token = acting.set(env)
    try:
        before, running[thread] = running.get(thread), (env, name, limit_s)
        try:
            value = hook(*given)
            if not hasattr(value, "__await__"):
                return value
            steps = value.__await__()
            try:
                first = next(steps)
            except StopIteration as stop:
                return stop.value
        finally:
            running[thread] = before
        return await _in_time(steps, first, (env, name, limit_s), name)
    except Exception:
        raise
    except BaseException as error:
        if not is_authors(error):
            raise
        raise fault_of(name, error) from error
    finally:
        acting.reset(token)


def called(function: Callable[[], Any], running_as: Running) -> Any:
    """What plain code of an author's returns, watched as a hook is."""
    thread = get_ident()
    before, running[thread] = running.get(thread), (*running_as,)
    try:
        return function()
    finally:
        running[thread] = before


async def awaited(value: Any, running_as: Running, name: str) -> Any:
    """The result of an awaitable of the author's. Each of its steps is watched.

    Args:
        value: a coroutine or a future. One that never waits needs no event loop.
        running_as: what the watchdog calls it, and the seconds until it is cancelled.
        name: what a fault calls it.
    Raises: EnvFault if it takes longer; whatever it raises.
    """
    steps, first, result = _begun(value, running_as)
    return result if steps is None else await _in_time(steps, first, running_as, name)


async def watched(value: Any, running_as: Running) -> Any:
    """The result of an awaitable of the author's, which has no deadline where it waits. Each of its steps is watched.

    Args:
        value: a coroutine or a future. One that never waits needs no event loop.
        running_as: what the watchdog calls it, and the seconds after which it interrupts a step.
    """
    steps, first, result = _begun(value, running_as)
    return result if steps is None else await _the_rest(steps, first, running_as)


def _begun(value: Any, running_as: Running) -> tuple[Any, Any, Any]:
    """The steps of an awaitable and what its first step waits for; no steps and its result, where it has not waited."""
    steps, thread = value.__await__(), get_ident()
    before, running[thread] = running.get(thread), (*running_as,)
    try:
        return steps, next(steps), None
    except StopIteration as stop:
        return None, None, stop.value
    finally:
        running[thread] = before


async def _in_time(steps: Any, first: Any, running_as: Running, name: str) -> Any:
    """Go on with an awaitable that waits, until its deadline."""
    _take_unanswered()  # of a wait that was cancelled before
    scope = asyncio.timeout(running_as[2])
    try:
        async with scope:
            return await _the_rest(steps, first, running_as)
    except TimeoutError as error:
        if not scope.expired():
            raise
        late = f"{name} did not return within {running_as[2]} s"
        raise _take_unanswered() or EnvFault(late, who="author") from error


@types.coroutine
def _the_rest(steps: Any, yielded: Any, running_as: Running) -> Generator[Any, Any, Any]:
    """Go on with an awaitable that has waited once, and watch each step."""
    owner, what, limit_s = running_as
    thread, end = get_ident(), _End()
    while True:
        go, given, was_thrown = steps.send, None, False
        try:
            given = yield yielded
        except BaseException as error:
            if end.is_over and isinstance(error, asyncio.CancelledError):
                end.forsake(steps, (owner, what, limit_s))
                raise
            go, given, was_thrown = steps.throw, error, True
        before, running[thread] = running.get(thread), (owner, what, limit_s)
        try:
            yielded = go(given)
        except StopIteration as stop:
            end.cancel()
            return stop.value
        except BaseException:
            end.cancel()
            raise
        finally:
            running[thread] = before
        if was_thrown:
            end.begin()


class _End:
    """The time that code has to end once its task is cancelled. Code that goes on is left where it waits.

    It may wait for what it cleans up. Code that catches every exception, as a loop of retries may, would wait for ever.
    """

    __slots__ = ("_asked", "_before", "_task", "_timer", "is_over")

    def __init__(self) -> None:
        try:
            self._task = asyncio.current_task()
        except RuntimeError:  # no event loop, so that nothing can be cancelled
            self._task = None
        self._timer: asyncio.TimerHandle | None = None
        self._before = self._asked = 0 if self._task is None else self._task.cancelling()
        self.is_over = False

    def begin(self) -> None:
        """Count from now, if the task is being cancelled and the code goes on."""
        task = self._task
        if self._timer is None and task is not None and task.cancelling() > self._before:
            self._asked = task.cancelling()
            self._timer = task.get_loop().call_later(LAST_S, self._over)

    def _over(self) -> None:
        self.is_over = True
        assert self._task is not None
        self._task.cancel()

    def cancel(self) -> None:
        """The code has ended."""
        if self._timer is not None:
            self._timer.cancel()

    def forsake(self, steps: Any, running_as: Running) -> None:
        """Leave the code where it waits. Its task goes on as if the code had passed the cancellation on."""
        assert self._task is not None
        while self._task.cancelling() > self._asked:  # requests of `_over`, here and in what the code awaits
            self._task.uncancel()
        name = running_as[1] if isinstance(running_as[1], str) else f"tool {running_as[1].name!r}"
        logger.error("%s goes on %g s after it was cancelled: it is left where it waits", name, LAST_S)
        close = getattr(steps, "close", None)
        if close is not None:
            try:
                called(close, running_as)
            except Exception as error:  # it goes on even so
                logger.debug("%s cannot be closed: %s", name, error)
