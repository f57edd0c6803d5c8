"""Losses of preference optimisation: one of two episodes is better."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from agentrl.config import Positive
from agentrl.learning.batches import Unit
from agentrl.learning.forward import Batch, Scores
from agentrl.learning.objectives.base import Objective, Sums


@dataclass(frozen=True)
class DPO(Objective):
    """Direct preference optimisation over pairs of episodes. Source: `dpo`.

    It is no sum over tokens: a pair must stay together, which a coefficient fixed beforehand cannot say.

    Attributes:
        beta: strength of the pull towards the reference.
    """

    beta: Positive = 0.1

    @property
    def columns(self) -> tuple[str, ...]:
        return ("reference_logprobs", "sign", "coefficients")

    @property
    def unit(self) -> Unit:
        return "pair"

    def __call__(self, batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        log_ratio_N = scores.logprobs - batch.column("reference_logprobs")
        margin_U = batch.unit_sum(batch.column("sign") * log_ratio_N)
        weight_U = batch.unit_mean(batch.column("coefficients"))
        loss = (dpo(margin_U, beta=self.beta) * weight_U).sum()
        margins = margin_U.detach()
        return loss, {
            "loss/preference": loss.detach(),
            "preference/accuracy": (margins > 0).sum(),
            "preference/margin": margins.sum(),
            "preference/count": margins.new_tensor(batch.num_units),
        }


def dpo(margins: Tensor, *, beta: float) -> Tensor:
    """Preference loss on the policy itself: -log sigmoid of beta times the margin over the reference.

    Args:
        margins: (P,) log ratio to the frozen reference, summed over the tokens of the preferred answer, minus that
            of the other answer.
        beta: strength of the pull towards the reference.
    Returns: (P,) loss per pair.
    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7.
    """
    return -logsigmoid(beta * margins)


def bradley_terry(chosen_scores: Tensor, rejected_scores: Tensor) -> Tensor:
    """Preference loss of a reward model: -log sigmoid of the difference in score.

    Args: chosen_scores, rejected_scores: (P,).
    Returns: (P,) loss per pair.
    Source: Bradley and Terry 1952; as a loss Ouyang et al. 2022, arXiv:2203.02155, eq. 1.
    """
    return -logsigmoid(chosen_scores - rejected_scores)
