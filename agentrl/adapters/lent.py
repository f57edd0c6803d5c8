"""Machines that are lent to episodes and used again: simulators and browsers, which cost seconds and much memory.

Owns the pool, and how an episode holds a machine. What a machine is belongs to the adapters.
"""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Any, ClassVar, TypeVar

from agentrl.env.execution import in_thread
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import AgentRLError, EnvFault, ToolError

T = TypeVar("T")
_LOOK_AGAIN_S = 0.02


class Machines:
    """A pool of simulators or browsers, each a process of its own. They end with this process.

    Args:
        make: starts one; it takes seconds. It is an object with `close`.
        most: how many run at a time; episodes wait for one that is free.
    """

    def __init__(self, make: Callable[[], Any], most: int) -> None:
        self.most = most
        self._make, self._free, self._count, self._lock = make, list[Any](), 0, Lock()
        atexit.register(self.close)

    async def borrow(self) -> Any:
        """A machine for one episode. Raises: what `make` raises."""
        granted, machine = self._claim()
        while not granted:  # by asking: episodes may run in several event loops, and an event belongs to one
            await asyncio.sleep(_LOOK_AGAIN_S)
            granted, machine = self._claim()
        if machine is not None:
            return machine
        starting = in_thread(self._make, {})
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:  # the thread goes on: the next episode gets what it starts
            starting.add_done_callback(self._keep)
            raise
        except BaseException:
            self._forget()
            raise

    def _keep(self, started: asyncio.Future[Any]) -> None:
        if started.exception() is None:
            self.give_back(started.result())
        else:
            self._forget()

    def use(self, action: Callable[[Any], T]) -> T:
        """Run plain code with a machine, one more than `most` if none is free."""
        with self._lock:
            machine = self._free.pop() if self._free else None
            self._count += machine is None
        if machine is None:
            try:
                machine = self._make()
            except BaseException:
                self._forget()
                raise
        try:
            return action(machine)
        finally:
            self.give_back(machine)

    def _claim(self) -> tuple[bool, Any]:
        """Whether the caller gets a machine, and a free one; None if it is to start one, which is counted already."""
        with self._lock:
            if self._free:
                return True, self._free.pop()
            if self._count < self.most:
                self._count += 1
                return True, None
            return False, None

    def _forget(self) -> None:
        with self._lock:
            self._count -= 1

    def give_back(self, machine: Any) -> None:
        with self._lock:
            self._free.append(machine)

    def discard(self, machine: Any) -> None:
        """End a machine that may be broken."""
        self._forget()
        with suppress(Exception):
            machine.close()

    def close(self) -> None:
        """End those that are free."""
        with self._lock:
            free, self._free = self._free, []
        for machine in free:
            self.discard(machine)


class LentEnv(ToolEnv):
    """Base class: each episode holds one machine of the class's pool, from `start` to its score."""

    machines: ClassVar[Machines]
    of_the_game: ClassVar[tuple[str, ...]] = ()
    """Names of exceptions that the machine's own code raises on an odd action: the model reads them."""
    can_fork = False
    hook_timeout_s = 3600.0  # an episode waits for a free machine
    score_truncated = True
    not_state = ("tasks", "_machine")
    _machine: Any = None

    async def _borrow(self) -> None:
        """Hold a machine; the one before goes back."""
        self._release()
        self._machine = await self.machines.borrow()

    def _release(self) -> None:
        machine, self._machine = self._machine, None
        if machine is not None:
            self.machines.give_back(machine)

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            self._release()

    async def _ask(self, action: Callable[[Any], T]) -> T:
        """Run code with the machine, in a thread. A machine that it leaves in the middle of something ends."""
        machine = self._machine
        if machine is None:
            raise RuntimeError("the episode is over: call reset")
        try:
            found: T = await in_thread(partial(action, machine), {})
            return found
        except AgentRLError:
            raise
        except Exception as error:
            if type(error).__name__ in self.of_the_game:
                raise ToolError(f"this cannot be done here: {str(error).splitlines()[0]}") from error
            self._lose(machine)
            raise EnvFault(
                f"the machine of this episode failed: {type(error).__name__}: {error}", who="host"
            ) from error
        except BaseException:
            self._lose(machine)
            raise

    def _lose(self, machine: Any) -> None:
        self._machine = None
        self.machines.discard(machine)
