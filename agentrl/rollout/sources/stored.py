"""Groups that were recorded before, read from a store in the order in which they ended."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

from agentrl.errors import ConfigError, StoreError
from agentrl.rollout.sources.base import Source, State
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import Trajectory, TrajectoryGroup


def check_stored(path: str | Path, stage: str | None, key: str) -> None:
    """Raise ConfigError if there is no store, or it has no episodes of the stage.

    Args: key: under which the path stands in the configuration.
    """
    try:
        Stored(path, stage)
    except StoreError as error:
        raise ConfigError(f"{key}: {error}") from error


class Stored(Source):
    """Recorded groups, over and over; attempts that were superseded are left out.

    Args:
        path: a `trajectories.jsonl`.
        stage: only episodes of this stage; all by default.
    Raises: StoreError if there is none.
    """

    def __init__(self, path: str | Path, stage: str | None = None) -> None:
        groups: dict[tuple[str, int, str], list[Trajectory]] = {}
        for trajectory in TrajectoryStore(path).read(stage=stage):
            if not trajectory.labels.superseded:
                key = (trajectory.labels.stage, trajectory.labels.step, trajectory.group_id)
                groups.setdefault(key, []).append(trajectory)
        if not groups:
            raise StoreError(f"{path} holds no episodes{'' if stage is None else f' of stage {stage!r}'}")
        self._groups = [TrajectoryGroup(key[2], members) for key, members in groups.items()]
        self._next = 0

    def take(self, n: int) -> Awaitable[list[TrajectoryGroup]]:
        first, self._next = self._next, self._next + n
        return self._at([number % len(self._groups) for number in range(first, first + n)])

    async def _at(self, numbers: list[int]) -> list[TrajectoryGroup]:
        return [self._groups[number] for number in numbers]

    def state_dict(self) -> State:
        return {"next": self._next}

    def load_state_dict(self, state: State) -> None:
        self._next = state["next"]
