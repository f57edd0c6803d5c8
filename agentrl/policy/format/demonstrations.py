"""Episodes as token ids: what a policy of a chat format would have seen and sampled. Owns the rendering.

Also owns the proof that ids which an episode holds are those of this chat format and tokenizer: ids of another one
would train other texts, without a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from msgspec import structs

from agentrl.messages import Action, Message
from agentrl.trajectory import Trajectory, Turn, context_after


class Renderer(Protocol):
    """The part of a chat format that demonstrations need."""

    stop_ids: frozenset[int]

    def render_first(self, messages: Sequence[Message], tools: Sequence[Mapping[str, object]]) -> list[int]: ...
    def render_more(self, new_messages: Sequence[Message], *, closed: bool = True) -> list[int]: ...
    def render_action(self, action: Action, tools: Sequence[Mapping[str, Any]] = ()) -> list[int]: ...
    def parse(self, ids: Sequence[int], tools: Sequence[Mapping[str, Any]] = ()) -> Action: ...


def with_tokens(trajectory: Trajectory, chat_format: Renderer) -> Trajectory:
    """The trajectory with prompt and action ids of a chat format.

    Ids that it holds stay if they are proved to be of this format and tokenizer; else all is rendered, as the policy
    would have seen and sampled it.

    Returns: the trajectory; one without turns if a turn cannot be written again (see `can_render`).
    """
    if has_own_tokens(trajectory, chat_format):
        return trajectory
    if not can_render(trajectory):
        return replace(trajectory, turns=[])
    return _rendered(trajectory, chat_format)


def can_render(trajectory: Trajectory) -> bool:
    """Whether every turn can be written again: one that was cut off, or a call that could not be read, cannot."""
    actions = [turn.action for turn in trajectory.turns]
    return all(a.finish_reason in ("stop", "tool_calls") and not any(c.error for c in a.tool_calls) for a in actions)


def has_own_tokens(trajectory: Trajectory, chat_format: Renderer) -> bool:
    """Whether the ids of every turn are what this format renders and reads: the same prompts, texts and calls."""
    context: tuple[int, ...] = ()
    closed = True
    said: list[Message] = []
    for turn in trajectory.turns:
        action = turn.action
        if not action.prompt_ids or not action.token_ids:
            return False
        said.extend(turn.observation)
        more = chat_format.render_more(turn.observation, closed=closed) if context else []
        anew = not context or action.prompt_ids != (*context, *more)
        if anew and action.prompt_ids != tuple(chat_format.render_first(said, trajectory.tools)):
            return False
        found = chat_format.parse(action.token_ids, trajectory.tools).safe()
        if (found.text, found.tool_calls, found.reasoning) != (action.text, action.tool_calls, action.reasoning):
            return False
        context, closed = context_after(action), action.token_ids[-1] in chat_format.stop_ids
        said.append(action.to_message())
    return True


def _rendered(trajectory: Trajectory, chat_format: Renderer) -> Trajectory:
    turns: list[Turn] = []
    context: tuple[int, ...] = ()
    for turn in trajectory.turns:
        if not turns:
            prompt = tuple(chat_format.render_first(turn.observation, trajectory.tools))
        else:
            prompt = (*context, *chat_format.render_more(turn.observation))
        sampled = tuple(chat_format.render_action(turn.action, trajectory.tools))
        action = structs.replace(turn.action, prompt_ids=prompt, token_ids=sampled, logprobs=None, versions=None)
        turns.append(structs.replace(turn, action=action))
        context = context_after(action)
    return replace(trajectory, turns=turns)
