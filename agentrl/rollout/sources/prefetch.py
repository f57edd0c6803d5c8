"""Groups begun ahead of their use, so that sampling and learning overlap. Owns the bound on how old they get."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable

from agentrl.rollout.sources.base import Source, State, gathered, only, stopped
from agentrl.trajectory import TrajectoryGroup


class Prefetch(Source):
    """Begins groups at most `max_lag` batches ahead and hands them out in the order in which they began.

    No token is older than `max_lag` updates, also when groups end in another order. It reads no version numbers: a
    call of `take` means that the last batch has trained.

    Args:
        source: whose groups; closed with this one.
        max_lag: batches; 0 begins nothing ahead.
    """

    def __init__(self, source: Source, max_lag: int) -> None:
        if max_lag < 0:
            raise ValueError(f"max_lag must be 0 or more, got {max_lag}")
        self._source, self._max_lag = source, max_lag
        self._ahead: deque[tuple[State, asyncio.Future[TrajectoryGroup]]] = deque()
        self._running: set[asyncio.Future[TrajectoryGroup]] = set()

    def take(self, n: int) -> Awaitable[list[TrajectoryGroup]]:
        while len(self._ahead) < (self._max_lag + 1) * n:
            self._ahead.append((self._source.state_dict(), self._begun()))
        return gathered([self._ahead.popleft()[1] for _ in range(n)])

    def _begun(self) -> asyncio.Future[TrajectoryGroup]:
        group = asyncio.ensure_future(only(self._source.take(1)))
        self._running.add(group)
        group.add_done_callback(self._running.discard)
        return group

    def state_dict(self) -> State:
        """The position before the oldest group that was begun and not handed out; a resumed run begins it again."""
        return self._ahead[0][0] if self._ahead else self._source.state_dict()

    def load_state_dict(self, state: State) -> None:
        self._source.load_state_dict(state)

    async def aclose(self) -> None:
        """Stop what is running; a later `take` begins again what was not handed out."""
        place, groups = self.state_dict(), {*self._running, *(group for _, group in self._ahead)}
        self._ahead.clear()
        await stopped(groups)
        self._source.load_state_dict(place)
        await self._source.aclose()
