"""Tasks, turns, trajectories and groups: what a rollout produces. Owns their JSON form, not the files.

`Turn.action` holds the sampled ids; they are immutable from here to the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec import Struct, structs

from agentrl.messages import Action, Message, ToolCall

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
    """Trajectories of the same task and seed, compared with each other; any size from 1."""

    group_id: str
    trajectories: list[Trajectory]

    @property
    def rewards(self) -> list[float]:
        return [trajectory.reward for trajectory in self.trajectories]


def _calls_from_json(records: Sequence[Mapping[str, Any]]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(**record) for record in records)


def _message_from_json(record: Mapping[str, Any]) -> Message:
    return Message(**{**record, "tool_calls": _calls_from_json(record.get("tool_calls", ()))})


class _TokenAction(Action, frozen=True, kw_only=True):
    """The JSON form of an action with ids: `prompt_ids` are those after `prompt_prefix` ids of the context."""

    prompt_prefix: int


class _TurnRecord(Struct, omit_defaults=True):
    """The JSON form of a turn; the next observation is the next turn's own."""

    observation: tuple[Message, ...]
    action: Action
    reward: float
    reward_components: Mapping[str, float]
    policy_s: float
    env_s: float
    state_key: str | None = None


class _TrajectoryRecord(Struct):
    """The JSON form of a trajectory."""

    env_id: str
    task: Task
    seed: int
    status: Status
    reward: float
    success: bool
    group_id: str
    episode_id: str
    attempt: int
    error: str | None
    info: Mapping[str, Any]
    tools: Sequence[Mapping[str, Any]]
    turns: list[_TurnRecord]
    final_observation: tuple[Message, ...]


def _shared_prefix(before: Action | None, prompt: Sequence[int]) -> int:
    """How many leading ids of `prompt` are exactly the context after `before`: all of that context, or 0."""
    if before is None:
        return 0
    seen, sampled = before.prompt_ids or (), before.token_ids or ()
    middle, size = len(seen), len(seen) + len(sampled)
    if size > len(prompt) or tuple(prompt[:middle]) != tuple(seen) or tuple(prompt[middle:size]) != tuple(sampled):
        return 0
    return size


def _action_record(action: Action, before: Action | None) -> Action:
    if action.prompt_ids is None:
        return action
    prefix = _shared_prefix(before, action.prompt_ids)
    fields = structs.asdict(action)
    fields["prompt_ids"] = action.prompt_ids[prefix:]
    return _TokenAction(**fields, prompt_prefix=prefix)


def _action_from_json(record: Mapping[str, Any], context: Sequence[int]) -> Action:
    fields: dict[str, Any] = dict(record)
    prefix = fields.pop("prompt_prefix", None)
    if prefix is not None:
        fields["prompt_ids"] = (*context[:prefix], *fields["prompt_ids"])
    for name in ("token_ids", "logprobs"):
        if name in fields:
            fields[name] = tuple(fields[name])
    fields["tool_calls"] = _calls_from_json(fields.get("tool_calls", ()))
    return Action(**fields)


def _microseconds(seconds: float) -> float:
    """A duration to the microsecond; `round` takes three times as long."""
    return int(seconds * 1e6 + 0.5) / 1e6


def context_after(action: Action) -> tuple[int, ...]:
    """Ids the model has seen or sampled up to the end of this action."""
    return (*(action.prompt_ids or ()), *(action.token_ids or ()))


def trajectory_record(trajectory: Trajectory) -> Struct:
    """The JSON form of a trajectory, for a JSON encoder: fields at their defaults are left out of messages
    and actions, and prompt ids that extend the context exactly are stored once.
    """
    turns: list[_TurnRecord] = []
    before: Action | None = None
    for turn in trajectory.turns:
        turns.append(
            _TurnRecord(
                turn.observation,
                _action_record(turn.action, before),
                turn.reward,
                turn.reward_components,
                _microseconds(turn.policy_s),
                _microseconds(turn.env_s),
                turn.state_key,
            )
        )
        before = turn.action
    return _TrajectoryRecord(
        env_id=trajectory.env_id,
        task=trajectory.task,
        seed=trajectory.seed,
        status=trajectory.status,
        reward=trajectory.reward,
        success=trajectory.success,
        group_id=trajectory.group_id,
        episode_id=trajectory.episode_id,
        attempt=trajectory.attempt,
        error=trajectory.error,
        info=trajectory.info,
        tools=trajectory.tools,
        turns=turns,
        final_observation=trajectory.turns[-1].next_observation if trajectory.turns else (),
    )


def trajectory_from_json(record: Mapping[str, Any]) -> Trajectory:
    """Read what `trajectory_record` describes; token ids come back exactly."""
    turns: list[Turn] = []
    context: tuple[int, ...] = ()
    for item in record["turns"]:
        action = _action_from_json(item["action"], context)
        observation = tuple(_message_from_json(m) for m in item["observation"])
        if turns:
            turns[-1].next_observation = observation
        turns.append(
            Turn(
                observation=observation,
                action=action,
                reward=item["reward"],
                reward_components=item["reward_components"],
                state_key=item.get("state_key"),
                policy_s=item["policy_s"],
                env_s=item["env_s"],
            )
        )
        context = context_after(action)
    if turns:
        turns[-1].next_observation = tuple(_message_from_json(m) for m in record["final_observation"])
    return Trajectory(
        env_id=record["env_id"],
        task=Task(**record["task"]),
        seed=record["seed"],
        turns=turns,
        status=record["status"],
        group_id=record["group_id"],
        episode_id=record["episode_id"],
        attempt=record["attempt"],
        error=record["error"],
        info=record["info"],
        tools=record["tools"],
    )
