"""RLSF: preferences by the model's confidence in its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentrl.learning.confidence.span import sureness
from agentrl.rollout.feedback.all_pairs import AllPairs
from agentrl.trajectory import Trajectory


@dataclass(frozen=True)
class RLSF(AllPairs):
    """Prefers i over j where c_i > c_j and c_i is at least 0.9; c is the mean of p1 - p2 over the answer's tokens.

    Source: arXiv:2507.21931, section 3: DPO with beta 0.2 on these pairs, or a Bradley-Terry model with the margin
    exp(c_i - c_j).

    Attributes:
        scale_branches: multiply c by sqrt(p / p_top) of the first token, for episodes that branch there.
    """

    reads_signals: ClassVar[bool] = True
    threshold: float = 0.9
    scale_branches: bool = False

    def score(self, trajectory: Trajectory) -> float | None:
        sure = sureness(trajectory)
        if sure is None:
            return None
        return sure.disparity * (sure.branch if self.scale_branches else 1.0)
