"""The loss of one micro-batch: policy optimisation, or supervision. Owns which terms are summed and reported.

The terms themselves are `agentrl.learning.losses`. Sums, not means: coefficients are in the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from agentrl.errors import did_you_mean
from agentrl.learning import losses
from agentrl.learning.batches import MicroBatch
from agentrl.learning.forward import TokenScorer, TokenTensors, token_logprobs
from agentrl.learning.learner_config import LearnerConfig
from agentrl.learning.rows import Row

Sums = dict[str, Tensor]
PolicyTerm = Callable[[LearnerConfig, Tensor, TokenTensors], Tensor]


def _ppo_clip(config: LearnerConfig, logprobs: Tensor, tokens: TokenTensors) -> Tensor:
    return losses.ppo_clip(
        logprobs,
        tokens.old_logprobs,
        tokens.advantages,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
    )


def _gspo(config: LearnerConfig, logprobs: Tensor, tokens: TokenTensors) -> Tensor:
    bounds = {"clip_low": config.clip_low, "clip_high": config.clip_high}
    return losses.gspo(logprobs, tokens.old_logprobs, tokens.advantages, tokens.rows, **bounds)


def _cispo(config: LearnerConfig, logprobs: Tensor, tokens: TokenTensors) -> Tensor:
    bounds = {"clip_low": config.clip_low, "clip_high": config.clip_high}
    return losses.cispo(logprobs, tokens.old_logprobs, tokens.advantages, **bounds)


def _policy_gradient(config: LearnerConfig, logprobs: Tensor, tokens: TokenTensors) -> Tensor:
    return losses.policy_gradient(logprobs, tokens.old_logprobs, tokens.advantages)


POLICY_TERMS: dict[str, PolicyTerm] = {
    "ppo_clip": _ppo_clip,
    "gspo": _gspo,
    "cispo": _cispo,
    "policy_gradient": _policy_gradient,
}


class PolicyObjective:
    """Policy loss, entropy bonus and KL to the reference, summed over the tokens of a micro-batch."""

    def __init__(self, config: LearnerConfig, scorer: TokenScorer, reference: TokenScorer | None) -> None:
        if config.loss not in POLICY_TERMS:
            raise ValueError(f"unknown loss {config.loss!r}.{did_you_mean(config.loss, POLICY_TERMS)}")
        self.config, self.scorer, self.reference = config, scorer, reference
        self.term = POLICY_TERMS[config.loss]

    def needs(self, row: Row) -> bool:
        """Whether the row can change the gradient: a zero advantage matters to KL and entropy alone."""
        return bool(self.config.kl_coef or self.config.entropy_coef or row.advantages.any())

    def __call__(self, batch: MicroBatch) -> tuple[Tensor, Sums]:
        config, tokens = self.config, TokenTensors.of(batch, self.scorer.device)
        logits = self.scorer.logits(batch)
        logprobs = token_logprobs(logits, tokens.targets)
        total = policy = (self.term(config, logprobs, tokens) * tokens.coefficients).sum()
        with torch.set_grad_enabled(config.entropy_coef != 0):
            entropy_N = losses.entropy_of_logits(logits)
        sums = {"loss/policy": policy.detach(), "policy/entropy": entropy_N.detach().sum()}
        if config.entropy_coef:
            total = total - config.entropy_coef * (entropy_N * tokens.coefficients).sum()
        if self.reference is not None:
            with torch.no_grad():
                reference = self.reference.logprobs(batch, tokens.targets)
            kl = (losses.kl_k3(logprobs, reference) * tokens.coefficients).sum()
            total = total + config.kl_coef * kl
            sums["loss/kl"] = kl.detach()
        return total, sums | self._diagnostics(logprobs.detach(), tokens)

    def _diagnostics(self, logprobs: Tensor, tokens: TokenTensors) -> Sums:
        """Per-token sums that say how far the policy is from the one that sampled."""
        ratio = torch.exp(logprobs - tokens.old_logprobs)
        above = (ratio > 1.0 + self.config.clip_high) & (tokens.advantages > 0)
        below = (ratio < 1.0 - self.config.clip_low) & (tokens.advantages < 0)
        return {
            "policy/clip_fraction": (above | below).sum(),
            "policy/approx_kl": losses.kl_k3(tokens.old_logprobs, logprobs).sum(),
            "policy/ratio_mean": ratio.sum(),
            "tokens": torch.tensor(len(ratio)),
        }


class SupervisedObjective:
    """Cross-entropy of the trained tokens, weighed by their coefficients."""

    def __init__(self, scorer: TokenScorer) -> None:
        self.scorer = scorer

    def needs(self, row: Row) -> bool:
        """Every row with a token to train."""
        return row.num_trained > 0

    def __call__(self, batch: MicroBatch) -> tuple[Tensor, Sums]:
        tokens = TokenTensors.of(batch, self.scorer.device)
        logits = self.scorer.logits(batch)
        logprobs = token_logprobs(logits, tokens.targets)
        loss = -(logprobs * tokens.coefficients).sum()
        return loss, {
            "loss/supervised": loss.detach(),
            "supervised/nll": -logprobs.detach().sum(),
            "supervised/accuracy": (logits.detach().argmax(-1) == tokens.targets).sum(),
            "tokens": torch.tensor(len(logprobs)),
        }


Objective = PolicyObjective | SupervisedObjective


@torch.no_grad()
def recompute_old_logprobs(
    rows: Sequence[Row], batches: Sequence[MicroBatch], scorer: TokenScorer, importance: str
) -> list[Row]:
    """Rows whose old logprobs come from the model as it stands, corrected for the sampler's numerics.

    The correction multiplies the advantages: every policy loss is proportional to them.

    Args:
        rows: with the sampler's logprobs.
        batches: a layout of exactly these rows.
        importance: `none`, `tis` or `icepop`.
    """
    updated = list(rows)
    for batch in batches:
        tokens = TokenTensors.of(batch, scorer.device)
        logprobs = scorer.logprobs(batch, tokens.targets)
        weights = _importance_weights(logprobs - tokens.old_logprobs, importance)
        for number, source in enumerate(batch.sources):
            chosen = batch.rows == number
            old, advantages = rows[source].old_logprobs.copy(), rows[source].advantages.copy()
            old[rows[source].mask] = logprobs.cpu().numpy()[chosen]
            advantages[rows[source].mask] *= weights.cpu().numpy()[chosen].astype(np.float32)
            updated[source] = replace(rows[source], old_logprobs=old, advantages=advantages)
    return updated


def _importance_weights(log_ratio: Tensor, importance: str) -> Tensor:
    if importance == "tis":
        return losses.truncated_importance(log_ratio)
    if importance == "icepop":
        return losses.icepop_importance(log_ratio)
    if importance != "none":
        raise ValueError(f"importance must be 'none', 'tis' or 'icepop', got {importance!r}")
    return torch.ones_like(log_ratio)
