"""The JSON form of a trajectory: what one line of a store holds. Owns the form, not the files.

Fields at their defaults are left out, and token ids that a prompt has in common with the context before it are stored
once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from msgspec import Struct, structs

from agentrl.messages import Action, Message, Served, TokenSignals, ToolCall
from agentrl.rollout.plain_json import as_json, is_finite
from agentrl.sampling import SamplingParams
from agentrl.token_ids import TokenIds, common_prefix
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, Turn

Tools = Sequence[Mapping[str, Any]]
FORMAT = 3
"""Number of the JSON form that is written."""
READ_FORMATS = (2, FORMAT)
"""Those that are read. In format 2 every line holds the definitions of its tools."""


class FormatError(ValueError):
    """A record was written in another format."""


def check_format(record: Mapping[str, Any]) -> None:
    """Refuse a record of another format: part of it would be lost. Raises: FormatError."""
    found = record.get("format", 1)
    if found not in READ_FORMATS:
        raise FormatError(
            f"was written in format {found}, and this version reads formats 2 and {FORMAT}: read it with the version "
            "of AgentRL that wrote it, or play the episodes again into a new folder"
        )


def _calls_from_json(records: Sequence[Mapping[str, Any]]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(**record) for record in records)


def _message_from_json(record: Mapping[str, Any]) -> Message:
    calls, blocks = _calls_from_json(record.get("tool_calls", ())), tuple(record.get("blocks", ()))
    return Message(**{**record, "tool_calls": calls, "blocks": blocks})


class _TokenAction(Action, frozen=True, kw_only=True):
    """The JSON form of an action with ids: `prompt_ids` are those after `prompt_prefix` ids of the context."""

    prompt_prefix: int


class _TurnRecord(Struct, omit_defaults=True, gc=False):
    """The JSON form of a turn; the next observation is the next turn's own."""

    observation: tuple[Message, ...]
    action: Action
    reward: float
    reward_components: Mapping[str, float]
    policy_s: float
    env_s: float
    state_key: str | None = None
    trainer_logprobs: tuple[float, ...] | None = None


class _EnvRecord(Struct, gc=False):
    """The JSON form of an environment's reference; where it was served is not part of it."""

    id: str
    kwargs: Mapping[str, Any]
    limits: Mapping[str, float]
    version: str


class TrajectoryRecord(Struct, omit_defaults=True, gc=False):
    """The JSON form of a trajectory. In a store `tools` may be the name that an earlier line gives them."""

    format: int
    env: _EnvRecord
    task: Task
    seed: int
    ending: Ending
    reward: float
    success: bool
    group_id: str
    episode_id: str
    labels: Labels
    info: Mapping[str, Any]
    tools: Sequence[Mapping[str, Any]] | str
    turns: list[_TurnRecord]
    final_observation: tuple[Message, ...]
    fork: tuple[str, int] | None
    sampling: Mapping[str, Any]
    tools_name: str = ""


def _shared_prefix(before: Action | None, prompt: Sequence[int]) -> int:
    """How many leading ids of `prompt` are those of the context after `before`."""
    if before is None:
        return 0
    seen, sampled = before.prompt_ids or (), before.token_ids or ()
    same = common_prefix(seen, prompt)
    return same if same < len(seen) else same + common_prefix(sampled, prompt[same : same + len(sampled)])


def _token_record(action: Action, prompt: Sequence[int], before: Action | None) -> Action:
    prefix = _shared_prefix(before, prompt)
    fields = structs.asdict(action)
    fields["prompt_ids"] = prompt[prefix:]
    return _TokenAction(**fields, prompt_prefix=prefix)


def _prompt_from_json(new: Sequence[int], prefix: int, before: Action | None) -> Sequence[int]:
    """A prompt of `prefix` ids of the context after `before`, and new ones."""
    seen, sampled = (before.prompt_ids or (), before.token_ids or ()) if before is not None else ((), ())
    more = (*sampled[: max(0, prefix - len(seen))], *new)
    if prefix >= len(seen) and isinstance(seen, TokenIds):
        return seen.followed_by(more)
    return TokenIds.sharing((*seen[:prefix], *more), None)


