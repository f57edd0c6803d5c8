"""The stage `reinforce` as a user runs it: several environments, value heads, sampling ahead, resume."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentrl.errors import ConfigError, EnvNotFound
from agentrl.learning.credit.base import Credit
from agentrl.learning.credit.gae import TurnGAE
from agentrl.learning.credit.group_relative import GRPO, DrGRPO
from agentrl.learning.credit.remax import ReMax
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.rows import Row
from agentrl.learning.shaping.base import Shaping
from agentrl.messages import Action
from agentrl.rollout.sources.curriculum import Curriculum
from agentrl.rollout.sources.levels import Levels
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.model_setup import ModelConfig
from agentrl.training.settings import EnvConfig, SamplingConfig
from agentrl.training.stages.playing import GrowingTurns, Playing, sampled_tokens
from agentrl.training.stages.prefer import Prefer
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import train
from agentrl.trajectory import EnvRef, Task, Trajectory, TrajectoryGroup, Turn
from tests.training.stages.conftest import CONFIG, metrics_of

RunOf = Callable[..., Path]
FAST = LearnerSettings(lr=3e-3)
AHEAD = Reinforce(steps=6, playing=Playing(3, 4, max_lag=1), checkpoint_every=2, learner=FAST)


def episodes(run: Path) -> list[Any]:
    return [
        (t.labels.step, t.episode_id, t.task.id, t.seed, t.reward, [turn.action.token_ids for turn in t.turns])
        for t in TrajectoryStore(run / "trajectories.jsonl")
    ]


def groups_by_step(run: Path) -> list[list[tuple[str, str, int]]]:
    """Group id, task and seed of each group, step by step."""
    steps: dict[int, dict[tuple[str, str, int], None]] = {}
    for t in TrajectoryStore(run / "trajectories.jsonl"):
        steps.setdefault(t.labels.step, {}).setdefault((t.group_id, t.task.id, t.seed))
    return [list(steps[number]) for number in sorted(steps)]


def test_ppo_over_two_bundled_environments_sampling_ahead(tmp_path: Path) -> None:
    calculator = "agentrl/Calculator-v0"
    config = replace(
        CONFIG,
        env=EnvConfig("agentrl/Shop-v0", max_turns=3),
        sampling=SamplingConfig(max_tokens=16),
        stages={
            "copy": Supervise({"oracle": 1.0}, num_episodes=32, epochs=1, batch_episodes=16),
            "ppo": Reinforce(
                steps=4,
                playing=Playing(4, 2, max_lag=1, mixture={"own": 0.5, calculator: 0.5}),
                credit=TurnGAE(),
                learner=FAST,
            ),
        },
    )
    train(config, tmp_path / "run")
    steps = metrics_of(tmp_path / "run", "ppo")
    assert all(step["train/rows"] >= 8 for step in steps)
    assert all(math.isfinite(step["loss/policy"]) and math.isfinite(step["loss/value"]) for step in steps)
    groups: dict[str, list[Any]] = {}
    for t in TrajectoryStore(tmp_path / "run" / "trajectories.jsonl"):
        groups.setdefault(t.group_id, []).append((t.env.id, dict(t.env.limits)))
    assert len(groups) == 16
    for name, members in groups.items():
        own = name.startswith("own-")
        expected = ("agentrl/Shop-v0", {"max_turns": 3}) if own else (calculator, {})
        assert members == [expected] * 2
    assert {name.rpartition("-")[0] for name in groups} == {"own", calculator}
    assert any("rollout/success@Calculator-v0" in step for step in steps)


def test_reward_is_learnt_from_two_environments_with_a_value_head(run_of: RunOf) -> None:
    playing = Playing(4, 8, max_lag=1, mixture={"own": 1.0, "test/AgreeTwice-v0": 1.0})
    learner = replace(FAST, lr=1e-2)
    stage = Reinforce(steps=8, playing=playing, credit=TurnGAE(), learner=learner)
    run = run_of({"ppo": stage})
    steps = metrics_of(run, "ppo")
    assert np.mean([s["rollout/success"] for s in steps[-2:]]) > steps[0]["rollout/success"] + 0.2
    assert steps[-1]["value/error"] < steps[0]["value/error"]
    assert {t.env.id for t in TrajectoryStore(run / "trajectories.jsonl")} == {"test/Agree-v0", "test/AgreeTwice-v0"}


def test_sampling_ahead_uses_tokens_at_most_one_update_old(run_of: RunOf) -> None:
    """The weights of step N have version N - 1; those of the batch before are one older."""
    lags = Counter(
        t.labels.step - 1 - version
        for t in TrajectoryStore(run_of({"rl": AHEAD}) / "trajectories.jsonl")
        for turn in t.turns
        for version in turn.action.versions or ()
    )
    assert set(lags) == {0, 1}


def test_a_resumed_stage_that_samples_ahead_skips_no_task_and_trains_none_twice(
    run_of: RunOf, interrupted_run_of: RunOf
) -> None:
    whole, resumed = run_of({"rl": AHEAD}), interrupted_run_of({"rl": AHEAD}, after=3)
    groups = groups_by_step(whole)
    assert groups_by_step(resumed) == groups
    assert [name for step in groups for name, _, _ in step] == [str(number) for number in range(18)]


def test_a_resumed_mixture_goes_on_with_the_same_groups(run_of: RunOf, interrupted_run_of: RunOf) -> None:
    playing = replace(AHEAD.playing, mixture={"own": 1.0, "test/AgreeTwice-v0": 2.0})
    stages = {"rl": replace(AHEAD, playing=playing)}
    assert groups_by_step(interrupted_run_of(stages, after=3)) == groups_by_step(run_of(stages))


def test_a_resumed_stage_that_samples_in_turn_is_bit_identical(run_of: RunOf, interrupted_run_of: RunOf) -> None:
    stages = {"rl": replace(AHEAD, playing=Playing(3, 4), credit=TurnGAE())}
    whole, resumed = run_of(stages), interrupted_run_of(stages, after=3)
    assert metrics_of(resumed, "rl") == metrics_of(whole, "rl")
    assert episodes(resumed) == episodes(whole)


def test_a_greedy_baseline_is_recorded_and_counts_nowhere(run_of: RunOf, interrupted_run_of: RunOf) -> None:
    stage = Reinforce(steps=6, playing=Playing(4, 4), credit=ReMax(), checkpoint_every=2, learner=FAST)
    run = run_of({"rl": stage})
    steps = metrics_of(run, "rl")
    assert np.mean([s["rollout/success"] for s in steps[-3:]]) > steps[0]["rollout/success"]
    assert any(step["grad/norm"] > 0 for step in steps)
    recorded = list(TrajectoryStore(run / "trajectories.jsonl"))
    assert Counter((t.labels.step, t.labels.mode) for t in recorded) == {
        (step, mode): count for step in range(1, 7) for mode, count in (("sampled", 16), ("greedy", 4))
    }
    first = [t for t in recorded if t.labels.step == 1 and t.labels.mode == "sampled"]
    assert steps[0]["rollout/success"] == sum(t.success for t in first) / 16
    assert steps[0]["train/tokens"] == sum(t.num_sampled_tokens for t in first)
    assert steps[0]["rollout/tokens"] == sum(t.num_sampled_tokens for t in recorded if t.labels.step == 1)
    assert steps[0]["train/rows"] == 16
    resumed = interrupted_run_of({"rl": stage}, after=3)
    assert metrics_of(resumed, "rl") == steps
    assert episodes(resumed) == episodes(run)


def test_a_resumed_curriculum_remembers(run_of: RunOf, interrupted_run_of: RunOf) -> None:
    playing = Playing(3, 4, curriculum=Curriculum(explore=0.5))
    stages = {"rl": Reinforce(steps=8, playing=playing, checkpoint_every=2, learner=FAST)}
    whole, resumed = run_of(stages), interrupted_run_of(stages, after=5)
    assert episodes(resumed) == episodes(whole)
    tasks = [task for step in groups_by_step(whole) for _, task, _ in step]
    assert len(tasks) == 24 > 2 + len(set(tasks))  # a shuffled order plays all twelve before one again


def test_levels_of_a_bundled_environment_follow_each_other(tmp_path: Path) -> None:
    config = replace(
        CONFIG,
        env=EnvConfig("agentrl/FrozenLake-v0", kwargs={"level": 3}),
        sampling=SamplingConfig(max_tokens=8),
        stages={
            "copy": Supervise({"oracle": 1.0}, num_episodes=16, epochs=1, batch_episodes=8),
            "rl": Reinforce(steps=3, playing=Playing(2, 2, levels=Levels((1, 2), pass_rate=0.0, groups=2))),
        },
    )
    train(config, tmp_path / "run")
    recorded = list(TrajectoryStore(tmp_path / "run" / "trajectories.jsonl"))
    levels = {(t.labels.step, t.env.kwargs["level"]) for t in recorded if t.labels.stage == "rl"}
    assert levels == {(1, 1), (2, 2), (3, 2)}


def test_a_level_that_does_not_exist_is_refused(run_of: RunOf) -> None:
    playing = Playing(2, 2, levels=Levels((1, 2)))
    with pytest.raises(ConfigError, match=r"stages.rl.playing.levels: test/Agree-v0 has no level = 1"):
        run_of({"rl": Reinforce(steps=1, playing=playing)})


def test_a_curriculum_is_not_drawn_ahead(run_of: RunOf) -> None:
    playing = Playing(3, 4, max_lag=1, curriculum=Curriculum())
    with pytest.raises(ConfigError, match="set max_lag = 0"):
        run_of({"rl": Reinforce(steps=1, playing=playing)})


def test_a_stage_ends_when_its_tokens_are_sampled(run_of: RunOf, interrupted_run_of: RunOf) -> None:
    """The greedy baselines of ReMax count too; a resumed run ends at the same step."""
    whole = Reinforce(steps=4, playing=Playing(3, 4), credit=ReMax(), checkpoint_every=1, learner=FAST)
    sampled = Counter()
    for t in TrajectoryStore(run_of({"rl": whole}, "whole") / "trajectories.jsonl"):
        sampled[t.labels.step] += t.num_sampled_tokens
    enough = sampled[1] + sampled[2] + 1
    limited = {"rl": replace(whole, max_sampled_tokens=enough)}
    run = run_of(limited)
    assert [step["step"] for step in metrics_of(run, "rl")] == [1, 2, 3]
    assert metrics_of(interrupted_run_of(limited, after=2), "rl") == metrics_of(run, "rl")
    exact = run_of({"rl": replace(whole, max_sampled_tokens=enough - 1)}, "exact")
    assert [step["step"] for step in metrics_of(exact, "rl")] == [1, 2]


def test_a_fork_counts_the_tokens_that_it_sampled_itself() -> None:
    turns = [Turn((), Action("a", token_ids=ids)) for ids in ((1, 2, 3), (4, 5))]
    played = Trajectory(EnvRef("test/T-v0"), Task("t", "train", {}), 0, turns, episode_id="e")
    forked = replace(played, fork=("e", 1), episode_id="f")
    assert sampled_tokens([TrajectoryGroup("g", [played, forked])]) == 5 + 2


def first_update(run_of: RunOf, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[list[Row], Any]:
    """The rows of the first update of a run, and its metrics."""
    seen: list[list[Row]] = []
    update = Learner.update

    async def spied(self: Learner, rows: Any, objective: Any) -> Any:
        seen.append(list(rows))
        return await update(self, rows, objective)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", spied)
        stage = Reinforce(steps=1, playing=Playing(16, 4), learner=FAST, **settings)
        (metrics,) = metrics_of(run_of({"rl": stage}, name=f"run-{len(seen)}-{sorted(settings)}"), "rl")
    return seen[0], metrics


def test_groups_that_do_not_differ_count_in_the_weights_of_the_step(
    run_of: RunOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient is that of a mean over all sampled tokens; `differing` makes it a mean over those of some groups."""
    rows, metrics = first_update(run_of, monkeypatch)
    tokens = sum(row.num_trained for row in rows)
    assert {float(c) for row in rows for c in row.column("coefficients")[row.mask]} == {float(np.float32(1 / tokens))}
    assert 0 < metrics["rollout/groups_trained"] < 16
    assert metrics["rollout/groups_trained"] == 16 * (1 - metrics["rollout/groups_equal"])
    other, less = first_update(run_of, monkeypatch, weight="differing")
    taught = {row.trajectory // 4 for row in rows if row.column("advantages").any()}
    kept = sum(row.num_trained for row in rows if row.trajectory // 4 in taught)
    assert {float(c) for row in other for c in row.column("coefficients")[row.mask]} == {0, float(np.float32(1 / kept))}
    assert less["grad/norm"] == pytest.approx(metrics["grad/norm"] * tokens / kept, rel=1e-4)


def test_rows_without_an_advantage_go_through_no_model(run_of: RunOf, monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[int] = []
    fill = Learner.fill

    async def spied(self: Learner, rows: Any, column: str) -> Any:
        filled.append(len(rows))
        return await fill(self, rows, column)

    monkeypatch.setattr(Learner, "fill", spied)
    rows, _ = first_update(run_of, monkeypatch, recompute_old_logprobs=True)
    assert filled == [sum(bool(row.column("advantages").any()) for row in rows)]
    assert filled[0] < len(rows)


def test_how_likely_tokens_were_for_the_model_that_learns_is_recorded(run_of: RunOf) -> None:
    """Also under a shaping, which gives the estimator other turns than those of the record; weights stay the same."""
    stage = Reinforce(steps=3, playing=Playing(4, 4, max_lag=1), shaping=(Minus(),), learner=FAST)
    plain, noted = run_of({"rl": stage}), run_of({"rl": replace(stage, record_ratios=True)}, "noted")
    assert metrics_of(noted, "rl")[-1]["loss/policy"] == metrics_of(plain, "rl")[-1]["loss/policy"]
    episodes = list(TrajectoryStore(noted / "trajectories.jsonl"))
    differs = {
        group: len({t.reward for t in episodes if t.group_id == group}) > 1 for t in episodes for group in [t.group_id]
    }
    known = [turn for t in episodes for turn in t.turns if differs[t.group_id]]
    assert known
    for turn in known:
        assert turn.trainer_logprobs == pytest.approx(turn.action.logprobs, abs=1.0)
    assert any(turn.trainer_logprobs != turn.action.logprobs for turn in known)
    fresh = [turn for t in episodes for turn in t.turns if differs[t.group_id] and t.labels.step == 1]
    assert all(turn.trainer_logprobs == pytest.approx(turn.action.logprobs, abs=1e-4) for turn in fresh)
    assert all(turn.trainer_logprobs is None for t in episodes for turn in t.turns if not differs[t.group_id])
    assert all(turn.trainer_logprobs is None for t in TrajectoryStore(plain / "trajectories.jsonl") for turn in t.turns)


def test_dynamic_sampling_that_finds_too_few_groups_does_not_enlarge_their_weight(
    run_of: RunOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, metrics = first_update(run_of, monkeypatch, dynamic_sampling=True, dynamic_sampling_max=1)
    assert metrics["rollout/groups_trained"] < 16
    assert {row.trajectory // 4 for row in rows} == set(range(16))


def test_a_shaping_changes_what_trains_and_nothing_that_is_recorded(
    run_of: RunOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every reward turned round: the advantages change their sign, the success that is reported does not."""
    plain, metrics = first_update(run_of, monkeypatch, credit=DrGRPO())
    turned, same = first_update(run_of, monkeypatch, credit=DrGRPO(), shaping=(Minus(),))
    for row, other in zip(plain, turned, strict=True):
        assert other.column("advantages").tolist() == (-row.column("advantages")).tolist()
    assert same["rollout/success"] == metrics["rollout/success"] == same["rollout/reward_mean"]


def test_groups_of_little_spread_are_left_out(run_of: RunOf, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = first_update(run_of, monkeypatch)
    rows, metrics = first_update(run_of, monkeypatch, keep_groups=0.25)
    assert len(rows) == 4 * 4
    assert metrics["rollout/groups_trained"] == 4
    assert all(any(row.column("advantages").any() for row in rows[i : i + 4]) for i in range(0, 16, 4))
    assert len(plain) == 16 * 4


def test_tasks_that_are_too_hard_or_too_easy_are_left_out(run_of: RunOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment's own success, whatever the shaped reward; under dynamic sampling others are played."""
    plain, _ = first_update(run_of, monkeypatch)
    rates = [np.mean([row.column("advantages").max() > 0 for row in plain[i : i + 4]]) for i in range(0, 64, 4)]
    rows, _ = first_update(run_of, monkeypatch, pass_rate_band=(0.5, 0.5), shaping=(Minus(),))
    assert 0 < len(rows) / 4 == sum(rate == 0.5 for rate in rates) < 16
    more, metrics = first_update(run_of, monkeypatch, pass_rate_band=(0.25, 0.75), dynamic_sampling=True)
    assert len(more) / 4 == metrics["rollout/groups_trained"] == 16
    assert all(1 <= sum(row.column("advantages").max() > 0 for row in more[i : i + 4]) <= 3 for i in range(0, 64, 4))
    with pytest.raises(ValueError, match="must be"):
        Reinforce(pass_rate_band=(0.9, 0.1))


def test_a_kl_penalty_in_the_reward_by_hand(run_of: RunOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference gives each token half a nat less than the sampler, so an episode pays for its tokens."""

    async def half_a_nat(self: Learner, rows: Any, column: str) -> Any:
        return [
            row.with_columns(**{column: row.column("sampled_logprobs") - np.float32(0.5) * row.mask}) for row in rows
        ]

    plain, _ = first_update(run_of, monkeypatch, credit=DrGRPO())
    monkeypatch.setattr(Learner, "fill", half_a_nat)
    rows, metrics = first_update(run_of, monkeypatch, credit=DrGRPO(), kl_coef=0.2, kl_in="reward")
    assert "loss/kl" not in metrics
    assert metrics["policy/reference_kl"] > 0
    for first in range(0, 64, 4):
        tokens = np.array([row.num_trained for row in rows[first : first + 4]])
        for number, (row, without) in enumerate(zip(rows[first : first + 4], plain[first : first + 4], strict=True)):
            paid = -0.2 * 0.5 * (tokens[number] - tokens.mean())
            expected = without.column("advantages")[without.mask] + paid
            assert row.column("advantages")[row.mask] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("policy", "kept"), [("train", 64), ("mask", 0), ("leave_out", 0)])
def test_the_policy_of_episodes_that_were_cut_off(
    policy: Any, kept: int, run_of: RunOf, undecided: ModelConfig
) -> None:
    """Two tokens are too few to say yes or no, so every episode is cut off."""
    stage = Reinforce(steps=1, playing=Playing(16, 4), learner=FAST, truncated=policy, weight="all", entropy_coef=0.01)
    run = run_of({"rl": stage}, sampling=SamplingConfig(max_tokens=1))
    (step,) = metrics_of(run, "rl")
    assert step["rollout/truncated"] == 1
    assert step.get("train/rows", 0) == kept


def test_the_limit_on_turns_grows_to_that_of_the_environment(run_of: RunOf, interrupted_run_of: RunOf) -> None:
    growing = GrowingTurns(start=1, add=2, every=2)
    assert [growing.limit(step) for step in range(5)] == [1, 1, 3, 3, 5]
    playing = Playing(2, 2, mixture={"test/AgreeTwice-v0": 1.0}, growing_turns=GrowingTurns(1, 1, 2))
    stages = {"rl": Reinforce(steps=4, playing=playing, checkpoint_every=1, learner=FAST)}
    for run in (run_of(stages), interrupted_run_of(stages, after=3)):
        limits = {(t.labels.step, str(dict(t.env.limits))) for t in TrajectoryStore(run / "trajectories.jsonl")}
        assert limits == {(1, "{'max_turns': 1}"), (2, "{'max_turns': 1}"), (3, "{}"), (4, "{}")}


@dataclass(frozen=True)
class Minus(Shaping):
    """Rewards with the other sign."""

    def rewards(self, trajectory: Trajectory) -> list[float]:
        return [-turn.reward for turn in trajectory.turns]


@pytest.mark.parametrize("credit", [GRPO(), TurnGAE()])
def test_episodes_without_a_sampled_token_skip_the_update(
    credit: Credit, run_of: RunOf, undecided: ModelConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """No prompt fits into the context, so every turn is empty."""
    stages = {"rl": replace(AHEAD, steps=1, credit=credit)}
    (step,) = metrics_of(run_of(stages, model=replace(undecided, max_context=4)), "rl")
    assert step["rollout/tokens_mean"] == 0
    assert "loss/policy" not in step
    assert "no episode has a sampled token" in caplog.text


@pytest.mark.parametrize("kind", [Reinforce, Prefer])
def test_a_misspelt_environment_of_a_mixture_is_refused_before_a_folder_is_made(kind: Any, tmp_path: Path) -> None:
    stages = {"copy": Supervise({"yes": 1.0}), "rl": kind(playing=Playing(mixture={"agentrl/Calculater-v0": 1.0}))}
    with pytest.raises(EnvNotFound, match="Did you mean 'agentrl/Calculator-v0'"):
        train(replace(CONFIG, model=ModelConfig(hidden_size=32), stages=stages), tmp_path / "run")
    assert not (tmp_path / "run").exists()
