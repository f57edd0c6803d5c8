"""The reward as a weighted sum of the parts that the environment names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentrl.learning.shaping.base import Shaping
from agentrl.trajectory import Trajectory


@dataclass(frozen=True)
class Components(Shaping):
    """Weighs the named parts anew, such as the form and the correctness of tool calls (ToolRL, arXiv:2504.13958).

    A turn without parts keeps its reward.

    Attributes:
        weights: of the parts by name.
        others: weight of the parts that are not named.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    others: float = 1.0

    def rewards(self, trajectory: Trajectory) -> Sequence[float]:
        return [
            sum(self.weights.get(name, self.others) * value for name, value in turn.reward_components.items())
            if turn.reward_components
            else turn.reward
            for turn in trajectory.turns
        ]
