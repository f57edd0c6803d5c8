"""Tasks, turns, trajectories and groups: what a rollout produces. Their JSON form is `agentrl.rollout.records`.

`Turn.action` holds the sampled ids; they are immutable from here to the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec import Struct

from agentrl.messages import Action, Message

Status = Literal["terminated", "truncated", "fault"]


@dataclass(frozen=True, slots=True)
class Task:
    """One problem of an environment.

    `data` is JSON-serialisable and is all that `start` needs; `id` is unique within the environment.
    """

    id: str
    split: str = "train"
    data: Mapping[str, Any] = field(default_factory=dict)


class Turn(Struct):
    """One model call and what came back.

    Attributes:
        observation: the messages that were new to the model at this turn.
        action: what it answered, with prompt ids, sampled ids and logprobs where known.
        reward: the environment's reward for this step, unit-free.
        reward_components: the named parts of that reward before weighting.
        next_observation: messages that the step produced: the next turn's observation.
        state_key: name of the environment's state before the action, for step-level baselines
            (GiGPO's anchor states); None where the environment has none.
        policy_s, env_s: wall seconds spent in the policy and in the environment.
    """

    observation: tuple[Message, ...]
    action: Action
    reward: float = 0.0
    reward_components: Mapping[str, float] = {}
    next_observation: tuple[Message, ...] = ()
    state_key: str | None = None
    policy_s: float = 0.0
    env_s: float = 0.0


@dataclass(slots=True)
class Trajectory:
    """The turns of one episode.

    `reward` is the sum of the turns' rewards. A `fault` has no meaningful reward and never trains or
    scores; `error` then says what failed. `group_id` names the task and seed it shares with others.
    """

    env_id: str
    task: Task
    seed: int
    turns: list[Turn] = field(default_factory=list)
    status: Status = "terminated"
    group_id: str = ""
    episode_id: str = ""
    attempt: int = 0
    error: str | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] = ()

    @property
    def reward(self) -> float:
        total = 0.0
        for turn in self.turns:
            total += turn.reward
        return total

    @property
    def success(self) -> bool:
        """The environment's verdict `info["success"]`, or a reward of at least 1."""
        verdict = self.info.get("success")
        return bool(verdict) if verdict is not None else self.status != "fault" and self.reward >= 1.0 - 1e-9

    @property
    def reward_components(self) -> dict[str, float]:
        """Named reward parts, summed over the turns."""
        total: dict[str, float] = {}
        for turn in self.turns:
            for name, value in turn.reward_components.items():
                total[name] = total.get(name, 0.0) + value
        return total

    @property
    def num_sampled_tokens(self) -> int:
        return sum(len(turn.action.token_ids or ()) for turn in self.turns)

    def messages(self) -> list[Message]:
        """The whole conversation: observations and actions in order, the final observation included."""
        conversation: list[Message] = []
        for turn in self.turns:
            conversation.extend(turn.observation)
            conversation.append(turn.action.to_message())
        if self.turns:
            conversation.extend(self.turns[-1].next_observation)
        return conversation


@dataclass(slots=True)
class TrajectoryGroup:
    """Trajectories of the same task and seed, compared with each other; any size from 1.

    `preferences` are (better, worse) indices into them.
    """

    group_id: str
    trajectories: list[Trajectory]
    preferences: tuple[tuple[int, int], ...] = ()

    @property
    def rewards(self) -> list[float]:
        return [trajectory.reward for trajectory in self.trajectories]


def context_after(action: Action) -> tuple[int, ...]:
    """Ids the model has seen or sampled up to the end of this action."""
    return (*(action.prompt_ids or ()), *(action.token_ids or ()))
