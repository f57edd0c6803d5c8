"""What a caller asks of the runner: groups of episodes, and the order in which their episodes begin."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, TrajectoryGroup


@dataclass(frozen=True, slots=True)
class Fork:
    """A turn of a recorded episode from which other episodes go on.

    Attributes:
        trajectory: the episode.
        turn: number of the first turn that is played anew, at least 1. The actions before it are taken again.
    """

    trajectory: Trajectory
    turn: int

    def __post_init__(self) -> None:
        if not 1 <= self.turn < len(self.trajectory.turns):
            raise ValueError(
                f"an episode of {len(self.trajectory.turns)} turns can be forked at the turns from 1 to "
                f"{len(self.trajectory.turns) - 1}, not at {self.turn}"
            )

    @property
    def origin(self) -> tuple[str, int]:
        """What `Trajectory.fork` of a continuation is."""
        return self.trajectory.episode_id, self.turn

    @property
    def beginning(self) -> Trajectory:
        """The episode up to the turn; it has not ended."""
        return replace(self.trajectory, turns=self.trajectory.turns[: self.turn], ending=Ending())


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """Episodes of one task and one seed, to be compared with each other.

    Attributes:
        task: what every episode starts from.
        seed: of the environment, the same for all; each episode samples from its own stream.
        size: number of episodes, at least 1.
        group_id: unique within a run; `TASK@SEED` where empty.
        labels: recorded on each trajectory, with its attempt.
        env: which environment; None is the runner's own.
        greedy: one further episode, the last of the group, at temperature 0 and labelled so: a baseline.
        branches: the first episodes begin each turn with the most likely first token, the next one, and so on, and go
            on greedily; the others are sampled.
        fork: the episodes continue another one of the same task and seed; None plays them from the beginning.
    """

    task: Task
    seed: int
    size: int = 1
    group_id: str = ""
    labels: Labels = Labels()
    env: EnvRef | None = None
    greedy: bool = False
    fork: Fork | None = None
    branches: int = 0

    @property
    def num_episodes(self) -> int:
        """Episodes of the group, the greedy one included."""
        return self.size + self.greedy

    def is_greedy(self, index: int) -> bool:
        """Whether the episode at this index is the greedy one."""
        return index >= self.size

    def __post_init__(self) -> None:
        if self.size < 1 or self.seed < 0:
            raise ValueError(f"size must be >= 1 and seed >= 0, got {self.size} and {self.seed}")
        if self.fork is not None and (self.fork.trajectory.task, self.fork.trajectory.seed) != (self.task, self.seed):
            raise ValueError("an episode is continued with its own task and seed, got others")
        if not self.group_id:
            object.__setattr__(self, "group_id", f"{self.task.id}@{self.seed}")


def sampling_seed(request: GroupRequest, index: int) -> int:
    """Seed of an episode's sampling stream: a function of task, seed, fork and index, never of the attempt."""
    entropy: tuple[int, ...] = (request.seed, index, zlib.crc32(request.task.id.encode()))
    if request.fork is not None:
        episode_id, turn = request.fork.origin
        entropy += (zlib.crc32(episode_id.encode()), turn)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


class PendingGroup:
    """A request and its trajectories, in the order of their index."""

    def __init__(self, number: int, request: GroupRequest) -> None:
        self.number, self.request = number, request
        self.places: list[Trajectory | None] = [None] * request.num_episodes
        self.missing = request.num_episodes

    def settle(self, index: int, trajectory: Trajectory) -> bool:
        """Put a trajectory in its place. Returns: whether the group is complete."""
        self.places[index] = trajectory
        self.missing -= 1
        return not self.missing

    def finished(self) -> TrajectoryGroup:
        return TrajectoryGroup(self.request.group_id, [place for place in self.places if place is not None])


Job = tuple[PendingGroup, int]


def jobs_of(requests: Iterable[GroupRequest]) -> Iterator[Job]:
    """Episodes in the order of their start; shared by all slots."""
    for number, request in enumerate(requests):
        if not isinstance(request, GroupRequest):
            raise TypeError(f"what is played is a GroupRequest(task, seed=...), got {request!r:.80}")
        group = PendingGroup(number, request)
        for index in range(request.num_episodes):
            yield group, index
