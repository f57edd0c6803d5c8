"""Groups of episodes that are there already: of stores, or listed otherwise. Plays nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from pathlib import Path

import numpy as np

from agentrl.rollout.json_lines import canonical
from agentrl.rollout.sources.base import Source, State
from agentrl.rollout.sources.recorded import Recorded, check_digest, digest_of
from agentrl.seeds import Purpose, sequence
from agentrl.trajectory import Trajectory, TrajectoryGroup


class Listed(Source):
    """Given groups, over and over.

    Args:
        groups: at least one.
        files: from which they were read; a place in other data is refused.
        seed: of the order, which is new each time; None keeps the order of `groups`.
    """

    def __init__(
        self, groups: Sequence[TrajectoryGroup], *, files: Sequence[Path] = (), seed: int | None = None
    ) -> None:
        self._groups, self._files, self._seed = list(groups), list(files), seed
        self._digest = digest_of(self._files)
        self._next = 0

    def take(self, n: int) -> Awaitable[list[TrajectoryGroup]]:
        first, self._next = self._next, self._next + n
        return self._at([self._number(place) for place in range(first, first + n)])

    def _number(self, place: int) -> int:
        epoch, index = divmod(place, len(self._groups))
        if self._seed is None:
            return index
        rng = np.random.default_rng(sequence(self._seed, Purpose.TASK_ORDER, epoch))
        return int(rng.permutation(len(self._groups))[index])

    async def _at(self, numbers: list[int]) -> list[TrajectoryGroup]:
        return [self._groups[number] for number in numbers]

    def state_dict(self) -> State:
        return {"next": self._next, "data": self._digest}

    def load_state_dict(self, state: State) -> None:
        check_digest(state["data"], self._digest, self._files)
        self._next = state["next"]


class Stored(Listed):
    """Recorded episodes, in groups that began alike: the same task, first messages and tools.

    Args: data: which episodes of which stores.
    Raises: StoreError if there are none.
    """

    def __init__(self, data: Sequence[Recorded]) -> None:
        episodes = [episode for recorded in data for episode in recorded.read()]
        super().__init__(grouped(episodes), files=[recorded.file for recorded in data])


def grouped(episodes: Sequence[Trajectory]) -> list[TrajectoryGroup]:
    """Groups of episodes that began alike, in the order of the first of each."""
    groups: dict[tuple[str, str, bytes], list[Trajectory]] = {}
    for episode in episodes:
        began = canonical([episode.turns[0].observation, episode.tools, episode.task.fingerprint])
        groups.setdefault((episode.env.key, episode.task.id, began), []).append(episode)
    return [TrajectoryGroup(members[0].group_id, members) for members in groups.values()]
