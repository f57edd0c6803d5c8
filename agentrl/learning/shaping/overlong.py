"""A penalty that grows as an episode nears its limit of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentrl.config import Count, NotNegative
from agentrl.learning.shaping.base import Shaping
from agentrl.trajectory import Trajectory


@dataclass(frozen=True)
class Overlong(Shaping):
    """DAPO's soft overlong punishment, at the last turn. Source: `overlong_penalty`.

    Attributes:
        max_tokens: sampled tokens of an episode from which the whole penalty is due.
        buffer: tokens before that over which it grows from 0.
        penalty: the whole penalty.
    """

    max_tokens: Count = 1024
    buffer: Count = 256
    penalty: NotNegative = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.buffer > self.max_tokens:
            raise ValueError(f"buffer must be at most max_tokens, got {self.buffer} and {self.max_tokens}")

    def rewards(self, trajectory: Trajectory) -> Sequence[float]:
        rewards = [turn.reward for turn in trajectory.turns]
        length = sum(len(turn.action.token_ids or ()) for turn in trajectory.turns)
        rewards[-1] += self.penalty * overlong_penalty(length, max_tokens=self.max_tokens, buffer=self.buffer)
        return rewards


def overlong_penalty(length: int, *, max_tokens: int, buffer: int) -> float:
    """0 for short answers, then linear, -1 from `max_tokens` on.

    Args:
        length: sampled tokens.
        max_tokens: length of the whole penalty.
        buffer: tokens before that over which it grows.
    Source: Yu et al. 2025, arXiv:2503.14476, eq. 13 (DAPO).
    """
    return -min(1.0, max(0.0, (length - (max_tokens - buffer)) / buffer))
