"""Stages that stop early and keep their best weights, as a user runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from agentrl.env.registry import register
from agentrl.env.tasks import Tasks
from agentrl.learning.learner import LearnerSettings
from agentrl.learning.optimizers import Schedule
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.model_setup import ModelConfig
from agentrl.training.settings import EnvConfig, RunConfig
from agentrl.training.stages.base import Stage
from agentrl.training.stages.evaluate import Evaluate
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise, is_flat
from agentrl.training.train import resume, train
from tests.training.stages.conftest import CONFIG, Agree, metrics_of

RunOf = Callable[..., Path]


@register("test/AgreeOften-v0", max_turns=1)
class AgreeOften(Agree):
    """Say yes, with enough held-out tasks to choose weights with."""

    tasks = Tasks.of(train=[{"n": n} for n in range(12)], eval=[{"n": n} for n in range(12, 92)])


RL = Reinforce(steps=30, playing=Playing(8, 4), checkpoint_every=2, learner=LearnerSettings(lr=1e-2))
OFTEN: dict[str, Any] = {
    "env": EnvConfig("test/AgreeOften-v0"),
    "run": RunConfig(evaluate_every=2, evaluate_tasks=40, stop_when_solved=0.8, tensorboard=False, max_concurrency=16),
}


def summary_of(run: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def weights_of(folder: str | Path) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in load_file(Path(folder) / "model.safetensors").items()}


@pytest.mark.parametrize("max_lag", [0, 1])
def test_a_stage_stops_when_solved_and_reports_other_tasks(run_of: RunOf, max_lag: int) -> None:
    """Also where it samples ahead: groups that were begun and are not needed any more are dropped."""
    run = run_of({"rl": replace(RL, playing=Playing(8, 4, max_lag=max_lag)), "after": Evaluate(num_tasks=30)}, **OFTEN)
    found = summary_of(run)["stages"]["rl"]["selection"]
    assert found["stopped"] == "solved"
    assert found["ended_at_step"] < 30
    assert len(metrics_of(run, "rl")) == found["ended_at_step"]
    assert [line["step"] for line in metrics_of(run, "eval")] == [*range(0, found["ended_at_step"] + 1, 2)]
    played: dict[str, set[str]] = {}
    for episode in TrajectoryStore(run / "trajectories.jsonl"):
        played.setdefault(episode.labels.stage, set()).add(episode.task.id)
    assert len(played["eval"]) == 40
    assert len(played["after"]) == 30
    assert not played["eval"] & played["after"]
    assert summary_of(run)["after"]["sampled"]["mean"] >= 0.8
    assert not (run / "best").exists()


def test_a_stage_that_ruins_the_model_stops_and_gives_back_what_it_began_with(
    run_of: RunOf, undecided: ModelConfig
) -> None:
    run = run_of({"rl": replace(RL, learner=LearnerSettings(lr=0.5)), "after": Evaluate(num_tasks=30)}, **OFTEN)
    found = summary_of(run)["stages"]["rl"]["selection"]
    assert (found["stopped"], found["ended_at_step"], found["restored"], found["best_step"]) == ("worse", 4, True, 0)
    assert undecided.path is not None
    assert weights_of(run / "model") == weights_of(undecided.path)
    assert summary_of(run)["after"]["sampled"]["mean"] > 0


def test_nothing_is_chosen_or_stopped_where_the_settings_say_so_or_tasks_are_few(run_of: RunOf) -> None:
    run = run_of({"rl": replace(RL, steps=4)}, "off", **{**OFTEN, "run": replace(OFTEN["run"], keep_best=False)})
    assert summary_of(run)["stages"]["rl"] == {}
    assert [line["step"] for line in metrics_of(run, "eval")] == [2]
    few = run_of({"rl": replace(RL, steps=4), "after": Evaluate()}, "few", run=replace(CONFIG.run, evaluate_every=2))
    assert summary_of(few)["stages"]["rl"] == {}
    assert metrics_of(few, "eval")[0]["eval/attempted"] == 4


@pytest.mark.parametrize("lr", [1e-2, 0.5], ids=["solved", "worse"])
def test_a_run_that_is_interrupted_anywhere_keeps_and_stops_as_a_whole_one(
    run_of: RunOf, tmp_path: Path, undecided: ModelConfig, lr: float
) -> None:
    stages = {"rl": replace(RL, learner=LearnerSettings(lr=lr), checkpoint_every=3), "after": Evaluate(num_tasks=30)}
    whole = run_of(stages, **OFTEN)
    cut = tmp_path / "cut"
    left = 0

    def stop(progress: Any) -> None:
        nonlocal left
        if progress.stage in ("rl", "eval") and progress.metrics:
            left -= 1
            if left < 0:
                raise KeyboardInterrupt

    left = 3
    with pytest.raises(KeyboardInterrupt):
        train(replace(CONFIG, model=undecided, stages=stages, **OFTEN), cut, on_progress=stop)
    for moment in (5, 7):
        left = moment
        try:
            resume(cut, on_progress=stop)
        except KeyboardInterrupt:
            continue
        break
    if not (cut / "summary.json").exists():
        resume(cut)
    assert weights_of(cut / "model") == weights_of(whole / "model")
    assert summary_of(cut)["stages"]["rl"] == summary_of(whole)["stages"]["rl"]
    for stage in ("rl", "eval", "after"):
        assert metrics_of(cut, stage) == metrics_of(whole, stage)


def test_a_stop_that_was_saved_stays_a_stop(run_of: RunOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Killed between the checkpoint of the last step and the end of the stage, the run makes no further step."""
    stages = {"rl": RL}
    whole = run_of(stages, **OFTEN)
    real = Stage.summary

    def killed(self: Stage) -> dict[str, Any]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "summary", killed)
        with pytest.raises(KeyboardInterrupt):
            run_of(stages, "cut", **OFTEN)
    assert Stage.summary is real
    resume(tmp_path / "cut")
    assert metrics_of(tmp_path / "cut", "rl") == metrics_of(whole, "rl")
    assert weights_of(tmp_path / "cut" / "model") == weights_of(whole / "model")


