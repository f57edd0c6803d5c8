"""Episodes as documents of ATIF 1.8 (Agent Trajectory Interchange Format), with token ids and log-probabilities.

Owns the form of a document, and checks that the format leaves to its readers: lengths, numbers, ids. What ATIF has no
place for (seed, task, reward of a turn, status) is in `extra`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from agentrl.messages import Action, Message, ToolCall
from agentrl.rollout.interchange.extras import (
    Conversing,
    call_of,
    episode_extra,
    finite_logprobs,
    foreign_episode,
    is_own,
    own_episode,
    own_version,
    part,
    turn_extra,
)
from agentrl.rollout.sources.chat_file import ChatError
from agentrl.trajectory import Trajectory, Turn

VERSION = "ATIF-v1.8"
_READ = tuple(f"ATIF-v1.{minor}" for minor in range(3, 9))
Json = dict[str, Any]


# Writing.


def document_of(episode: Trajectory, model: str) -> Json:
    """The document of an episode. Args: model: name of what played it."""
    writing = _Writing()
    for number, turn in enumerate(episode.turns):
        writing.listen(turn.observation if not number else ())
        writing.act(turn)
        writing.listen(turn.next_observation)
    agent: Json = {"name": "agentrl", "version": own_version(), "model_name": model}
    if episode.tools:
        agent["tool_definitions"] = [dict(tool) for tool in episode.tools]
    found: Json = {
        "schema_version": VERSION,
        "session_id": episode.group_id or episode.episode_id,
        "trajectory_id": episode.episode_id,
        "agent": agent,
        "steps": writing.steps,
        "extra": episode_extra(episode),
    }
    return {**found, "final_metrics": {**_totals(episode), "total_steps": len(writing.steps)}}


class _Writing:
    """The steps of a document. Tool messages that follow an agent's step are its observation."""

    def __init__(self) -> None:
        self.steps: list[Json] = []
        self._ids = Counter[str]()
        self._named: dict[str, str] = {}
        self._open = False

    def listen(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if message.role == "tool":
                self._result(message)
            elif message.role == "assistant":
                self._agent(message.content, message.tool_calls, message.reasoning)["is_copied_context"] = True
            else:
                self._add(message.role, message.content)

    def act(self, turn: Turn) -> None:
        action = turn.action
        step = self._agent(action.text, action.tool_calls, action.reasoning)
        metrics = _metrics(action)
        if metrics:
            step["metrics"] = metrics
        step["extra"], step["llm_call_count"] = turn_extra(turn), 1

    def _add(self, source: str, text: str) -> Json:
        step: Json = {"step_id": len(self.steps) + 1, "source": source, "message": text}
        self.steps.append(step)
        self._open = False
        return step

    def _agent(self, text: str, calls: Sequence[ToolCall], reasoning: str | None) -> Json:
        step = self._add("agent", text)
        if reasoning is not None:
            step["reasoning_content"] = reasoning
        self._named, self._open = {}, True
        if calls:
            step["tool_calls"] = [self._call(call) for call in calls]
        return step

    def _call(self, call: ToolCall) -> Json:
        """A call, with an id that no other call of the document has."""
        self._ids[call.id] += 1
        name = call.id if self._ids[call.id] == 1 else f"{call.id}#{self._ids[call.id]}"
        self._named[call.id] = name
        found: Json = {"tool_call_id": name, "function_name": call.name, "arguments": dict(call.arguments)}
        return found if name == call.id else {**found, "extra": {"id": call.id}}

    def _result(self, message: Message) -> None:
        if not self._open:  # it answers no step of an agent
            self._add("system", "")
        step = self.steps[-1]
        known = self._named.get(message.tool_call_id or "") if self._open else None
        extra: Json = {} if message.name is None else {"name": message.name}
        if message.tool_call_id is not None and known != message.tool_call_id:
            extra["tool_call_id"] = message.tool_call_id
        result: Json = {"content": message.content}
        result |= {} if known is None else {"source_call_id": known}
        result |= {"extra": extra} if extra else {}
        step.setdefault("observation", {"results": []})["results"].append(result)


def _metrics(action: Action) -> Json:
    usage = action.usage or {}
    read = usage.get("prompt_tokens", None if action.prompt_ids is None else len(action.prompt_ids))
    sampled = usage.get("completion_tokens", None if action.token_ids is None else len(action.token_ids))
    found: Json = {
        "prompt_tokens": read,
        "completion_tokens": sampled,
        "cached_tokens": usage.get("cached_tokens"),
        "prompt_token_ids": None if action.prompt_ids is None else list(action.prompt_ids),
        "completion_token_ids": None if action.token_ids is None else list(action.token_ids),
        "logprobs": None if (logprobs := finite_logprobs(action)) is None else list(logprobs),
    }
    return {name: value for name, value in found.items() if value is not None}


def _totals(episode: Trajectory) -> Json:
    metrics = [_metrics(turn.action) for turn in episode.turns]
    names = ("prompt_tokens", "completion_tokens", "cached_tokens")
    known = {name: [m[name] for m in metrics if name in m] for name in names}
    return {f"total_{name}": sum(values) for name, values in known.items() if values}


# Reading.


def episode_of(document: Any, name: str) -> Trajectory:
    """The episode of a document.

    Args: name: of the episode, where the document has none.
    Raises: ChatError that names the step.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("steps"), list):
        raise ChatError("is no ATIF document: it must be an object with schema_version and steps")
    version = document.get("schema_version")
    if version not in _READ:
        raise ChatError(f"has schema_version {version!r}: {_READ[0]} to {_READ[-1]} can be read")
    if document.get("subagent_trajectories"):
        raise ChatError("has subagent_trajectories, and an episode here is of one agent: import them as documents")
    reading = _Reading()
    for number, step in enumerate(document["steps"], 1):
        with part(f"step {number}"):
            reading.step(step, number)
    with part("document"):
        return _episode(document, reading.conversation.end(), name)


def _episode(document: Mapping[str, Any], turns: list[Turn], name: str) -> Trajectory:
    extra, agent = document.get("extra") or {}, document.get("agent") or {}
    tools = agent.get("tool_definitions") or []
    if is_own(extra):
        return own_episode(turns, tools, extra)
    own = document.get("trajectory_id") or document.get("session_id") or name
    reward = extra.get("reward")
    rewarded = isinstance(reward, (int, float)) and math.isfinite(reward)
    if rewarded and turns:
        turns[-1].reward = float(extra["reward"])
    known: Json = {"agent": agent.get("name"), "model": agent.get("model_name"), "extra": extra}
    named = extra.get("task")
    task = named if isinstance(named, str) else ""
    return foreign_episode(turns, tools, str(own), task=task, rewarded=rewarded, atif=known)


class _Reading:
    """Turns from the steps of a document."""

    def __init__(self) -> None:
        self.conversation = Conversing()
        self._ids: set[str] = set()

    def step(self, step: Any, number: int) -> None:
        """Raises: ChatError."""
        if not isinstance(step, Mapping) or step.get("step_id") != number:
            raise ChatError(f"must have step_id {number}: steps are numbered from 1 without gaps")
        source, text = step.get("source"), _text(step.get("message"), "message")
        names: dict[str, str] = {}
        if source == "agent":
            names = self._agent(step, text)
        elif source in ("system", "user"):
            if not (source == "system" and not text and step.get("observation")):
                self.conversation.waiting.append(Message(source, text))
        else:
            raise ChatError(f"source must be system, user or agent, got {source!r}")
        self._observe(step.get("observation"), names)

    def _agent(self, step: Mapping[str, Any], text: str) -> dict[str, str]:
        """Returns: the episode's id of each call, by the document's."""
        names, calls = {}, []
        for call in step.get("tool_calls") or ():
            call_id = call.get("tool_call_id")
            own = (call.get("extra") or {}).get("id", call_id)
            calls.append(call_of(call.get("function_name"), call.get("arguments"), own))
            if call_id in self._ids:
                raise ChatError(f"two calls have the id {call_id!r}")
            self._ids.add(call_id)
            names[call_id] = own
        extra, metrics = step.get("extra") or {}, step.get("metrics") or {}
        action = Action(text, tuple(calls), step.get("reasoning_content"), **_ids_of(metrics))
        if step.get("is_copied_context") or step.get("llm_call_count") == 0:  # nothing to train on
            self.conversation.waiting.append(action.to_message())
            return names
        if "usage" not in extra:
            usage = {n: metrics[n] for n in ("prompt_tokens", "completion_tokens", "cached_tokens") if n in metrics}
            extra = {**extra, "usage": usage} if usage and action.token_ids is None else extra
        self.conversation.act(action, extra)
        return names

    def _observe(self, observation: Any, names: Mapping[str, str]) -> None:
        for result in (observation or {}).get("results", ()):
            call_id, extra = result.get("source_call_id"), result.get("extra") or {}
            if call_id is not None and call_id not in names:
                raise ChatError(f"a result answers {call_id!r}, which is no call of this step")
            if result.get("subagent_trajectory_ref"):
                raise ChatError("a result is a subagent's trajectory, and an episode here is of one agent")
            own = extra.get("tool_call_id", names.get(call_id) if call_id is not None else None)
            text = _text(result.get("content"), "content")
            self.conversation.waiting.append(Message("tool", text, tool_call_id=own, name=extra.get("name")))


def _ids_of(metrics: Mapping[str, Any]) -> Json:
    """The ids and log-probabilities of a step. Raises: ChatError where their lengths differ."""
    prompt, sampled = metrics.get("prompt_token_ids"), metrics.get("completion_token_ids")
    logprobs = metrics.get("logprobs")
    for name, ids in (("prompt_token_ids", prompt), ("completion_token_ids", sampled)):
        if ids is not None and not all(type(one) is int and one >= 0 for one in ids):
            raise ChatError(f"{name} must be whole numbers of 0 or more")
    if logprobs is not None and not all(type(one) in (int, float) and not math.isnan(one) for one in logprobs):
        raise ChatError("logprobs must be numbers")
    if logprobs is not None and len(logprobs) != len(sampled or ()):
        raise ChatError(f"there are {len(logprobs)} logprobs of {len(sampled or ())} completion_token_ids")
    found = {"prompt_ids": prompt, "token_ids": sampled, "logprobs": logprobs}
    return {name: tuple(values) for name, values in found.items() if values is not None}


def _text(content: Any, name: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    other = next((piece.get("type") for piece in content if piece.get("type") != "text"), None)
    if other is not None:
        raise ChatError(f"its {name} has a part of type {other!r}: only text can be kept")
    return "".join(piece.get("text") or "" for piece in content)
