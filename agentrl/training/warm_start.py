"""Supervised warm start: demonstrations from an environment's own scripts, as token-exact rows.

Owns collecting demonstrations and their order over the epochs; the update is the learner's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from msgspec import structs

from agentrl.env.base import Env
from agentrl.errors import ConfigError, did_you_mean
from agentrl.messages import Action, Message
from agentrl.policy.scripted import OraclePolicy
from agentrl.rollout.runner import GroupRequest, Rollouts
from agentrl.trajectory import Task, Trajectory, Turn, context_after


class Renderer(Protocol):
    """The part of a chat format that demonstrations need."""

    def render_first(self, messages: Sequence[Message], tools: Sequence[Mapping[str, object]]) -> list[int]: ...
    def render_more(self, new_messages: Sequence[Message]) -> list[int]: ...
    def render_action(self, action: Action) -> list[int]: ...


def check_demonstrators(env: Env, shares: Mapping[str, float]) -> None:
    """Raise ConfigError if the environment has no such demonstrator, or a share is not positive."""
    for name, share in shares.items():
        if not callable(getattr(env, name, None)):
            raise ConfigError(
                f"warm_start.demonstrators: {type(env).__name__} has no method {name!r}."
                f"{did_you_mean(name, env.demonstrators)} A demonstrator takes the messages and returns an action."
            )
        if share <= 0:
            raise ConfigError(f"warm_start.demonstrators.{name} must be a positive share, got {share}")


async def collect_demonstrations(
    make_env: Callable[[], Env],
    env_id: str,
    tasks: Sequence[Task],
    shares: Mapping[str, float],
    *,
    num_episodes: int,
    seed: np.random.SeedSequence,
    max_concurrency: int = 64,
) -> list[Trajectory]:
    """Play demonstrations on training tasks.

    Args:
        shares: relative share of each demonstrator method of the environment.
        num_episodes: demonstrations wanted; tasks repeat, with new seeds, where there are fewer.
        seed: of the order of tasks, the episodes' seeds and the choice of demonstrators.
    Returns: trajectories without token ids, failed habits included: a habit is what they show.
    """
    rng = np.random.default_rng(seed)
    policy = OraclePolicy(dict(shares), seed=int(rng.integers(2**31)))
    order = [tasks[i] for _ in range(-(-num_episodes // len(tasks))) for i in rng.permutation(len(tasks))]
    seeds = rng.integers(2**31, size=num_episodes)
    requests = [
        GroupRequest(task, int(episode_seed), 1, f"demo-{index}")
        for index, (task, episode_seed) in enumerate(zip(order, seeds, strict=False))
    ]
    async with Rollouts(make_env, policy, env_id=env_id, max_concurrency=max_concurrency) as rollouts:
        groups = await rollouts.run(requests)
    return [t for group in groups for t in group.trajectories if t.status != "fault"]


def with_tokens(trajectory: Trajectory, chat_format: Renderer) -> Trajectory:
    """The trajectory with prompt and action ids, as the policy would have seen and sampled them."""
    turns: list[Turn] = []
    context: tuple[int, ...] = ()
    for turn in trajectory.turns:
        if not turns:
            prompt = tuple(chat_format.render_first(turn.observation, trajectory.tools))
        else:
            prompt = (*context, *chat_format.render_more(turn.observation))
        sampled = tuple(chat_format.render_action(turn.action))
        action = structs.replace(turn.action, prompt_ids=prompt, token_ids=sampled, logprobs=(0.0,) * len(sampled))
        turns.append(structs.replace(turn, action=action))
        context = context_after(action)
    return replace(trajectory, turns=turns)


def epoch_order(seed: np.random.SeedSequence, size: int, epochs: int) -> np.ndarray:
    """Indices of the demonstrations in training order: (epochs * size,) int, each epoch shuffled."""
    rng = np.random.default_rng(seed)
    return np.concatenate([np.empty(0, int), *(rng.permutation(size) for _ in range(epochs))])
