"""Seeds and task order of a run: every random stream is a function of the run's seed and a purpose."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np

from agentrl.trajectory import Task


class Purpose(IntEnum):
    """What a random stream is for; the numbers are part of every recorded run and never change."""

    MODEL = 0
    DEMONSTRATIONS = 1
    WARM_START_ORDER = 2
    TASK_ORDER = 3
    GROUPS = 4
    EVALUATION = 5


def sequence(seed: int, purpose: Purpose, *key: int) -> np.random.SeedSequence:
    """The seed sequence of a purpose, and of a step or index within it."""
    return np.random.SeedSequence(seed, spawn_key=(int(purpose), *key))


def integer(seed: int, purpose: Purpose, *key: int) -> int:
    """A 32-bit seed of a purpose."""
    return int(sequence(seed, purpose, *key).generate_state(1)[0])


class TaskOrder:
    """An endless order of tasks: every epoch is a new permutation, all of it a function of the seed."""

    def __init__(self, tasks: Sequence[Task], seed: int) -> None:
        if not tasks:
            raise ValueError("the train split is empty: there is nothing to train on")
        self._tasks, self._seed = tasks, seed
        self._epoch, self._order = -1, np.empty(0, int)

    def take(self, cursor: int, count: int) -> list[Task]:
        """The tasks at positions `cursor` to `cursor + count` of the order."""
        return [self._at(position) for position in range(cursor, cursor + count)]

    def _at(self, position: int) -> Task:
        epoch, index = divmod(position, len(self._tasks))
        if epoch != self._epoch:
            rng = np.random.default_rng(sequence(self._seed, Purpose.TASK_ORDER, epoch))
            self._epoch, self._order = epoch, rng.permutation(len(self._tasks))
        return self._tasks[int(self._order[index])]
