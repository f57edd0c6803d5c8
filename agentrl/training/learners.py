"""From a run's configuration to the learners of its two phases. Owns the choice, not the update."""

from __future__ import annotations

from agentrl.learning.learner import LearnerSettings
from agentrl.learning.objectives.base import Objective, weighted
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.objectives.regularizers import EntropyBonus, ReferenceKL
from agentrl.learning.optimizers import Schedule
from agentrl.training.config import RLConfig, WarmStartConfig


def warm_start_steps(settings: WarmStartConfig, num_demos: int) -> int:
    """Updates of the warm start, at least 1."""
    return max(1, settings.epochs * num_demos // settings.batch_episodes)


def warm_start_learner(settings: WarmStartConfig, num_demos: int) -> LearnerSettings:
    """Muon or AdamW, annealed to zero over all updates of the warm start."""
    return LearnerSettings(
        lr=settings.lr,
        optimizer=settings.optimizer,
        schedule=Schedule("linear", warmup_steps=min(10, warm_start_steps(settings, num_demos))),
    )


def rl_learner(settings: RLConfig) -> LearnerSettings:
    """AdamW, annealed to `lr * lr_final` over the steps of RL."""
    return LearnerSettings(
        lr=settings.lr,
        schedule=Schedule("linear", warmup_steps=settings.warmup_steps, final=settings.lr_final),
        max_grad_norm=settings.max_grad_norm,
        num_epochs=settings.num_epochs,
        num_minibatches=settings.num_minibatches,
    )


def rl_objective(settings: RLConfig) -> Objective:
    """The clipped surrogate, with KL and entropy where they have a weight."""
    clip = PPOClip(clip_low=settings.clip_low, clip_high=settings.clip_high)
    return weighted([(1.0, clip), (settings.entropy_coef, EntropyBonus()), (settings.kl_coef, ReferenceKL())])
