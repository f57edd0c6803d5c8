"""The contract of sources: groups of episodes in an order fixed by a seed. Owns no concurrency."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Collection, Sequence
from typing import Any

from agentrl.trajectory import TrajectoryGroup

State = dict[str, Any]
"""Plain JSON."""


class Source(ABC):
    """Where groups come from."""

    @abstractmethod
    def take(self, n: int) -> Awaitable[list[TrajectoryGroup]]:
        """The next `n` groups.

        A plain `def`: the groups are chosen when it returns, before they are awaited, so that `state_dict` is then the
        position after them. Calls may overlap; a call means that the last batch has trained.
        """

    @abstractmethod
    def state_dict(self) -> State:
        """The position after the groups that were taken."""

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Continue from a position of `state_dict`."""

    async def aclose(self) -> None:
        """Stop what is running."""


async def gathered(waits: Sequence[Awaitable[TrajectoryGroup]]) -> list[TrajectoryGroup]:
    """The groups, in the order in which they were asked for. If one fails, the others are cancelled."""
    if len(waits) == 1:
        return [await waits[0]]
    groups = [asyncio.ensure_future(wait) for wait in waits]
    try:
        return list(await asyncio.gather(*groups))
    except BaseException:
        await stopped(groups)
        raise


async def stopped(groups: Collection[asyncio.Future[TrajectoryGroup]]) -> None:
    """Cancel what still runs and wait for its end."""
    await asyncio.sleep(0)  # so that each has begun: Python warns of a coroutine that is dropped unawaited
    for group in groups:
        group.cancel()
    await asyncio.gather(*groups, return_exceptions=True)


async def only(groups: Awaitable[list[TrajectoryGroup]]) -> TrajectoryGroup:
    """The one group of a `take(1)`."""
    return (await groups)[0]
