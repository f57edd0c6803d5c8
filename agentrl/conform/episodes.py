"""The episodes that every door must repeat: played here, and what a door carries of them as a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from msgspec import structs

from agentrl.env.base import Env
from agentrl.errors import EnvFault
from agentrl.messages import Action
from agentrl.policy.base import Policy
from agentrl.policy.scripted import OraclePolicy, RandomPolicy
from agentrl.rollout.episode import run_episode
from agentrl.rollout.json_lines import canonical
from agentrl.rollout.records import trajectory_record
from agentrl.trajectory import EnvRef, Labels, Trajectory

_SEED = 20_261_127


def hash_of(value: Any) -> str:
    """A hash of a JSON value."""
    return hashlib.blake2b(canonical(value), digest_size=8).hexdigest()


def episode_hash(episode: Trajectory) -> str:
    """A hash of all that an episode's record holds but names, labels, costs and the sampling.

    Episodes of the same environment, task, seed and actions have the same hash, wherever they were played.
    """
    turns = [without_costs(turn) for turn in trajectory_record(episode).turns]
    record = trajectory_record(
        replace(episode, group_id="", episode_id="", labels=Labels(), sampling=None, fork=None, turns=[])
    )
    record.turns = turns
    last = episode.turns[-1].next_observation if episode.turns else ()
    return hash_of([record, last, episode.reward, episode.success])


def without_costs(turn: Any) -> Any:
    """A turn's record without the seconds it took, and the tokens that the policy counted or had in its cache."""
    turn.policy_s = turn.env_s = 0.0
    turn.action = structs.replace(turn.action, usage=None)
    return turn


def transcript(episode: Trajectory) -> list[Any]:
    """What every door with steps carries: (texts, reward, whether it is over) after the reset and each action."""
    seen: list[Any] = [[[m.content for m in episode.turns[0].observation], 0.0, False]]
    for index, turn in enumerate(episode.turns):
        is_last = index == len(episode.turns) - 1
        seen.append([[m.content for m in turn.next_observation], turn.reward, is_last])
    return seen


async def played(env: Env, count: int) -> list[Trajectory]:
    """Episodes by the oracle and by chance, on tasks of the last split.

    Raises: EnvFault if one of them ends in a fault.
    """
    tasks = env.tasks.split(env.tasks.splits[-1])
    policies: list[Policy] = [RandomPolicy(seed=_SEED)]
    if callable(getattr(env.unwrapped, "oracle", None)):
        policies.insert(0, OraclePolicy())
    found = []
    for index in range(count):
        task = tasks[index % len(tasks)]
        episode = await run_episode(env, policies[index % len(policies)], task, _SEED + index, episode_id=str(index))
        if episode.status == "fault":
            raise EnvFault(f"episode {index} on task {task.id!r} ended in a fault: {episode.ending.detail}")
        found.append(episode)
    return found


class Again(Policy):
    """Takes the actions of an episode again."""

    name = "again"

    def __init__(self, episode: Trajectory) -> None:
        self._actions: list[Action] = [turn.action for turn in episode.turns]

    async def act(self, messages: Any, tools: Any, *, episode_id: str, sampling: Any = None) -> Action:
        turn = sum(message.role == "assistant" for message in messages)
        found: Action = self._actions[min(turn, len(self._actions) - 1)]
        return found


async def again(env: Env, episodes: Sequence[Trajectory], ref: EnvRef | None = None) -> list[Trajectory]:
    """The same tasks, seeds and actions on another instance."""
    return [await run_episode(env, Again(e), e.task, e.seed, ref=ref, episode_id=e.episode_id) for e in episodes]