# Supervision.

# Mean loss of each 25 updates of the quickstart's warm start (seed 0).
SHOP = [
    *(1.6, 0.1676, 0.0485, 0.032, 0.0208, 0.0161, 0.0145, 0.0145, 0.0148, 0.0139, 0.0136, 0.0129, 0.0135),
    *(0.013, 0.0124, 0.0129, 0.0126, 0.0123, 0.0123, 0.0129),
]


def first_flat(losses: list[float], least: float) -> int | None:
    """The update after which the loss is flat, counted from 1."""
    return next((n for n in range(1, len(losses) + 1) if is_flat(losses[:n][-200:], least)), None)


def test_a_falling_loss_is_not_flat_and_a_level_one_is() -> None:
    assert not is_flat([1.0] * 199, 0.1)
    assert is_flat([1.0] * 200, 0.1)
    assert is_flat([1.0] * 100 + [0.91] * 100, 0.1)
    assert not is_flat([1.0] * 100 + [0.89] * 100, 0.1)
    assert is_flat([1.0] * 100 + [2.0] * 100, 0.1)
    assert not is_flat([1.0] * 200, 0.0)


def test_the_warm_start_of_the_quickstart_is_flat_between_updates_300_and_350() -> None:
    curve = [loss for loss in SHOP for _ in range(25)]
    found = first_flat(curve, 0.1)
    assert found is not None
    assert 300 < found < 350


FLAT = Supervise(
    {"yes": 0.5, "no": 0.5},
    num_episodes=3200,
    epochs=1,
    batch_episodes=8,
    checkpoint_every=20,
    learner=LearnerSettings(lr=0.03, optimizer="muon", schedule=Schedule("linear", warmup_steps=3)),
)


def test_supervision_ends_soon_after_its_loss_is_flat_and_its_rate_falls_to_zero(run_of: RunOf) -> None:
    run = run_of({"copy": FLAT}, model=CONFIG.model)
    found = summary_of(run)["stages"]["copy"]
    assert found["planned_updates"] == 400
    assert found["updates"] == round(1.2 * found["flat_at"]) < 400
    lines = metrics_of(run, "copy")
    assert len(lines) == found["updates"]
    rates = [line["train/lr"] for line in lines]
    assert rates[found["flat_at"]] < rates[found["flat_at"] - 1]
    assert 0 < rates[-1] < 0.02 * max(rates)
    whole = run_of({"copy": replace(FLAT, stop_when_flat=0.0)}, "whole", model=CONFIG.model)
    assert summary_of(whole)["stages"]["copy"] == {"updates": 400, "planned_updates": 400, "flat_at": None}


def test_supervision_that_is_interrupted_ends_at_the_same_update(run_of: RunOf, tmp_path: Path) -> None:
    whole = run_of({"copy": FLAT}, model=CONFIG.model)
    flat_at = summary_of(whole)["stages"]["copy"]["flat_at"]

    def stop(progress: Any) -> None:
        if progress.metrics and progress.step == flat_at + 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(replace(CONFIG, stages={"copy": FLAT}), tmp_path / "cut", on_progress=stop)
    resume(tmp_path / "cut")
    assert summary_of(tmp_path / "cut")["stages"] == summary_of(whole)["stages"]
    assert weights_of(tmp_path / "cut" / "model") == weights_of(whole / "model")


@pytest.mark.parametrize(("demonstrations", "epochs", "size"), [(8000, 2, 32), (2000, 2, 8), (3000, 2, 12), (64, 1, 8)])
def test_few_demonstrations_make_small_batches(demonstrations: int, epochs: int, size: int) -> None:
    assert Supervise(epochs=epochs).batch_of(demonstrations) == size
    assert Supervise(epochs=epochs, batch_episodes=20).batch_of(demonstrations) == 20
