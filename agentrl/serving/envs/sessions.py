"""Sessions: each holds one environment instance and executes a client's requests once, in order.

Owns how many there are, how long they live, and what is kept for a client whose connection was lost.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from agentrl.env.base import Env
from agentrl.env.driving.without_loop import run_without_loop
from agentrl.errors import AgentRLError
from agentrl.rollout.env_pool import EnvPool
from agentrl.serving.envs.episodes import Episodes
from agentrl.serving.envs.wire import Request, encoded

logger = logging.getLogger(__name__)
_SWEEP_S, _CLOSE_S = 1.0, 10.0


class TooMany(AgentRLError):
    """The server has as many sessions as it may have."""


class NoSession(AgentRLError):
    """There is no session of that name, or no longer."""


@dataclass(frozen=True)
class Bounds:
    """What one server gives to its clients.

    Attributes:
        sessions: that live at the same time.
        idle_s: seconds without a request after which a session ends.
        episode_s: seconds after which an episode may not go on.
        saved_bytes: of the states that one session keeps for its client.
    """

    sessions: int = 256
    idle_s: float = 600.0
    episode_s: float = 3600.0
    saved_bytes: int = 64 << 20


class Session:
    """One client's instance and episode.

    Args:
        episodes: executes requests on the instance.
        bounds: of the server.
    Attributes:
        clients: connections that are joined to it.
    """

    def __init__(self, episodes: Episodes, bounds: Bounds) -> None:
        self.id = secrets.token_urlsafe(16)
        self.episodes, self._bounds = episodes, bounds
        self.last = 0
        self.touched_s = time.monotonic()
        self._kept: asyncio.Future[bytes] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._body = b""
        self._is_working = False
        self.clients = 0

    @property
    def is_busy(self) -> bool:
        """Whether a request is being executed."""
        return self._is_working or (self._kept is not None and not self._kept.done())

    def is_idle(self, now: float) -> bool:
        """Whether no client has asked for too long; one that is connected and waits for its answer does not count."""
        return now - self.touched_s > self._bounds.idle_s and not (self.is_busy and self.clients)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around a request of this process; `close` cancels it."""
        self.touch()
        self._is_working, self._task = True, asyncio.current_task()
        try:
            yield
        finally:
            self._is_working = False
            self.touch()

    def touch(self) -> None:
        """Count idle time from now."""
        self.touched_s = time.monotonic()

    async def answer(self, request: Request) -> bytes:
        """The answer to a request; the kept one where it was executed before.

        Raises: ValueError if the number is neither the last one nor the next one.
        """
        self.touch()
        if request.n == self.last and self.last:
            return self._body if self._kept is None else await asyncio.shield(self._kept)
        if request.n != self.last + 1 or self.is_busy:
            raise ValueError(f"request {request.n} came after request {self.last}: send one after the other, from 1")
        self.last, self._task = request.n, asyncio.current_task()
        kept = self._kept = asyncio.get_running_loop().create_future()
        try:
            body = encoded(await self.episodes.execute(request))
        except BaseException:
            kept.cancel()
            raise
        kept.set_result(body)
        self.touch()
        return body

    def answer_at_once(self, request: Request) -> bytes | None:
        """The answer to the next step of an environment that never waits; None if it must be awaited."""
        if request.op != "step" or request.n != self.last + 1 or self.is_busy or not self.episodes.never_waits:
            return None
        self.last = request.n
        body = encoded(run_without_loop(self.episodes.execute(request)))
        self._kept, self._body = None, body
        self.touch()
        return body

    async def close(self) -> None:
        """End what runs, and give the instance back."""
        task = self._task
        if self.is_busy and task is not None and task is not asyncio.current_task():
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await asyncio.wait({task}, timeout=_CLOSE_S)
        await self.episodes.close()


class Sessions:
    """All sessions of a server.

    Args:
        make: makes an instance.
        bounds: of the server.
        takes_any_task: clients may send tasks that are not the environment's own.
    """

    def __init__(self, make: Callable[[], Env], bounds: Bounds, *, takes_any_task: bool = False) -> None:
        self.bounds = bounds
        self._pool = EnvPool(make)
        self._takes_any_task = takes_any_task
        self._open: dict[str, Session] = {}
        self._sweeper: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, id: str) -> bool:
        return id in self._open

    async def begin(self, env: Any = None) -> Session:
        """A new session; `env` is the fork that it goes on with. Raises: TooMany."""
        if self._sweeper is None:
            self._sweeper = asyncio.ensure_future(self._sweep())
        if len(self._open) >= self.bounds.sessions:
            raise TooMany(f"the server has {self.bounds.sessions} sessions, as many as it may have: try again later")
        episodes = Episodes(
            self._pool, self.bounds.episode_s, self.bounds.saved_bytes, takes_any_task=self._takes_any_task
        )
        session = Session(episodes, self.bounds)
        self._open[session.id] = session
        episodes.forked, episodes.saved_in = self._forked, self._saved_in
        if env is not None:
            episodes.adopt(env)
        return session

    async def _forked(self, env: Any) -> str:
        return (await self.begin(env)).id

    def _saved_in(self, session: str, number: int) -> Any:
        """A state that a session saved; None if it is gone."""
        found = self._open.get(session)
        return None if found is None else found.episodes.saved.get(number)

    def get(self, id: str) -> Session:
        """Raises: NoSession."""
        session = self._open.get(id)
        if session is None:
            raise NoSession("there is no such session: it ended, or the server was started again")
        return session

    async def end(self, session: Session) -> None:
        if self._open.pop(session.id, None) is not None:
            await session.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = time.monotonic()
            for session in list(self._open.values()):
                if session.is_idle(now):
                    logger.info("a session was idle for %g s and has ended", self.bounds.idle_s)
                    try:
                        await self.end(session)
                    except Exception as error:  # the author's code raised: the other sessions still end
                        logger.warning("an idle session could not be closed", exc_info=error)

    async def aclose(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        for session in list(self._open.values()):
            await self.end(session)
        await self._pool.aclose()
