"""Demonstrations of a step's own tasks, which train next to its sampled episodes. The loss is `objectives.expert`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from agentrl.config import Positive
from agentrl.env.base import Env
from agentrl.errors import ConfigError
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.expert import EXPERT
from agentrl.learning.rows import Array, Row
from agentrl.policy.scripted import OraclePolicy
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.sources.demonstrations import check_demonstrators
from agentrl.training.stages.base import Context
from agentrl.trajectory import Labels, TrajectoryGroup


@dataclass(frozen=True)
class ExpertTerm:
    """Cross-entropy on one demonstration of each task of a step, added to the policy loss.

    Attributes:
        demonstrator: method of the environment that plays them.
        weight: of the mean cross-entropy of their tokens, in nats.
    """

    demonstrator: str = "oracle"
    weight: Positive = 0.1

    def check(self, key: str, probe: Env, learner: LearnerSettings) -> None:
        """Refuse settings that cannot work. Raises: ConfigError.

        Args:
            key: of these settings in the TOML, for messages.
            probe: an instance of the run's environment.
            learner: settings of the stage's learner.
        """
        check_demonstrators(probe, {self.demonstrator: 1.0}, f"{key}.demonstrator")
        if learner.num_minibatches > 1:
            raise ConfigError(
                f"{key}: minibatches are scaled by the weights of sampled tokens, which demonstrations do not have: "
                "set learner.num_minibatches = 1, or leave out expert"
            )

    async def played(self, context: Context, name: str, groups: Sequence[TrajectoryGroup]) -> list[TrajectoryGroup]:
        """One demonstration of the task of each group, in the same environment and with the same seed.

        Args: name: of the stage.
        """
        labels = Labels(name, mode="demonstration")
        first = [group.trajectories[0] for group in groups]
        requests = [
            GroupRequest(t.task, t.seed, 1, f"expert-{n}", labels, env=t.env) for n, t in enumerate(first) if t.task
        ]
        async with Rollouts(context.env, OraclePolicy({self.demonstrator: 1.0})) as rollouts:
            return await rollouts.run(requests)


def without_expert(rows: Sequence[Row]) -> list[Row]:
    """Rows of sampled episodes, whose tokens have no weight in the expert term."""
    return [row.with_columns(**{EXPERT: np.zeros(len(row), np.float32)}) for row in rows]


async def with_expert(rows: Sequence[Row], demonstrations: Sequence[Row], learner: Learner) -> list[Row]:
    """Sampled rows and demonstrations behind them, with the columns that either loss reads.

    A demonstration has the coefficient 0 and no advantage in the policy loss; its probability ratio is 1.

    Args:
        rows: with every column that the objective reads.
        demonstrations: as the context builds them.
    """
    if not demonstrations:
        return list(rows)
    total = sum(row.num_trained for row in demonstrations)
    behind = 1 + max(row.trajectory for row in rows)
    known = rows[0].columns
    made = []
    for row in await learner.fill(demonstrations, "old_logprobs"):
        other: dict[str, Array] = {n: np.zeros(len(row), v.dtype) for n, v in known.items() if n not in row.columns}
        weights: dict[str, Array] = {
            "coefficients": np.zeros(len(row), np.float32),
            EXPERT: row.mask.astype(np.float32) / np.float32(total),
        }
        number = row.trajectory + behind
        made.append(replace(row.with_columns(**{**other, **weights}), trajectory=number, unit=number))
    return [*rows, *made]
