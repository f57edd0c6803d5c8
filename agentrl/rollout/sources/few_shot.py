"""Demonstrations shown before the task in training episodes, fewer and fewer. Owns which are shown, trains on none."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agentrl.config import Count
from agentrl.errors import ConfigError
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy, SamplingParams
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.sources.demonstrations import Demonstrations
from agentrl.rollout.sources.tasks import Player
from agentrl.seeds import Purpose, sequence
from agentrl.trajectory import EnvRef, Task, TrajectoryGroup


@dataclass(frozen=True)
class FewShot:
    """Solved episodes of other tasks stand before each training episode as earlier turns of the conversation.

    Their tokens are context: they never train. Evaluations never show any.

    Source: Ye et al. 2026, arXiv:2603.08068 (ICRL: few-shot rollouts whose examples are gradually reduced to none);
        the linear schedule and demonstrations played by the environment's own script are ours.

    Attributes:
        count: demonstrations in the first steps.
        steps: steps over which they decrease to 0.
        demonstrator: the environment's method that plays them.
        pool: how many are played, at first, to choose from.
    """

    count: Count = 3
    steps: Count = 40
    demonstrator: str = "oracle"
    pool: Count = 32

    def shown(self, step: int) -> int:
        """Demonstrations of each episode in a step, counted from 0."""
        return max(0, math.ceil(self.count * (1 - step / self.steps)))


class FewShotRollouts:
    """Plays requests as `Rollouts.run` does, with demonstrations before each conversation.

    Which ones is a function of the seed and the group's number. All episodes of a group see the same.

    Args:
        rollouts: gives the policy and the limit of concurrency; stays open.
        env: of the demonstrations and, where a request names none, of the episodes.
        tasks: that are demonstrated; one is never shown before itself.
        settings: how many.
        seed: of the choice.
        groups_per_step: group numbers that make up a step, on average.
    """

    def __init__(
        self,
        rollouts: Player,
        env: EnvRef,
        tasks: Sequence[Task],
        settings: FewShot,
        *,
        seed: int,
        groups_per_step: float,
    ) -> None:
        self._env, self._tasks, self._settings, self._seed = env, tasks, settings, seed
        self._groups_per_step = groups_per_step
        self._policy = _Shown(rollouts.policy)
        self._inner = Rollouts(env, self._policy, max_concurrency=rollouts.max_concurrency, sampling=rollouts.sampling)
        self._played: list[tuple[str, tuple[Message, ...]]] | None = None
        self._playing = asyncio.Lock()

    async def run(self, requests: Iterable[GroupRequest], *, judged: bool = True) -> list[TrajectoryGroup]:
        """The groups of requests whose ids end in `-NUMBER` or are a number, as those of `TaskGroups` do."""
        asked = list(requests)
        for request in asked:
            self._policy.before[request.group_id] = await self._chosen(request)
        try:
            return await self._inner.run(asked, judged=judged)
        finally:
            for request in asked:
                self._policy.before.pop(request.group_id, None)

    async def aclose(self) -> None:
        """Stop what is running and close the environments."""
        await self._inner.aclose()

    async def _chosen(self, request: GroupRequest) -> tuple[Message, ...]:
        number = int(request.group_id.rpartition("-")[2])
        count = self._settings.shown(int(number / self._groups_per_step))
        if not count:
            return ()
        others = [messages for task, messages in await self._demonstrations() if task != request.task.id]
        rng = np.random.default_rng(sequence(self._seed, Purpose.FEW_SHOT, number))
        places = rng.permutation(len(others))[:count]
        return tuple(message for place in places for message in others[place])

    async def _demonstrations(self) -> list[tuple[str, tuple[Message, ...]]]:
        """The task and the messages of each demonstration that solved it; played once."""
        async with self._playing:
            if self._played is None:
                shares = {self._settings.demonstrator: 1.0}
                seed = sequence(self._seed, Purpose.FEW_SHOT)
                source = Demonstrations(self._env, self._tasks, shares, seed=seed)
                groups = await source.take(min(self._settings.pool, len(self._tasks)))
                self._played = [_shown(t.task, t.messages()) for g in groups for t in g.trajectories if t.success]
                if len(self._played) < 2:
                    raise ConfigError(
                        f"few_shot: {self._settings.demonstrator!r} solved {len(self._played)} of {len(groups)} tasks, "
                        "and at least 2 are needed: name another demonstrator, or leave out few_shot"
                    )
            return self._played


def _shown(task: Task, messages: Sequence[Message]) -> tuple[str, tuple[Message, ...]]:
    """A demonstration without its system messages: the episode has its own."""
    return task.id, tuple(message for message in messages if message.role != "system")


class _Shown(Policy):
    """A policy that sees further messages before the conversation, behind its system messages.

    Args: policy: chooses the turns; stays open.
    Attributes: before: by group id.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy, self.name = policy, policy.name
        self.before: dict[str, tuple[Message, ...]] = {}

    @property
    def sampling(self) -> SamplingParams | None:
        """Of the policy."""
        return getattr(self._policy, "sampling", None)

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, object]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        before = self.before.get(episode_id.rpartition("#")[0].rpartition("/")[0], ())
        system = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
        shown = [*messages[:system], *before, *messages[system:]] if before else messages
        action = await self._policy.act(shown, tools, episode_id=episode_id, sampling=sampling)
        if before and action.finish_reason == "refused" and not any(m.role == "assistant" for m in messages):
            raise ConfigError("few_shot: the model's chat template refuses the demonstrations: leave out few_shot")
        return action

    async def release(self, episode_id: str) -> None:
        await self._policy.release(episode_id)
