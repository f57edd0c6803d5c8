"""The learner's configuration. Owns defaults and their checks, not behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from agentrl.learning.optimizers import OptimizerName, Schedule

PolicyLoss = Literal["ppo_clip", "gspo", "cispo", "policy_gradient"]
Importance = Literal["none", "tis", "icepop"]


@dataclass(frozen=True)
class LearnerConfig:
    """How rows become an update.

    Attributes:
        lr, betas, weight_decay: of the optimiser.
        optimizer: `adamw`, or `muon` for the matrices inside the layers with AdamW for the rest.
        adamw_lr: AdamW's rate beside Muon; None is 0.3 times `lr`.
        max_grad_norm: the gradient is scaled down to this norm; 0 leaves it alone.
        schedule: of the learning rate, over calls of `step` or `supervised_step`.
        loss: which policy loss of `agentrl.learning.losses`.
        clip_low, clip_high: bounds of the probability ratio (`ppo_clip`, `gspo`) or weight (`cispo`).
        dual_clip: bound of `ppo_clip` on the loss of negative advantages; None for none.
        kl_coef: weight of the KL (k3) to a frozen copy of the model; 0 keeps no copy.
        entropy_coef: weight of the entropy bonus.
        temperature: the sampling temperature of the rows.
        recompute_old_logprobs: take the ratio's denominator from a forward pass before the update,
            not from the sampler: for samplers whose numerics differ from the model's.
        importance: correction for that difference: truncated (`tis`) or masked (`icepop`) weights;
            needs `recompute_old_logprobs`.
        num_epochs: passes over the rows of a step.
        num_minibatches: updates per pass; the rows are shuffled into them by trajectory.
        micro_batch_tokens: most tokens of a forward pass: a matter of memory and speed alone.
        layout: `pad` (rows of like length side by side) or `pack` (one behind the other).
        attention: attention implementation during the update; None leaves the model's own.
        matmul_precision: of float32 products during the update. Lower ones use bfloat16 or TF32.
        autocast: bfloat16 autocast.
        seed: of the shuffling into minibatches.
    """

    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    optimizer: OptimizerName = "adamw"
    adamw_lr: float | None = None
    max_grad_norm: float = 1.0
    schedule: Schedule = field(default_factory=Schedule)
    loss: PolicyLoss = "ppo_clip"
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = None
    kl_coef: float = 0.0
    entropy_coef: float = 0.0
    temperature: float = 1.0
    recompute_old_logprobs: bool = False
    importance: Importance = "none"
    num_epochs: int = 1
    num_minibatches: int = 1
    micro_batch_tokens: int = 4096
    layout: Literal["pad", "pack"] = "pad"
    attention: str | None = None
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    autocast: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_epochs", "num_minibatches", "micro_batch_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "weight_decay", "max_grad_norm", "kl_coef"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.layout not in ("pad", "pack"):
            raise ValueError(f"layout must be 'pad' or 'pack', got {self.layout!r}")
        if self.importance != "none" and not self.recompute_old_logprobs:
            raise ValueError(f"importance {self.importance!r} needs recompute_old_logprobs = true to have a ratio")
