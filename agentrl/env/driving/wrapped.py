"""Gymnasium's wrappers around an environment: they get the asynchronous methods that a rollout calls.

A wrapper is plain code: its `step` calls the `step` of what it wraps. Around an environment that waits, it therefore
runs in a thread of its own, and what it drives is awaited in the event loop that called it.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from functools import partial
from threading import get_ident
from typing import Any, TypeVar

import gymnasium

from agentrl.env.execution import in_thread
from agentrl.env.watchdog import limit_of, running
from agentrl.messages import Message

T = TypeVar("T")


def as_env(made: Any) -> Any:
    """What a function that makes environments returned, with the methods of an `Env`.

    Raises: TypeError if it is no environment of AgentRL and no wrapper around one.
    """
    if hasattr(made, "areset"):
        return made
    inner = getattr(made, "unwrapped", None)
    if not isinstance(made, gymnasium.Wrapper) or not hasattr(inner, "areset"):
        what = type(made).__name__ if inner is None or inner is made else f"{type(made).__name__} around {inner!r}"
        raise TypeError(f"expected an agentrl.Env, or Gymnasium's wrappers around one, got {what}")
    return WrappedEnv(made)


class WrappedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Wrappers around an `Env`. Attributes that wrappers do not have, such as `tasks`, are those of the `Env`."""

    async def areset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        observation, info = await self._run(self.env.reset, seed=seed, options=dict(options or {}))
        return _checked(observation, self.env), info

    async def astep(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = await self._run(self.env.step, action)
        return _checked(observation, self.env), float(reward), bool(terminated), bool(truncated), info

    async def aclose(self) -> None:
        await self._run(self.env.close)

    # State: that of the environment and of each wrapper.

    def get_state(self) -> dict[str, Any]:
        return {"env": self.unwrapped.get_state(), "wrappers": _copies(self.env)}  # type: ignore[attr-defined]

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.unwrapped.set_state(state["env"])  # type: ignore[attr-defined]
        _put_back(self.env, state["wrappers"])

    async def aget_state(self) -> dict[str, Any]:
        return {"env": await self.unwrapped.aget_state(), "wrappers": _copies(self.env)}  # type: ignore[attr-defined]

    async def aset_state(self, state: Mapping[str, Any]) -> None:
        await self.unwrapped.aset_state(state["env"])  # type: ignore[attr-defined]
        _put_back(self.env, state["wrappers"])

    async def afork(self) -> WrappedEnv:
        """A second stack of the same wrappers, in their present state, around a fork of the environment."""
        return WrappedEnv(_around(self.env, await self.unwrapped.afork()))  # type: ignore[attr-defined]

    def fork(self) -> WrappedEnv:
        """`afork`, for programs without an event loop."""
        return WrappedEnv(_around(self.env, self.unwrapped.fork()))  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "env":
            raise AttributeError(name)
        return getattr(self.env.unwrapped, name)

    async def _run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        if not self.unwrapped._agentrl_waits():  # type: ignore[attr-defined]
            return function(*args, **kwargs)
        return await in_wrappers(partial(function, *args, **kwargs), self.unwrapped)


def _checked(observation: Any, outer: gymnasium.Env[Any, Any]) -> Any:
    if isinstance(observation, tuple) and all(isinstance(message, Message) for message in observation):
        return observation
    raise TypeError(
        f"{outer} changed the observation to a {type(observation).__name__}: it must be a tuple of Messages"
    )


def _wrappers(outer: Any) -> Iterator[Any]:
    while isinstance(outer, gymnasium.Wrapper):
        yield outer
        outer = outer.env


def _copies(outer: Any) -> list[dict[str, Any]]:
    """The attributes of each wrapper, from outside to inside."""
    return [_copy(vars(wrapper)) for wrapper in _wrappers(outer)]


def _copy(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: copy.deepcopy(value) for name, value in attributes.items() if name != "env"}


def _put_back(outer: Any, copies: Sequence[Mapping[str, Any]]) -> None:
    for wrapper, attributes in zip(_wrappers(outer), copies, strict=True):
        vars(wrapper).update(_copy(attributes))


def _around(outer: Any, inner: Any) -> Any:
    """The wrappers of `outer`, copied, around another environment."""
    if not isinstance(outer, gymnasium.Wrapper):
        return inner
    twin = copy.copy(outer)
    vars(twin).update(_copy(vars(outer)), env=_around(outer.env, inner))
    return twin


# From the thread of a wrapper to the event loop and back.


class _Bridge:
    """Carries coroutines from a thread to the task that waits for the thread."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[tuple[Coroutine[Any, Any, Any], Future[Any]] | None] = asyncio.Queue()
        self._loop, self._is_open = asyncio.get_running_loop(), True

    def result_of(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Have a coroutine awaited, and wait for it; called in the thread."""
        reply: Future[T] = Future()
        try:
            self._loop.call_soon_threadsafe(self._ask, coroutine, reply)
        except RuntimeError:  # the loop was closed
            self._refuse(coroutine, reply)
        thread = get_ident()
        before = running.pop(thread, None)
        try:
            return reply.result()
        finally:
            if before is not None:
                running[thread] = (*before,)

    def close(self) -> None:
        """Let the thread end: what it drives from now on is cancelled. Called in the loop."""
        self._is_open = False
        while not self.asked.empty():
            asked = self.asked.get_nowait()
            if asked is not None:
                self._refuse(*asked)

    def _ask(self, coroutine: Coroutine[Any, Any, Any], reply: Future[Any]) -> None:
        if self._is_open:
            self.asked.put_nowait((coroutine, reply))
        else:
            self._refuse(coroutine, reply)

    @staticmethod
    def _refuse(coroutine: Coroutine[Any, Any, Any], reply: Future[Any]) -> None:
        coroutine.close()
        reply.cancel()


_bridge: ContextVar[_Bridge | None] = ContextVar("wrapper_bridge", default=None)


def awaited_for_a_wrapper() -> Callable[[Coroutine[Any, Any, T]], T] | None:
    """How the code that runs now has a coroutine awaited, if it runs in the thread of a wrapper."""
    bridge = _bridge.get()
    return None if bridge is None else bridge.result_of


def _watched(function: Callable[[], T], owner: Any) -> T:
    thread = get_ident()
    running[thread] = (owner, "a wrapper", limit_of(owner))
    try:
        return function()
    finally:
        running.pop(thread)


async def in_wrappers(function: Callable[[], T], owner: Any) -> T:
    """Run plain code in a thread, where it is watched; what it drives is awaited here, in this task.

    Args: owner: the environment in the wrappers.
    """
    bridge, context = _Bridge(), copy_context()
    context.run(_bridge.set, bridge)
    ended = in_thread(partial(context.run, _watched, function, owner), {})

    def tell(_: Any) -> None:
        if not ended.cancelled():
            ended.exception()  # so that it counts as seen where nobody asks any more
        bridge.asked.put_nowait(None)

    ended.add_done_callback(tell)
    try:
        while (asked := await bridge.asked.get()) is not None:
            coroutine, reply = asked
            try:
                reply.set_result(await coroutine)
            except BaseException as error:
                reply.set_exception(error)
                if not isinstance(error, Exception):
                    raise
        result: T = ended.result()
        return result
    finally:
        bridge.close()
