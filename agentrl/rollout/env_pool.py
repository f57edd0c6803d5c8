"""Environment instances that are used again, each by one episode at a time. Owns their opening and closing."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress

from agentrl.env.author_code import watched
from agentrl.env.base import Env
from agentrl.env.blame import fault_of, is_authors
from agentrl.env.driving.wrapped import as_env
from agentrl.env.watchdog import limit_of
from agentrl.errors import EnvFault

logger = logging.getLogger(__name__)
_CLOSE_TIMEOUT_S = 10.0


class EnvPool:
    """Lends environment instances. One whose episode faulted or was cancelled is closed and never lent again.

    Instances are closed when the event loop changes: a client or a socket that an author's `start` opened works only in
    the loop in which it was opened.
    """

    def __init__(self, make_env: Callable[[], Env]) -> None:
        self._make_env = make_env
        self._idle: list[Env] = []
        self._lent: dict[int, Env] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_made = False
        self._folder, self._has_told = os.getcwd(), False

    @property
    def num_open(self) -> int:
        """Instances that are open, lent or idle."""
        return len(self._idle) + len(self._lent)

    async def lend(self) -> Env:
        """An idle instance, or a new one.

        Raises: any exception of the constructor, which is wrong input; EnvFault once an instance has been made: what an
            episode did, such as to a file or a table, may keep the next one from being made.
        """
        self._go_back()
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            stale, self._idle = self._idle, []
            for env in stale:
                await _close(env)
        env = self._idle.pop() if self._idle else self._made()
        self._lent[id(env)] = env
        return env

    def _made(self) -> Env:
        try:
            env: Env = as_env(self._make_env())
        except EnvFault:
            raise
        except BaseException as error:
            if not self._has_made or not is_authors(error):
                raise
            raise fault_of("making the environment", error) from error
        self._has_made = True
        return env

    def give_back(self, env: Env) -> None:
        """Take back an instance whose episode ended well."""
        self._go_back()
        self._lent.pop(id(env), None)
        self._idle.append(env)

    async def discard(self, env: Env) -> None:
        """Close an instance that may be in any state. Where that is cancelled, it is closed with the pool."""
        await _close(env)
        self._go_back()
        self._lent.pop(id(env), None)

    def _go_back(self) -> None:
        """Go back to the working directory, which a tool may have changed: every episode begins in the same one."""
        try:
            if os.getcwd() == self._folder:
                return
        except OSError:  # it was removed
            pass
        if not self._has_told:
            self._has_told = True
            logger.warning(
                "an environment changed the working directory of the whole process: give a program its directory "
                "(`cwd=`), or keep the model's in an attribute"
            )
        with suppress(OSError):
            os.chdir(self._folder)

    async def aclose(self) -> None:
        """Close every instance; lent ones too. The pool can be used again."""
        envs = [*self._idle, *self._lent.values()]
        self._idle, self._lent = [], {}
        for env in envs:
            await _close(env)


async def _close(env: Env) -> None:
    """Close one instance. What the author's code raises is logged and affects no episode."""
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await watched(env.aclose(), (env.unwrapped, "close", limit_of(env.unwrapped)))
    except BaseException as error:
        if not is_authors(error):  # a cancellation that the code brought about itself is its own
            raise
        logger.warning("closing %s failed: %s: %s", type(env).__name__, type(error).__name__, error)
