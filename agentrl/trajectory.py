"""Tasks, turns, trajectories and groups: what a rollout produces. Owns their JSON form, not the files.

`Turn.action` holds the sampled ids; they are immutable from here to the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

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


@dataclass(slots=True)
class Turn:
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
    reward_components: Mapping[str, float] = field(default_factory=dict)
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


def _message_to_json(message: Message) -> dict[str, Any]:
    record: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        record["tool_calls"] = [_call_to_json(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        record["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        record["name"] = message.name
    if message.reasoning is not None:
        record["reasoning"] = message.reasoning
    return record


def _call_to_json(call: ToolCall) -> dict[str, Any]:
    record = {"name": call.name, "arguments": _as_dict(call.arguments), "id": call.id}
    if call.error is not None:
        record["error"] = call.error
    return record


def _as_dict(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return mapping if type(mapping) is dict else dict(mapping)


def _calls_from_json(records: Sequence[Mapping[str, Any]]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(r["name"], r["arguments"], r["id"], r.get("error")) for r in records)


def _message_from_json(record: Mapping[str, Any]) -> Message:
    return Message(
        role=record["role"],
        content=record["content"],
        tool_calls=_calls_from_json(record.get("tool_calls", ())),
        tool_call_id=record.get("tool_call_id"),
        name=record.get("name"),
        reasoning=record.get("reasoning"),
    )


def _shared_prefix(before: Action | None, prompt: Sequence[int]) -> int:
    """How many leading ids of `prompt` are exactly the context after `before`: all of that context, or 0."""
    if before is None:
        return 0
    seen, sampled = before.prompt_ids or (), before.token_ids or ()
    middle, size = len(seen), len(seen) + len(sampled)
    if size > len(prompt) or tuple(prompt[:middle]) != tuple(seen) or tuple(prompt[middle:size]) != tuple(sampled):
        return 0
    return size


def _action_to_json(action: Action, before: Action | None) -> dict[str, Any]:
    record: dict[str, Any] = {
        "text": action.text,
        "policy_version": action.policy_version,
        "finish_reason": action.finish_reason,
    }
    if action.tool_calls:
        record["tool_calls"] = [_call_to_json(call) for call in action.tool_calls]
    if action.reasoning is not None:
        record["reasoning"] = action.reasoning
    if action.usage is not None:
        record["usage"] = dict(action.usage)
    if action.prompt_ids is not None:
        prefix = _shared_prefix(before, action.prompt_ids)
        record["prompt_prefix"] = prefix
        record["prompt_ids"] = list(action.prompt_ids[prefix:])
    if action.token_ids is not None:
        record["token_ids"] = list(action.token_ids)
    if action.logprobs is not None:
        record["logprobs"] = list(action.logprobs)
    return record


def _action_from_json(record: Mapping[str, Any], context: Sequence[int]) -> Action:
    prompt_ids = None
    if "prompt_ids" in record:
        prompt_ids = tuple(context[: record["prompt_prefix"]]) + tuple(record["prompt_ids"])
    return Action(
        text=record["text"],
        tool_calls=_calls_from_json(record.get("tool_calls", ())),
        reasoning=record.get("reasoning"),
        prompt_ids=prompt_ids,
        token_ids=tuple(record["token_ids"]) if "token_ids" in record else None,
        logprobs=tuple(record["logprobs"]) if "logprobs" in record else None,
        policy_version=record["policy_version"],
        finish_reason=record["finish_reason"],
        usage=record.get("usage"),
    )


def _microseconds(seconds: float) -> float:
    """A duration to the microsecond; `round` takes three times as long."""
    return int(seconds * 1e6 + 0.5) / 1e6


def context_after(action: Action) -> tuple[int, ...]:
    """Ids the model has seen or sampled up to the end of this action."""
    return (*(action.prompt_ids or ()), *(action.token_ids or ()))


def trajectory_to_json(trajectory: Trajectory) -> dict[str, Any]:
    """The JSON form of a trajectory: prompt ids that extend the context exactly are stored once."""
    turns: list[dict[str, Any]] = []
    before: Action | None = None
    for turn in trajectory.turns:
        record: dict[str, Any] = {
            "observation": [_message_to_json(m) for m in turn.observation],
            "action": _action_to_json(turn.action, before),
            "reward": turn.reward,
            "reward_components": _as_dict(turn.reward_components),
            "policy_s": _microseconds(turn.policy_s),
            "env_s": _microseconds(turn.env_s),
        }
        if turn.state_key is not None:
            record["state_key"] = turn.state_key
        turns.append(record)
        before = turn.action
    last = trajectory.turns[-1].next_observation if trajectory.turns else ()
    return {
        "env_id": trajectory.env_id,
        "task": {"id": trajectory.task.id, "split": trajectory.task.split, "data": dict(trajectory.task.data)},
        "seed": trajectory.seed,
        "status": trajectory.status,
        "reward": trajectory.reward,
        "success": trajectory.success,
        "group_id": trajectory.group_id,
        "episode_id": trajectory.episode_id,
        "attempt": trajectory.attempt,
        "error": trajectory.error,
        "info": dict(trajectory.info),
        "tools": list(trajectory.tools),
        "turns": turns,
        "final_observation": [_message_to_json(m) for m in last],
    }


def trajectory_from_json(record: Mapping[str, Any]) -> Trajectory:
    """Read what `trajectory_to_json` wrote; token ids come back exactly."""
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
