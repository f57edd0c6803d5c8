"""Learning curves of credit estimators at equal tokens: an arm for each, from one model. Owns their configuration.

The runs are `arms`'; how the curves are read is `agentrl.bench.credit_meter.curves`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentrl.errors import ConfigError, did_you_mean
from agentrl.training.algorithms import ALGORITHMS
from agentrl.training.plan import TrainConfig
from agentrl.training.sweeps.arms import Arm

_MOST_STEPS = 1000
"""Most steps of a run: more than its tokens allow."""


def curve_arms(
    env: str,
    trained: Mapping[str, Any],
    estimators: Sequence[str],
    tokens: int,
    *,
    prompts_per_step: int = 4,
    tasks: int = 200,
) -> list[Arm]:
    """One arm for each estimator, trained from a model folder until it has sampled its tokens.

    Each trains as the algorithm of its name does, with the same batches and a constant rate; greedy baselines and the
    continuations of forks count as tokens. Nothing is evaluated, chosen or stopped in between.

    Args:
        env: of the runs.
        trained: further sections: `model`, whose `path` is the folder of the policy that was measured, and `sampling`.
        estimators: names; the first is the one that others are compared with.
        tokens: sampled in each run.
        prompts_per_step: groups of one step.
        tasks: held-out tasks of the evaluation at the end.
    Raises: ConfigError if no algorithm has the name of an estimator, or a run could not begin.
    """
    arms = []
    for name in estimators:
        if name not in ALGORITHMS.names:
            raise ConfigError(
                f"curves train the algorithm that an estimator is named after, and there is no {name!r}."
                f"{did_you_mean(name, ALGORITHMS.names)}"
            )
        stage = {
            "kind": "reinforce",
            "algorithm": name,
            "steps": _MOST_STEPS,
            "max_sampled_tokens": tokens,
            "playing": {"prompts_per_step": prompts_per_step},
            "learner": {"schedule": {"name": "constant"}},
        }
        table = {
            "env": {"id": env},
            **trained,
            "run": {"evaluate_every": 0, "record_trajectories": False, "tensorboard": False, "keep_checkpoints": 1},
            "stages": {"rl": stage, "after": {"kind": "evaluate", "num_tasks": tasks}},
        }
        arms.append(Arm(name, "", TrainConfig.of(table)))
    return arms
