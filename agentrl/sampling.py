"""How a turn is sampled: what a policy is asked for, and what a record says of it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample one turn.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus mass in (0, 1].
        top_k: keep the k most likely tokens; 0 keeps all.
        max_tokens: most tokens of one turn.
        stop: texts that end a turn; the text itself is kept in the ids.
        seed: of this episode's sampling stream; None lets the policy choose.
        signals: record how sure the model was of each token (`Action.signals`).
        first_rank: the first token of a turn is not drawn: it is the most likely one (0), the next one (1), and so on.
            None draws it.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int | None = None
    signals: bool = False
    first_rank: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 (greedy) or a finite number above, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.top_k < 0 or self.max_tokens < 1:
            raise ValueError(f"top_k must be >= 0 and max_tokens >= 1, got {self.top_k} and {self.max_tokens}")
        if self.first_rank is not None and self.first_rank < 0:
            raise ValueError(f"first_rank must be 0 (the most likely token) or more, got {self.first_rank}")

    def given(self) -> dict[str, Any]:
        """The fields that are not at their defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


def turn_seed(stream: str, turn: int) -> int:
    """The seed of one turn's random numbers.

    Args:
        stream: names an episode's sampling stream: `SamplingParams.seed` as text, where that is given.
        turn: number of the turn among those that were sampled in the episode, from 0.
    """
    return int.from_bytes(hashlib.blake2b(f"{stream}/{turn}".encode(), digest_size=16).digest())
