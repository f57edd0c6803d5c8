"""Groups drawn from several sources by weight: one policy over many environments."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

import numpy as np

from agentrl.rollout.sources.base import Source, State, gathered, only
from agentrl.rollout.sources.curriculum import pass_rate_of
from agentrl.rollout.sources.mixed.weighting import Fixed, Floats, Memory, Part, Weighting
from agentrl.seeds import Purpose, sequence
from agentrl.trajectory import TrajectoryGroup


class Mixture(Source):
    """Each group comes from a part drawn by weight.

    The draws are a function of the seed, the group's number and, where the weighting reads them, of the pass rates of
    groups that had ended when `take` was called.

    Args:
        parts: sources; closed with the mixture.
        weights: relative, one for each part.
        seed: of the draws.
        weighting: what makes shares of the weights.
        num_tasks: of each part, for a weighting that reads it.
    """

    def __init__(
        self,
        parts: Sequence[Source],
        weights: Sequence[float],
        seed: int,
        *,
        weighting: Weighting = Fixed(),  # noqa: B008 (frozen)
        num_tasks: Sequence[int] | None = None,
    ) -> None:
        if len(parts) != len(weights) or not parts or min(weights) <= 0:
            raise ValueError(f"a mixture needs a positive weight for each part, got {weights} for {len(parts)} parts")
        self._parts, self._seed = list(parts), seed
        known = zip(weights, num_tasks or [1] * len(parts), strict=True)
        self._memory = Memory([Part(weight, count) for weight, count in known], weighting)
        self._next = 0

    @property
    def shares(self) -> list[float]:
        """The probability of each part, from the groups that have ended so far."""
        return [float(share) for share in self._memory.shares()]

    def take(self, n: int) -> Awaitable[list[TrajectoryGroup]]:
        shares = self._memory.shares()
        numbers = range(self._next, self._next + n)
        self._next += n
        return gathered([self._noted(number, self._draw(number, shares)) for number in numbers])

    def _draw(self, number: int, shares: Floats) -> int:
        rng = np.random.default_rng(sequence(self._seed, Purpose.MIXTURE, number))
        return int(rng.choice(len(self._parts), p=shares))

    def _noted(self, number: int, part: int) -> Awaitable[TrajectoryGroup]:
        waiting = only(self._parts[part].take(1))  # chosen now, before it is awaited

        async def noted() -> TrajectoryGroup:
            group = await waiting
            self._memory.ended(number, part, pass_rate_of(group))
            return group

        return noted()

    def state_dict(self) -> State:
        return {"next": self._next, **self._memory.state_dict(), "parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: State) -> None:
        self._next = state["next"]
        self._memory.load_state_dict(state)
        for part, saved in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(saved)

    async def aclose(self) -> None:
        for part in self._parts:
            await part.aclose()
