"""Demonstrations as token ids: what a policy of this format would have seen and sampled. Owns the rendering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from msgspec import structs

from agentrl.messages import Action, Message
from agentrl.trajectory import Trajectory, Turn, context_after


class Renderer(Protocol):
    """The part of a chat format that demonstrations need."""

    def render_first(self, messages: Sequence[Message], tools: Sequence[Mapping[str, object]]) -> list[int]: ...
    def render_more(self, new_messages: Sequence[Message]) -> list[int]: ...
    def render_action(self, action: Action, tools: Sequence[Mapping[str, Any]] = ()) -> list[int]: ...


def with_tokens(trajectory: Trajectory, chat_format: Renderer) -> Trajectory:
    """The trajectory with prompt and action ids, as the policy would have seen and sampled them."""
    turns: list[Turn] = []
    context: tuple[int, ...] = ()
    for turn in trajectory.turns:
        if not turns:
            prompt = tuple(chat_format.render_first(turn.observation, trajectory.tools))
        else:
            prompt = (*context, *chat_format.render_more(turn.observation))
        sampled = tuple(chat_format.render_action(turn.action, trajectory.tools))
        action = structs.replace(turn.action, prompt_ids=prompt, token_ids=sampled, logprobs=None)
        turns.append(structs.replace(turn, action=action))
        context = context_after(action)
    return replace(trajectory, turns=turns)
