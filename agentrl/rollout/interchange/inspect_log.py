"""Episodes as an EvalLog of Inspect AI, format version 2: one log of one model, a sample for each episode.

Owns the form of the log. Inspect keeps no token ids: they, and what else a sample has no place for, are in metadata.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from agentrl.messages import Action, Message, ToolCall
from agentrl.rollout.interchange import extras
from agentrl.rollout.sources.chat_file import ChatError
from agentrl.trajectory import Ending, Trajectory, Turn

VERSION = 2
_OWN = "agentrl"
_STOPS = {"length": "max_tokens", "refused": "content_filter", "abort": "unknown"}
_LIMITS = {"max_turns": "turn", "max_tokens": "token", "max_wall_s": "time", "turn_tokens": "token"}
_GRADES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
_IDS = ("prompt_ids", "token_ids", "logprobs")
Json = dict[str, Any]


# Writing.


def log_of(episodes: Sequence[Trajectory], model: str, *, created: datetime | None = None) -> Json:
    """The log of episodes. Args: model: name of what played them; created: now by default."""
    date = (created or datetime.now(UTC)).isoformat(timespec="seconds")
    name = episodes[0].env.id if episodes else "empty"
    epochs = Counter[str]()
    samples = []
    for episode in episodes:
        epochs[episode.task.id] += 1
        samples.append(_sample(episode, epochs[episode.task.id], model))
    scored = [episode for episode in episodes if episode.status != "fault"]
    return {
        "version": VERSION,
        "status": "success",
        "eval": {
            "run_id": f"agentrl-{date}",
            "created": date,
            "task": name,
            "task_id": name,
            "dataset": {"name": name, "samples": len(epochs), "sample_ids": list(epochs)},
            "model": model,
            "config": {"epochs": max(epochs.values(), default=1)},
            "packages": {"agentrl": extras.own_version()},
        },
        "plan": {"name": "agentrl", "steps": []},
        "results": {
            "total_samples": len(episodes),
            "completed_samples": len(scored),
            "scores": [
                _score("reward", "mean", [episode.reward for episode in scored]),
                _score("success", "accuracy", [float(episode.success) for episode in scored]),
            ],
        },
        "stats": {"started_at": date, "completed_at": date},
        "samples": samples,
    }


def _score(name: str, metric: str, values: Sequence[float]) -> Json:
    metrics = {metric: {"name": metric, "value": math.fsum(values) / len(values)}} if values else {}
    return {"name": name, "scorer": name, "scored_samples": len(values), "metrics": metrics}


def _sample(episode: Trajectory, epoch: int, model: str) -> Json:
    messages = _messages(episode, model)
    first = next((n for n, message in enumerate(messages) if _OWN in message.get("metadata", {})), len(messages))
    found: Json = {
        "id": episode.task.id,
        "epoch": epoch,
        "input": messages[:first],
        "target": "",
        "messages": messages,
        "output": _output(episode, messages, model),
        "metadata": {_OWN: {**extras.episode_extra(episode), "tools": [dict(tool) for tool in episode.tools]}},
        "uuid": f"{episode.episode_id}#{episode.labels.attempt}",
        "turn_count": len(episode.turns),
        "model_usage": {model: _usage(episode)},
    }
    if episode.status == "fault":
        error = {"message": episode.error or "unknown", "traceback": "", "traceback_ansi": ""}
        return {**found, "error": error}
    found["scores"] = {"reward": {"value": episode.reward}, "success": {"value": float(episode.success)}}
    if episode.ending.kind == "limit":
        kind = _LIMITS.get(episode.ending.detail, "custom")
        limit = episode.env.limits.get(episode.ending.detail, len(episode.turns))
        found["limit"] = {"type": kind, "limit": limit, "reason": episode.ending.detail}
    return found


def _messages(episode: Trajectory, model: str) -> list[Json]:
    found: list[Json] = []
    for number, turn in enumerate(episode.turns):
        found += [_message(message) for message in (turn.observation if not number else ())]
        action = turn.action
        known = {
            "prompt_ids": action.prompt_ids,
            "token_ids": action.token_ids,
            "logprobs": extras.finite_logprobs(action),
        }
        ids = {name: list(values) for name, values in known.items() if values is not None}
        spoken = _message(action.to_message())
        found.append(
            {**spoken, "source": "generate", "model": model, "metadata": {_OWN: {**extras.turn_extra(turn), **ids}}}
        )
        found += [_message(message) for message in turn.next_observation]
    name = f"{episode.episode_id}#{episode.labels.attempt}"
    return [{"id": f"{name}/{number}", **message} for number, message in enumerate(found)]


def _message(message: Message) -> Json:
    found: Json = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        found["content"] = [
            {"type": "reasoning", "reasoning": message.reasoning},
            {"type": "text", "text": message.content},
        ]
    if message.role == "tool":
        found["tool_call_id"], found["function"] = message.tool_call_id, message.name
    if message.tool_calls:
        found["tool_calls"] = [_call(call) for call in message.tool_calls]
    return {name: value for name, value in found.items() if value is not None}


def _call(call: ToolCall) -> Json:
    found: Json = {"id": call.id, "function": call.name, "arguments": dict(call.arguments), "type": "function"}
    return found if call.error is None else {**found, "parse_error": call.error}


def _output(episode: Trajectory, messages: Sequence[Json], model: str) -> Json:
    last = next((message for message in reversed(messages) if message.get("source") == "generate"), None)
    if last is None:
        return {"model": model, "choices": []}
    action = episode.turns[-1].action
    stop = _STOPS.get(action.finish_reason, action.finish_reason)
    return {"model": model, "choices": [{"message": last, "stop_reason": stop}], "completion": action.text}


def _usage(episode: Trajectory) -> Json:
    """Tokens of all turns; cached ones are apart from those that were read."""
    found = Counter[str]()
    for action in (turn.action for turn in episode.turns):
        usage = action.usage or {}
        read = usage.get("prompt_tokens", len(action.prompt_ids or ()))
        cached, sampled = usage.get("cached_tokens", 0), usage.get("completion_tokens", len(action.token_ids or ()))
        found.update(input_tokens=read - cached, input_tokens_cache_read=cached, output_tokens=sampled)
    return {**found, "total_tokens": found.total()}


# Reading.


def episodes_of(log: Any) -> Iterator[tuple[int, Trajectory | ChatError]]:
    """The number of each sample of a log, from 1, and its episode or what is wrong with it.

    Raises: ChatError if it is no log.
    """
    if not isinstance(log, Mapping) or not isinstance(log.get("eval"), Mapping):
        raise ChatError("is no log of Inspect: it must be an object with version, eval and samples")
    if log.get("version") != VERSION:
        raise ChatError(f"is a log of version {log.get('version')!r}, and version {VERSION} can be read")
    for number, sample in enumerate(log.get("samples") or (), 1):
        try:
            yield number, sample_episode(sample, log["eval"])
        except ChatError as error:
            yield number, error


def sample_episode(sample: Any, spec: Mapping[str, Any]) -> Trajectory:
    """The episode of a sample. Args: spec: `eval` of its log. Raises: ChatError."""
    if not isinstance(sample, Mapping) or not isinstance(sample.get("messages"), list):
        raise ChatError("is no sample: it must be an object with id, epoch and messages")
    with extras.part("sample"):
        sample = _resolved(sample, sample.get("attachments") or {})
        own = (sample.get("metadata") or {}).get(_OWN)
    conversation = extras.Conversing()
    for number, message in enumerate(sample["messages"]):
        with extras.part(f"messages[{number}]"):
            _hear(conversation, message, played=extras.is_own(own))
    turns = conversation.end()
    if extras.is_own(own):
        return extras.own_episode(turns, own.get("tools", ()), own)
    with extras.part("sample"):
        return _foreign(sample, spec, turns)


def _foreign(sample: Mapping[str, Any], spec: Mapping[str, Any], turns: list[Turn]) -> Trajectory:
    scores = {name: _value(score) for name, score in (sample.get("scores") or {}).items()}
    rewards = [value for value in scores.values() if value is not None]
    if rewards and turns:
        turns[-1].reward = rewards[0]
    name, error, limit = f"{sample.get('id')}#{sample.get('epoch', 1)}", sample.get("error"), sample.get("limit")
    ending = None
    if limit:
        ending = Ending("limit", str(limit.get("type", "")))
    if error:
        ending = Ending("fault", str(error.get("message", "")))
    known = {"scores": scores, "task": spec.get("task"), "model": spec.get("model"), "target": sample.get("target")}
    return extras.foreign_episode(
        turns, _tools(sample), name, task=str(sample.get("id")), ending=ending, rewarded=bool(rewards), inspect=known
    )


def _tools(sample: Mapping[str, Any]) -> extras.Tools:
    """The tools of the last model event that names them."""
    for event in reversed(sample.get("events") or ()):
        if event.get("event") == "model" and event.get("tools"):
            return [
                {
                    "type": "function",
                    "function": {k: tool[k] for k in ("name", "description", "parameters") if k in tool},
                }
                for tool in event["tools"]
            ]
    return ()


def _value(score: Any) -> float | None:
    """A score as a number: 1 for C (correct), 0.5 for P (partial), 0 for I and N; None for anything else."""
    value = score.get("value") if isinstance(score, Mapping) else None
    if isinstance(value, str):
        return _GRADES.get(value)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _hear(conversation: extras.Conversing, item: Any, *, played: bool) -> None:
    """Args: played: only messages with fields of AgentRL are turns. Raises: ChatError."""
    if not isinstance(item, Mapping) or item.get("role") not in ("system", "user", "assistant", "tool"):
        raise ChatError("must be a message of system, user, assistant or tool")
    text, reasoning = _content(item.get("content"))
    role, extra = item["role"], (item.get("metadata") or {}).get(_OWN)
    if role != "assistant":
        name = item.get("function") if role == "tool" else None
        call_id = item.get("tool_call_id") if role == "tool" else None
        if role == "tool" and not text and item.get("error"):
            text = f"Error: {item['error'].get('message', '')}"
        conversation.waiting.append(Message(role, text, tool_call_id=call_id, name=name))
        return
    calls = tuple(_read_call(call) for call in item.get("tool_calls") or ())
    if (extra is None and played) or item.get("source") == "input":
        conversation.waiting.append(Message("assistant", text, calls, reasoning=reasoning))
        return
    ids: Json = {name: tuple(extra[name]) for name in _IDS if extra and _are_numbers(extra.get(name))}
    conversation.act(Action(text, calls, reasoning, **ids), extra or {})


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) in (int, float) for value in values)


def _read_call(call: Mapping[str, Any]) -> ToolCall:
    found = extras.call_of(call.get("function"), call.get("arguments"), call.get("id"))
    error = call.get("parse_error")
    return found if error is None else ToolCall(found.name, found.arguments, found.id, str(error))


def _content(content: Any) -> tuple[str, str | None]:
    """The text and the reasoning of a message. Raises: ChatError for anything else in it."""
    if isinstance(content, str):
        return content, None
    if not isinstance(content, list):
        raise ChatError("content must be text or a list of parts")
    texts, thoughts = [], []
    for piece in content:
        kind = piece.get("type") if isinstance(piece, Mapping) else None
        if kind == "text":
            texts.append(str(piece.get("text", "")))
        elif kind == "reasoning":
            thoughts.append(str(piece.get("reasoning", "")))
        else:
            raise ChatError(f"it has a part of type {kind!r}: only text and reasoning can be kept")
    return "".join(texts), "".join(thoughts) if thoughts else None


def _resolved(value: Any, attachments: Mapping[str, str]) -> Any:
    """A value with attachments in the place of the references to them."""
    prefix = "attachment://"
    if isinstance(value, str):
        return attachments.get(value.removeprefix(prefix), value) if value.startswith(prefix) else value
    if isinstance(value, Mapping):
        return {k: v if k == "attachments" else _resolved(v, attachments) for k, v in value.items()}
    return [_resolved(item, attachments) for item in value] if isinstance(value, list) else value
