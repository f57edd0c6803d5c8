"""Penalties on a policy: its distance from a reference, and low entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from agentrl.learning.forward import Batch, Scores
from agentrl.learning.objectives.base import Objective, Sums
from agentrl.learning.rows import Row
from agentrl.learning.terms import kl_k3, kl_loss


@dataclass(frozen=True)
class ReferenceKL(Objective):
    """KL divergence to a frozen copy of the model at the start of the stage. Source: `kl_loss`.

    Attributes:
        estimator: `k1`, `k2` or `k3`.
        gradient: `own`, `k2` or `ratio`; `own` for k1 has no expected gradient and is refused.
    """

    estimator: Literal["k1", "k2", "k3"] = "k3"
    gradient: Literal["own", "k2", "ratio"] = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.estimator == "k1" and self.gradient == "own":
            raise ValueError(
                "the expected gradient of k1 is zero: set gradient = 'k2' or 'ratio', take k2 or k3, or put the "
                "penalty into the reward"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        old = ("old_logprobs",) if self.gradient == "ratio" else ()
        return ("reference_logprobs", *old, "coefficients")

    def __call__(self, batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        old = batch.column("old_logprobs") if self.gradient == "ratio" else None
        kl_N = kl_loss(
            scores.logprobs,
            batch.column("reference_logprobs"),
            estimator=self.estimator,
            gradient=self.gradient,
            old_logprobs=old,
        )
        kl = (kl_N * batch.column("coefficients")).sum()
        return kl, {"loss/kl": kl.detach()}


@dataclass(frozen=True)
class ReferenceDistance(Objective):
    """No loss: it keeps a reference model and reports the KL to it, for a penalty that stands in the reward."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("reference_logprobs",)

    def __call__(self, batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        with torch.no_grad():
            kl = kl_k3(scores.logprobs, batch.column("reference_logprobs")).sum()
        return scores.logprobs.new_zeros(()), {"policy/reference_kl": kl}

    def ignores(self, row: Row) -> bool:
        return True


@dataclass(frozen=True)
class EntropyBonus(Objective):
    """Minus the entropy of the policy: with a positive weight it keeps the policy random."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("coefficients",)

    def __call__(self, batch: Batch, scores: Scores) -> tuple[Tensor, Sums]:
        loss = -(scores.entropy * batch.column("coefficients")).sum()
        return loss, {"loss/entropy": loss.detach()}
