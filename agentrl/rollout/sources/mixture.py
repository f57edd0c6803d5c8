"""Groups drawn from several sources by weight: one policy over many environments."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

import numpy as np

from agentrl.rollout.sources.base import Source, State, gathered, only
from agentrl.seeds import Purpose, sequence
from agentrl.trajectory import TrajectoryGroup


class Mixture(Source):
    """Each group comes from a part drawn by weight; the draws are a function of the seed and the group's number.

    Args:
        parts: sources; closed with the mixture.
        weights: relative, one for each part.
        seed: of the draws.
    """

    def __init__(self, parts: Sequence[Source], weights: Sequence[float], seed: int) -> None:
        if len(parts) != len(weights) or not parts or min(weights) <= 0:
            raise ValueError(f"a mixture needs a positive weight for each part, got {weights} for {len(parts)} parts")
        self._parts, self._seed = list(parts), seed
        self._weights = np.asarray(weights, np.float64) / sum(weights)
        self._next = 0

    def take(self, n: int) -> Awaitable[list[TrajectoryGroup]]:
        chosen = [self._part(number) for number in range(self._next, self._next + n)]
        self._next += n
        return gathered([only(part.take(1)) for part in chosen])

    def _part(self, number: int) -> Source:
        rng = np.random.default_rng(sequence(self._seed, Purpose.MIXTURE, number))
        return self._parts[int(rng.choice(len(self._parts), p=self._weights))]

    def state_dict(self) -> State:
        return {"next": self._next, "parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: State) -> None:
        self._next = state["next"]
        for part, saved in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(saved)

    async def aclose(self) -> None:
        for part in self._parts:
            await part.aclose()
