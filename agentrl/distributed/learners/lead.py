"""The learner of rank 0: each of its calls is made by the other ranks too. Whoever uses it sees one learner."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import nn

from agentrl.distributed.learners.calls import Begin, Fill, Gather, Load, Update
from agentrl.distributed.learners.team import Team
from agentrl.learning.apart import ApartLearner
from agentrl.learning.learner import Learner, Metrics
from agentrl.learning.objectives.base import Objective
from agentrl.learning.parallel.sharded import copy_weights, is_sharded
from agentrl.learning.parallel.whole import in_parts, spread_weights, whole_state
from agentrl.learning.rows import Row


class _Leading(Learner):
    """What the learners of rank 0 have in common."""

    _team: Team
    _given: nn.Module
    """The model of this process, which a policy may use."""

    async def fill(self, rows: Sequence[Row], column: str) -> list[Row]:
        with self._team.call(Fill(rows, column)):
            return await super().fill(rows, column)

    async def update(self, rows: Sequence[Row], objective: Objective) -> Metrics:
        with self._team.call(Update(rows, objective, self.num_steps, self.total_steps)):
            metrics = await super().update(rows, objective)
            if is_sharded(self.model):
                copy_weights(self.model, self._given)
            return metrics

    def state_dict(self) -> dict[str, Any]:
        if not is_sharded(self.model):
            return super().state_dict()
        with self._team.call(Gather()):
            return whole_state(self, super().state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(in_parts(self, state))

    @contextmanager
    def loading(self, file: Path, key: str) -> Iterator[None]:
        """Let the other ranks load their state from a file, in which this process finds its own.

        Args: key: of the state in the file.
        """
        with self._team.call(Load(str(file), key)):
            yield


class LeadLearner(_Leading):
    """Updates the model of this process, with the other ranks.

    Args:
        team: of this process.
        model: of this process; with `begin.shard` the learner has a copy, and the model takes its weights after every
            update.
        begin: what to learn.
        publish: as of `Learner`.
    """

    def __init__(self, team: Team, model: nn.Module, begin: Begin, publish: Callable[[], int] | None = None) -> None:
        self._team, self._given = team, model
        with team.call(begin):
            own = deepcopy(model) if begin.shard else model
            spread_weights(own, team.ranks)
            super().__init__(
                own,
                begin.settings,
                begin.objective,
                publish=publish,
                ranks=team.ranks,
                shard=begin.shard,
                **begin.numbers,
            )


class LeadApartLearner(_Leading, ApartLearner):
    """Updates a copy of the model of this process, with the other ranks.

    Args: as of `LeadLearner`.
    """

    def __init__(self, team: Team, model: nn.Module, begin: Begin) -> None:
        self._team, self._given = team, model
        with team.call(begin):
            spread_weights(model, team.ranks)
            ApartLearner.__init__(self, model, begin.settings, begin.objective, ranks=team.ranks, **begin.numbers)
