"""Training with demonstrations before the task: exact tokens, none in evaluations, and exact resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agentrl.errors import ConfigError
from agentrl.learning.learner import LearnerSettings
from agentrl.rollout.sources.few_shot import FewShot
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.algorithms import stage_of
from agentrl.training.settings import RunConfig
from agentrl.training.stages.evaluate import Evaluate
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from tests.training.stages.conftest import metrics_of

RunOf = Callable[..., Path]
SHOWN = FewShot(count=2, steps=4, demonstrator="yes", pool=6)
STAGE = Reinforce(steps=6, playing=Playing(3, 4, few_shot=SHOWN), checkpoint_every=2, learner=LearnerSettings(lr=3e-3))


def prompts(run: Path, stage: str) -> dict[int, set[int]]:
    """The lengths of the prompts of each step."""
    found: dict[int, set[int]] = {}
    for t in TrajectoryStore(run / "trajectories.jsonl"):
        if t.labels.stage == stage:
            found.setdefault(t.labels.step, set()).add(len(t.turns[0].action.prompt_ids or ()))
    return found


def test_demonstrations_are_context_and_evaluations_show_none(run_of: RunOf) -> None:
    short = RunConfig(evaluate_every=2, evaluate_tasks=4, tensorboard=False)
    run = run_of({"rl": STAGE, "after": Evaluate()}, run=short)
    plain = prompts(run_of({"rl": Reinforce(steps=1, playing=Playing(3, 4), learner=STAGE.learner)}, "plain"), "rl")
    shown, most = prompts(run, "rl"), max(plain[1]) + 3
    assert all(min(shown[step]) > 2 * most for step in (1, 2))
    assert all(most < min(shown[step]) and max(shown[step]) < min(shown[1]) for step in (3, 4))
    assert all(max(shown[step]) <= most for step in (5, 6))
    for stage in ("eval", "after"):
        assert all(max(lengths) <= most for lengths in prompts(run, stage).values())
    by_step: dict[int, int] = {}
    for t in TrajectoryStore(run / "trajectories.jsonl"):
        if t.labels.stage == "rl":
            by_step[t.labels.step] = by_step.get(t.labels.step, 0) + t.num_sampled_tokens
    steps = metrics_of(run, "rl")
    assert all(step["train/tokens"] == by_step[step["step"]] for step in steps if "train/tokens" in step)
    assert any("train/tokens" in step for step in steps[:2])
    assert all(step.get("mismatch/nats", 0.0) < 1e-4 for step in steps)


def test_a_resumed_run_shows_the_same(run_of: RunOf, interrupted_run_of: RunOf) -> None:
    whole, resumed = run_of({"rl": STAGE}), interrupted_run_of({"rl": STAGE}, after=3)
    assert metrics_of(resumed, "rl") == metrics_of(whole, "rl")
    assert prompts(resumed, "rl") == prompts(whole, "rl")


def test_demonstrations_and_forks_are_refused_together(run_of: RunOf) -> None:
    stage = stage_of("forked", steps=1, playing={"few_shot": {"demonstrator": "yes"}})
    with pytest.raises(ConfigError, match="leave out one of them"):
        run_of({"rl": stage})


def test_an_unknown_demonstrator_is_refused_before_the_run(run_of: RunOf, tmp_path: Path) -> None:
    playing = Playing(3, 4, few_shot=FewShot(demonstrator="yess"))
    with pytest.raises(ConfigError, match=r"playing\.few_shot\.demonstrator: Agree has no method 'yess'"):
        run_of({"rl": Reinforce(steps=1, playing=playing)}, "refused")
    assert not (tmp_path / "refused").exists()
