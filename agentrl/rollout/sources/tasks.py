"""The order in which a run takes its training tasks: a function of the seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agentrl.seeds import Purpose, sequence
from agentrl.trajectory import Task


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
