"""Demonstrations that an environment's own scripts play. Owns which are played, in what order."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from agentrl.env.base import Env
from agentrl.errors import ConfigError, did_you_mean
from agentrl.policy.scripted import OraclePolicy
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.sources.base import Source, State
from agentrl.trajectory import EnvRef, Labels, Task, TrajectoryGroup


def check_demonstrators(env: Env, shares: Mapping[str, float], key: str = "demonstrators") -> None:
    """Raise ConfigError if the environment has no such demonstrator, or a share is not positive.

    Args:
        env: an instance.
        shares: relative share of each demonstrator method.
        key: of the shares in the configuration, for messages.
    """
    for name, share in shares.items():
        if not callable(getattr(env, name, None)):
            raise ConfigError(
                f"{key}: {type(env).__name__} has no method {name!r}."
                f"{did_you_mean(name, env.demonstrators)} A demonstrator takes the messages and returns an action."
            )
        if share <= 0:
            raise ConfigError(f"{key}.{name} must be a positive share, got {share}")


class Demonstrations(Source):
    """Groups of one demonstration each. Failed episodes stay: a demonstrator may show a habit that fails.

    Tasks repeat, with new seeds, where there are fewer than demonstrations. Trajectories have no token ids.

    Args:
        env: which environment.
        tasks: of it.
        shares: relative share of each demonstrator method of the environment.
        seed: of the order of tasks, the episodes' seeds and the choice of demonstrators.
        labels: recorded on each episode.
    """

    def __init__(
        self,
        env: EnvRef,
        tasks: Sequence[Task],
        shares: Mapping[str, float],
        *,
        seed: np.random.SeedSequence,
        labels: Labels = Labels(),  # noqa: B008 (frozen)
        max_concurrency: int = 64,
    ) -> None:
        self._env, self._tasks = env, tasks
        self._labels = replace(labels, mode="demonstration")
        self._max_concurrency = max_concurrency
        self._seed = seed
        self._begin()
        self._policy = OraclePolicy(dict(shares), seed=self._policy_seed)

    def _begin(self) -> None:
        self._rng = np.random.default_rng(self._seed)
        self._policy_seed = int(self._rng.integers(2**31))
        self._taken: list[int] = []

    def take(self, n: int) -> Awaitable[list[TrajectoryGroup]]:
        return self._play(self._draw(n))

    def _draw(self, n: int) -> list[GroupRequest]:
        first = sum(self._taken)
        self._taken.append(n)
        passes = -(-n // len(self._tasks))
        order = [self._tasks[i] for _ in range(passes) for i in self._rng.permutation(len(self._tasks))]
        seeds = self._rng.integers(2**31, size=n)
        return [
            GroupRequest(task, int(episode_seed), 1, f"demo-{index}", self._labels)
            for index, (task, episode_seed) in enumerate(zip(order, seeds, strict=False), start=first)
        ]

    async def _play(self, requests: Sequence[GroupRequest]) -> list[TrajectoryGroup]:
        async with Rollouts(self._env, self._policy, max_concurrency=self._max_concurrency) as rollouts:
            return await rollouts.run(requests)

    def state_dict(self) -> State:
        return {"taken": list(self._taken)}

    def load_state_dict(self, state: State) -> None:
        self._begin()
        for n in state["taken"]:
            self._draw(n)
