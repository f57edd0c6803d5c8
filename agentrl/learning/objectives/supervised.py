"""Cross-entropy on the trained tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from agentrl.learning.forward import Batch, Scores
from agentrl.learning.objectives.base import Objective, Sums


@dataclass(frozen=True)
class Supervised(Objective):
    """Cross-entropy, each token weighed by its coefficient."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("coefficients",)

    def __call__(self, batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        loss = -(scores.logprobs * batch.column("coefficients")).sum()
        return loss, {
            "loss/supervised": loss.detach(),
            "supervised/nll": -scores.logprobs.detach().sum(),
            "supervised/accuracy": scores.is_top.sum(),
        }
