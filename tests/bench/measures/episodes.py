"""Recorded episodes made by hand, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentrl.messages import Action
from agentrl.trajectory import Ending, EnvRef, Task, Trajectory, Turn

FAULT = Ending("fault", "the server is gone")


def episode(
    task: str = "a",
    *turns: Turn,
    reward: float = 0.0,
    ending: Ending = Ending(),  # noqa: B008 (frozen)
    info: Mapping[str, Any] | None = None,
) -> Trajectory:
    """An episode of one empty turn with this reward, or of the given turns."""
    return Trajectory(EnvRef("x"), Task(task), 0, list(turns) or [Turn((), Action(), reward)], ending, info=info or {})


def turn(action: Action, **more: Any) -> Turn:
    return Turn((), action, **more)


def sampled(tokens: int, *, prompt: int = 0) -> Turn:
    """A turn that reports its tokens."""
    return turn(Action(usage={"completion_tokens": tokens, "prompt_tokens": prompt}))
