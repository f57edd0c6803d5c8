"""From a run's configuration to the learners of its two phases. Owns the choice, not the update."""

from __future__ import annotations

from agentrl.learning.learner import LearnerConfig
from agentrl.learning.optimizers import Schedule
from agentrl.training.config import RLConfig, WarmStartConfig


def warm_start_learner(settings: WarmStartConfig, num_demos: int) -> LearnerConfig:
    """Muon or AdamW, annealed to zero over all updates of the warm start."""
    total = max(1, settings.epochs * num_demos // settings.batch_episodes)
    return LearnerConfig(
        lr=settings.lr,
        optimizer=settings.optimizer,
        schedule=Schedule("linear", warmup_steps=min(10, total), total_steps=total),
    )


def rl_learner(settings: RLConfig) -> LearnerConfig:
    """AdamW, annealed to `lr * lr_final` over the steps of RL."""
    return LearnerConfig(
        lr=settings.lr,
        schedule=Schedule(
            "linear", warmup_steps=settings.warmup_steps, total_steps=max(1, settings.steps), final=settings.lr_final
        ),
        max_grad_norm=settings.max_grad_norm,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        kl_coef=settings.kl_coef,
        entropy_coef=settings.entropy_coef,
        temperature=settings.temperature,
        # Below 1, the sampler's logprobs are of the truncated distribution, and no ratio with the whole one is fair.
        recompute_old_logprobs=settings.top_p < 1,
        num_epochs=settings.num_epochs,
        num_minibatches=settings.num_minibatches,
    )
