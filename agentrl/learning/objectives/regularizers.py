"""Penalties on a policy: its distance from a reference, and low entropy."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from agentrl.learning.forward import Batch, Scores
from agentrl.learning.objectives.base import Objective, Sums
from agentrl.learning.terms import kl_k3


@dataclass(frozen=True)
class ReferenceKL(Objective):
    """KL divergence to a frozen copy of the model at the start of the stage. Source: `kl_k3`."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("reference_logprobs", "coefficients")

    def __call__(self, batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        kl_N = kl_k3(scores.logprobs, batch.column("reference_logprobs"))
        kl = (kl_N * batch.column("coefficients")).sum()
        return kl, {"loss/kl": kl.detach()}


@dataclass(frozen=True)
class EntropyBonus(Objective):
    """Minus the entropy of the policy: with a positive weight it keeps the policy random."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("coefficients",)

    def __call__(self, batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        loss = -(scores.entropy * batch.column("coefficients")).sum()
        return loss, {"loss/entropy": loss.detach()}
