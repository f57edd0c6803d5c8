"""Groups of an environment's levels in order: the next level begins when this one is solved often enough."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from agentrl.config import Count, Fraction
from agentrl.rollout.sources.base import Source, State
from agentrl.rollout.sources.curriculum import pass_rate_of
from agentrl.trajectory import TrajectoryGroup

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Levels:
    """An argument of the environment that makes it harder, and when it does.

    Evaluations play the run's environment as `[env]` names it, whatever the level.

    Attributes:
        values: of the argument, from easy to hard. The last one stays.
        argument: of the environment's constructor.
        pass_rate: the next level begins when the mean pass rate of the last groups is at least this.
        groups: how many of them, at least; all are of the level.
    """

    values: tuple[int | str, ...]
    argument: str = "level"
    pass_rate: Fraction = 0.8
    groups: Count = 32

    def __post_init__(self) -> None:
        if len(self.values) < 2:
            raise ValueError(f"levels need at least two values, got {list(self.values)}")


class LevelGroups(Source):
    """Takes groups from the source of the level in progress. A call of `take` sees the groups that have ended before.

    Args:
        parts: a source for each level; closed with this one.
        settings: when to go on.
    """

    def __init__(self, parts: Sequence[Source], settings: Levels) -> None:
        self._parts, self._settings = list(parts), settings
        self._level, self._next = 0, 0
        self._rates: list[float] = []
        self._ended: dict[int, tuple[int, float | None]] = {}

    def take(self, n: int) -> Awaitable[list[TrajectoryGroup]]:
        self._remember()
        first, self._next = self._next, self._next + n
        return self._noted(first, self._level, self._parts[self._level].take(n))

    async def _noted(self, first: int, level: int, groups: Awaitable[list[TrajectoryGroup]]) -> list[TrajectoryGroup]:
        found = await groups
        self._ended |= {number: (level, pass_rate_of(group)) for number, group in enumerate(found, start=first)}
        return found

    def _remember(self) -> None:
        """Take the groups that have ended into the pass rates, in the order of their numbers; go on if that is due."""
        wanted = self._settings.groups
        for number in sorted(self._ended):
            level, rate = self._ended.pop(number)
            if level == self._level and rate is not None:
                self._rates = [*self._rates, rate][-wanted:]
        solved = len(self._rates) == wanted and sum(self._rates) / wanted >= self._settings.pass_rate
        if solved and self._level + 1 < len(self._parts):
            self._level, self._rates = self._level + 1, []
            logger.info("%s = %r begins", self._settings.argument, self._settings.values[self._level])

    def state_dict(self) -> State:
        self._remember()
        parts = [part.state_dict() for part in self._parts]
        return {"next": self._next, "level": self._level, "rates": list(self._rates), "parts": parts}

    def load_state_dict(self, state: State) -> None:
        self._next, self._level, self._rates = state["next"], state["level"], list(state["rates"])
        self._ended = {}
        for part, saved in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(saved)

    async def aclose(self) -> None:
        for part in self._parts:
            await part.aclose()