def _action_from_json(record: Mapping[str, Any], before: Action | None) -> Action:
    fields: dict[str, Any] = dict(record)
    prefix = fields.pop("prompt_prefix", None)
    if prefix is not None:
        fields["prompt_ids"] = _prompt_from_json(fields["prompt_ids"], prefix, before)
    for name in ("token_ids", "logprobs", "versions"):
        if name in fields:
            fields[name] = tuple(fields[name])
    if "signals" in fields:
        fields["signals"] = TokenSignals(**{name: tuple(values) for name, values in fields["signals"].items()})
    if "served" in fields:
        fields["served"] = Served(**{**fields["served"], "blocks": tuple(fields["served"].get("blocks", ()))})
    fields["tool_calls"] = _calls_from_json(fields.get("tool_calls", ()))
    return Action(**fields)


def _tools_from_json(tools: Any, tools_of: Callable[[str], Tools] | None) -> Tools:
    if not isinstance(tools, str):
        return cast(Tools, tools)
    if tools_of is None:
        raise ValueError(f"it names the tools {tools}, which stand in an earlier line of its store")
    return tools_of(tools)


def _sampling_from_json(record: Mapping[str, Any] | None) -> SamplingParams | None:
    if not record:
        return None
    return SamplingParams(**{**record, "stop": tuple(record.get("stop", ()))})


def trajectory_record(trajectory: Trajectory) -> TrajectoryRecord:
    """The JSON form of a trajectory, for a JSON encoder.

    Messages and actions omit fields at their defaults. Prompt ids that continue the context before are stored once.
    """
    turns: list[_TurnRecord] = []
    before: Action | None = None
    env = trajectory.env
    for turn in trajectory.turns:
        action = turn.action
        # Durations to the microsecond; `round` takes three times as long.
        turns.append(
            _TurnRecord(
                turn.observation,
                action if action.prompt_ids is None else _token_record(action, action.prompt_ids, before),
                turn.reward,
                turn.reward_components,
                int(turn.policy_s * 1e6 + 0.5) / 1e6,
                int(turn.env_s * 1e6 + 0.5) / 1e6,
                turn.state_key,
                turn.trainer_logprobs,
            )
        )
        before = action
    return TrajectoryRecord(
        format=FORMAT,
        env=_EnvRecord(env.id, env.kwargs, env.limits, env.version),
        task=trajectory.task,
        seed=trajectory.seed,
        ending=trajectory.ending,
        reward=trajectory.reward,
        success=trajectory.success,
        group_id=trajectory.group_id,
        episode_id=trajectory.episode_id,
        labels=trajectory.labels,
        info=as_json(trajectory.info),
        tools=trajectory.tools,
        turns=turns,
        final_observation=trajectory.turns[-1].next_observation if trajectory.turns else (),
        fork=trajectory.fork,
        sampling={} if trajectory.sampling is None else trajectory.sampling.given(),
    )


def needs_exact_numbers(record: TrajectoryRecord) -> bool:
    """Whether NaN or infinity stands where replaying or reading needs it: in what was given, done or rewarded."""
    turns = [(turn.reward, turn.reward_components, *_arguments(turn.action)) for turn in record.turns]
    try:
        return not is_finite((record.env.kwargs, record.env.limits, record.task.data, record.info, *turns))
    except RecursionError:  # too deep for the fast encoder as well
        return True


def _arguments(action: Action) -> list[Mapping[str, Any]]:
    return [call.arguments for call in action.tool_calls]


def trajectory_from_json(record: Mapping[str, Any], tools_of: Callable[[str], Tools] | None = None) -> Trajectory:
    """Read what `trajectory_record` describes; token ids come back exactly.

    Args: tools_of: the tools of a name, for lines of a store.
    Raises: FormatError if the record has another format number; ValueError if it names tools and nothing says which.
    """
    check_format(record)
    turns: list[Turn] = []
    action: Action | None = None
    for item in record["turns"]:
        action = _action_from_json(item["action"], action)
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
                trainer_logprobs=tuple(item["trainer_logprobs"]) if "trainer_logprobs" in item else None,
            )
        )
    if turns:
        turns[-1].next_observation = tuple(_message_from_json(m) for m in record["final_observation"])
    return Trajectory(
        env=EnvRef(**record["env"]),
        task=Task(**record["task"]),
        seed=record["seed"],
        turns=turns,
        ending=Ending(**record["ending"]),
        group_id=record["group_id"],
        episode_id=record["episode_id"],
        labels=Labels(**record["labels"]),
        info=record["info"],
        tools=_tools_from_json(record["tools"], tools_of),
        fork=None if record["fork"] is None else tuple(record["fork"]),
        sampling=_sampling_from_json(record.get("sampling")),
    )
