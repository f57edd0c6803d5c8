"""The contract of sources: groups of episodes in an order fixed by a seed. Owns no concurrency."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Collection, Iterable
from typing import Any

from agentrl.trajectory import TrajectoryGroup

State = dict[str, Any]
"""Plain JSON."""


class Source(ABC):
    """Where groups come from."""

    @abstractmethod
    def take(self, n: int) -> Awaitable[list[TrajectoryGroup]]:
        """The next `n` groups.

        A plain `def`: which groups it means is settled when it returns, so `state_dict` is then the place behind
        them. Calls may overlap; a call says that the last batch has trained.
        """

    @abstractmethod
    def state_dict(self) -> State:
        """The place behind the groups taken so far."""

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Go on from a place."""

    async def aclose(self) -> None:
        """Stop what is running."""


async def gathered(waits: Iterable[Awaitable[TrajectoryGroup]]) -> list[TrajectoryGroup]:
    """The groups, in the order in which they were asked for. If one fails, the others are cancelled."""
    groups = [asyncio.ensure_future(wait) for wait in waits]
    try:
        return list(await asyncio.gather(*groups))
    except BaseException:
        await stopped(groups)
        raise


async def stopped(groups: Collection[asyncio.Future[TrajectoryGroup]]) -> None:
    """Cancel what still runs and wait for its end."""
    for group in groups:
        group.cancel()
    await asyncio.gather(*groups, return_exceptions=True)


async def only(groups: Awaitable[list[TrajectoryGroup]]) -> TrajectoryGroup:
    """The one group of a `take(1)`."""
    return (await groups)[0]
