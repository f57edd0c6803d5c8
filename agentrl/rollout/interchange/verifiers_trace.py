"""Episodes as lines of a verifiers `traces.jsonl`, trace version 1. Owns the form of a line; reads none.

A trace is a graph of messages: each turn follows the messages before it, and its node holds the ids that it adds, the
prompt's and then the sampled ones. Where the context of a turn is not the beginning of the next prompt, as after a
compaction, the next turn begins another branch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agentrl.messages import Action, Message
from agentrl.rollout.interchange.extras import episode_extra, finite_logprobs, turn_extra
from agentrl.trajectory import Trajectory, context_after

VERSION = 1
_FINISH = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}
Json = dict[str, Any]


def line_of(episode: Trajectory, model: str) -> Json:
    """The line of an episode. Args: model: name of what played it."""
    is_scored = episode.status != "fault"
    error = {"type": episode.ending.who or "error", "message": episode.ending.detail}
    errors = [] if episode.ending.kind not in ("error", "fault") else [error]
    own = {"split": episode.task.split, "data": dict(episode.task.data), "seed": episode.seed}
    data = {"id": episode.task.id, "name": episode.task.id, "agentrl": own}
    task = {"type": episode.env.id, "data": data, "key": episode.task.id, "hash": episode.task.fingerprint}
    nodes, calls = _graph(episode, model)
    return {
        "id": f"{episode.episode_id}#{episode.labels.attempt}",
        "env": {"id": episode.env.id},
        "task": task,
        "group": {"id": episode.group_id},
        "ok": is_scored,
        "errors": errors,
        "traces": [
            {
                "version": VERSION,
                "id": f"{episode.episode_id}#{episode.labels.attempt}/0",
                "task": task,
                "agent": {"config": {"model": model}},
                "tools": [_tool(tool) for tool in episode.tools],
                "nodes": nodes,
                "calls": calls,
                "rewards": {"reward": {"score": episode.reward} if is_scored else None},
                "metrics": {"success": float(episode.success)} if is_scored else {},
                "info": {"agentrl": {**episode_extra(episode), "turns": [turn_extra(turn) for turn in episode.turns]}},
                "is_completed": is_scored,
                "ok": is_scored,
                "stop_condition": episode.ending.detail or episode.ending.kind,
                "errors": errors,
            }
        ],
    }


def _graph(episode: Trajectory, model: str) -> tuple[list[Json], list[Json]]:
    """The nodes and the model calls."""
    nodes: list[Json] = []
    calls: list[Json] = []
    spoken: list[Message] = []
    context: tuple[int, ...] = ()
    parent: int | None = None
    for number, turn in enumerate(episode.turns):
        action = turn.action
        new: Sequence[Message] = turn.observation
        prompt = action.prompt_ids or ()
        if number and tuple(prompt[: len(context)]) != context:  # a branch of its own
            parent, context, new = None, (), [*spoken, *turn.observation]
        for message in new:
            parent = _add(nodes, parent, _message(message), episode)
        parent = _add(nodes, parent, _message(action.to_message()), episode)
        nodes[parent] |= {"sampled": True, **_ids(action, len(context))}
        calls.append(_call(action, parent, model))
        spoken += [*turn.observation, action.to_message()]
        context = context_after(action)
    for message in episode.turns[-1].next_observation if episode.turns else ():
        parent = _add(nodes, parent, _message(message), episode)
    return nodes, calls


def _add(nodes: list[Json], parent: int | None, message: Json, episode: Trajectory) -> int:
    node: Json = {"parent": parent, "message": message, "timestamp": 0.0}
    if parent is None and episode.tools:
        node["tools"] = [_tool(tool) for tool in episode.tools]
    nodes.append(node)
    return len(nodes) - 1


def _ids(action: Action, seen: int) -> Json:
    if action.token_ids is None:
        return {}
    prompt = list((action.prompt_ids or ())[seen:])
    sampled = list(action.token_ids)
    mask = [False] * len(prompt) + [True] * len(sampled)
    return {"token_ids": prompt + sampled, "mask": mask, "logprobs": list(finite_logprobs(action) or ())}


def _call(action: Action, node: int, model: str) -> Json:
    found: Json = {"node": node, "model": model, "finish_reason": _FINISH.get(action.finish_reason)}
    usage = action.usage or {}
    read = usage.get("prompt_tokens", None if action.prompt_ids is None else len(action.prompt_ids))
    sampled = usage.get("completion_tokens", None if action.token_ids is None else len(action.token_ids))
    if read is None or sampled is None:
        return found
    cached = usage.get("cached_tokens", 0)
    counts = {"prompt_tokens": read - cached, "completion_tokens": sampled, "cached_input_tokens": cached}
    return {**found, "usage": counts}


def _message(message: Message) -> Json:
    found: Json = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        found["reasoning_content"] = message.reasoning
    if message.role == "tool":
        found["tool_call_id"] = message.tool_call_id or ""
        if message.name is not None:
            found["name"] = message.name
    if message.tool_calls:
        found["tool_calls"] = [
            {"id": call.id, "name": call.name, "arguments": json.dumps(dict(call.arguments), ensure_ascii=False)}
            for call in message.tool_calls
        ]
    return found


def _tool(tool: Any) -> Json:
    function = tool.get("function", tool)
    return {name: function[name] for name in ("name", "description", "parameters") if name in function}
