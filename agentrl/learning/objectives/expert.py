"""Cross-entropy on demonstrations that stand next to sampled episodes in one update."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from agentrl.learning.forward import Batch, Scores
from agentrl.learning.objectives.base import Objective, Sums
from agentrl.learning.rows import Row

EXPERT = "expert"
"""The column of the weight that each token of a demonstration has; 0 at sampled tokens."""


@dataclass(frozen=True)
class Expert(Objective):
    """Minus the log-probabilities of a demonstration's tokens, each times its weight; sampled tokens have none.

    Added to a policy loss, whose coefficients are 0 at these tokens, it makes
    `policy loss + weight * mean cross-entropy`: a dense signal towards the target, where reward only says how far off
    an answer is.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        return (EXPERT,)

    def ignores(self, row: Row) -> bool:
        return EXPERT not in row.columns or not row.column(EXPERT).any()

    def __call__(self, batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        loss = -(scores.logprobs * batch.column(EXPERT)).sum()
        return loss, {"loss/expert": loss.detach()}
