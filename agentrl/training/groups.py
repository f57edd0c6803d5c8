"""What a step's episodes were like."""

from __future__ import annotations

from collections.abc import Sequence

from agentrl.bench.evaluate import EvalResult
from agentrl.learning.credit.base import differs
from agentrl.trajectory import TrajectoryGroup


def rollout_metrics(groups: Sequence[TrajectoryGroup]) -> dict[str, float]:
    """Means over the sampled episodes of a step, faults counted apart."""
    episodes = [t for group in groups for t in group.trajectories]
    scored = [t for t in episodes if t.status != "fault"]
    count = max(len(scored), 1)
    return {
        "rollout/reward_mean": sum(t.reward for t in scored) / count,
        "rollout/success": sum(t.success for t in scored) / count,
        "rollout/turns_mean": sum(len(t.turns) for t in scored) / count,
        "rollout/tokens_mean": sum(t.num_sampled_tokens for t in scored) / count,
        "rollout/truncated": sum(t.status == "truncated" for t in scored) / count,
        "rollout/faults": float(len(episodes) - len(scored)),
        "rollout/groups_equal": float(sum(not differs(g) for g in groups)) / max(len(groups), 1),
    }


def eval_metrics(result: EvalResult) -> dict[str, float]:
    """Success and reward of an evaluation with their 95% intervals, and its wall seconds."""
    (low, high), (reward_low, reward_high) = result.ci95, result.reward.ci95
    return {
        "eval/success": result.mean,
        "eval/ci95_low": low,
        "eval/ci95_high": high,
        "eval/reward_mean": result.reward_mean,
        "eval/reward_mean_ci95_low": reward_low,
        "eval/reward_mean_ci95_high": reward_high,
        "time/eval_s": result.wall_s,
    }
