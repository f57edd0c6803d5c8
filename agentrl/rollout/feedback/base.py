"""The contract of feedback: new groups, with reward components or preferences added.

A third party adds one as a frozen dataclass by an entry point in `agentrl.feedbacks`, or by its reference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from agentrl.config import Count, NotNegative
from agentrl.learning.shaping.base import with_rewards
from agentrl.registry import Registry
from agentrl.trajectory import Trajectory, TrajectoryGroup

FEEDBACKS = Registry(
    "feedback",
    "agentrl.feedbacks",
    {
        "reward_model": "agentrl.rollout.feedback.reward_model:RewardModel",
        "judge": "agentrl.rollout.feedback.judge:ByJudge",
        "prefer_rewarded": "agentrl.rollout.feedback.rewarded:PreferRewarded",
        "reward_crps": "agentrl.rollout.feedback.group_numbers:RewardCRPS",
        "reward_leave_one_out": "agentrl.rollout.feedback.group_numbers:RewardLeaveOneOut",
        "prefer_confident": "agentrl.rollout.feedback.confident:PreferConfident",
        "rlsf": "agentrl.rollout.feedback.rlsf:RLSF",
        "gold_pairs": "agentrl.rollout.feedback.gold_pairs:GoldPairs",
        "random_pairs": "agentrl.rollout.feedback.random_pairs:RandomPairs",
        "confidence": "agentrl.rollout.feedback.intrinsic.confidence:Confidence",
        "most_confident": "agentrl.rollout.feedback.intrinsic.confidence:MostConfident",
        "majority_vote": "agentrl.rollout.feedback.intrinsic.majority:MajorityVote",
        "negative_entropy": "agentrl.rollout.feedback.intrinsic.entropy:NegativeEntropy",
        "self_certainty": "agentrl.rollout.feedback.intrinsic.entropy:SelfCertainty",
        "correct_minus_brier": "agentrl.rollout.feedback.intrinsic.rlcr:CorrectMinusBrier",
        "ensemble": "agentrl.rollout.feedback.intrinsic.ensemble:Ensemble",
    },
)


class Feedback(ABC):
    """A frozen dataclass of its own numbers. It never changes success and never drops an episode.

    An episode that it cannot score, since a server of its own failed, ends in a fault: it does not train.

    Attributes:
        reads_signals: whether episodes have to say how sure the model was of each token (`Action.signals`).
    """

    reads_signals: ClassVar[bool] = False

    def check(self, key: str) -> None:
        """Refuse what cannot work, before a run's folder is made; by default nothing is refused.

        Args: key: of the feedback in the TOML, for messages.
        Raises: ConfigError: what is wrong, and what to do.
        """

    @property
    def stages(self) -> Sequence[str]:
        """Names of the earlier stages of the run whose reward models it reads."""
        return ()

    @property
    def metrics(self) -> Mapping[str, float]:
        """What it counted so far, by the names of metrics."""
        return {}

    def in_run(self, reward_model: Callable[[str], Path]) -> Feedback:
        """The feedback as a stage of a run uses it; by default it is the same in every run.

        Args: reward_model: the model folder of the reward model that a stage of the run trained.
        """
        return self

    @abstractmethod
    async def __call__(self, groups: Sequence[TrajectoryGroup]) -> list[TrajectoryGroup]:
        """The groups with what it adds."""


def stages_of(feedback: Sequence[Feedback]) -> list[str]:
    """Names of the earlier stages whose reward models some feedback reads."""
    return [stage for add in feedback for stage in add.stages]


def metrics_of(feedback: Sequence[Feedback]) -> dict[str, float]:
    """What feedback counted so far."""
    return {name: value for add in feedback for name, value in add.metrics.items()}


def rewarded(episode: Trajectory, part: str, score: float, *, weight: float, keep: float) -> Trajectory:
    """A copy whose last turn earned a score too, as a named part; success stays what it was.

    Args:
        episode: with at least one turn.
        weight: of the score.
        keep: factor of the environment's own rewards.
    """
    rewards = [keep * turn.reward for turn in episode.turns]
    rewards[-1] += weight * score
    made = with_rewards(episode, rewards)
    made.turns[-1].reward_components = {**made.turns[-1].reward_components, part: score}
    return replace(made, info={**episode.info, "success": episode.success})


@dataclass(frozen=True)
class PreferByScore(Feedback):
    """Adds preferences to each group: the episode of the highest score over that of the lowest, and so on inwards.

    Episodes that continue another one are compared with those that continue it from the same turn.

    Attributes:
        margin: the difference in score that must be exceeded.
        pairs: most preferences among episodes that began in the same state; no episode is in two of them.
    """

    margin: NotNegative = 0.0
    pairs: Count = 1

    @abstractmethod
    def score(self, trajectory: Trajectory) -> float | None:
        """The score of an episode that trains; None leaves it out."""

    async def __call__(self, groups: Sequence[TrajectoryGroup]) -> list[TrajectoryGroup]:
        return [replace(group, preferences=self._preferences(group), margins=()) for group in groups]

    def _preferences(self, group: TrajectoryGroup) -> tuple[tuple[int, int], ...]:
        known: dict[tuple[str, int] | None, list[tuple[float, int]]] = {}
        for index, trajectory in enumerate(group.trajectories):
            score = self.score(trajectory) if trajectory.trains else None
            if score is not None:
                known.setdefault(trajectory.fork, []).append((score, index))
        return tuple(pair for alike in known.values() for pair in self._inwards(sorted(alike)))

    def _inwards(self, known: Sequence[tuple[float, int]]) -> list[tuple[int, int]]:
        """Args: known: (score, index) in ascending order."""
        inwards = zip(reversed(known), known[: min(self.pairs, len(known) // 2)], strict=False)
        return [(best, worst) for (high, best), (low, worst) in inwards if high - low > self.margin]
