"""The stage `supervise` on data: from imported chats, filtered stores, kept demonstrations; weights; exact resume."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentrl.errors import ConfigError
from agentrl.learning.learner import LearnerSettings
from agentrl.learning.rows import Row
from agentrl.rollout.sources.chat_import import import_chats
from agentrl.rollout.sources.recorded import Recorded
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.progress import Progress
from agentrl.training.stages.evaluate import Evaluate
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise, _batch, _weighted
from agentrl.training.train import resume, train
from tests.training.stages.conftest import CONFIG, Agree, metrics_of

RunOf = Callable[..., Path]
FAST = LearnerSettings(lr=3e-3)


def chats(folder: Path, answers: list[str], **fields: Any) -> Path:
    """An imported store in which the tasks of Agree are answered so; the reward is 1 for yes."""
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"Number {n % 12}: yes or no?"},
                {"role": "assistant", "content": answer},
            ],
            "reward": float(answer == "yes"),
            **fields,
        }
        for n, answer in enumerate(answers)
    ]
    file = folder / "chats.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    import_chats(file, folder / "chats")
    return folder / "chats"


def greedy(run: Path) -> float:
    success: float = json.loads((run / "summary.json").read_text())["after"]["greedy"]["mean"]
    return success


def test_imported_chats_are_learnt_by_a_model_from_scratch(tmp_path: Path) -> None:
    store = chats(tmp_path, ["yes"] * 64)
    warm = LearnerSettings(lr=0.03, optimizer="muon")
    copy = Supervise(data=(Recorded(str(store)),), epochs=4, batch_episodes=8, learner=warm)
    train(replace(CONFIG, stages={"copy": copy, "after": Evaluate()}), tmp_path / "run")
    assert greedy(tmp_path / "run") == 1.0


def test_a_filter_by_reward_decides_what_is_learnt(run_of: RunOf, tmp_path: Path) -> None:
    store = str(chats(tmp_path, ["yes", "no"] * 48))
    learnt = {}
    for name, recorded in (("good", Recorded(store, min_reward=1.0)), ("all", Recorded(store))):
        copy = Supervise(data=(recorded,), epochs=2, batch_episodes=12, learner=FAST)
        run = run_of({"copy": copy, "after": Evaluate(trials=8)}, name)
        learnt[name] = json.loads((run / "summary.json").read_text())["after"]["sampled"]["mean"]
    assert learnt["good"] > 0.95
    assert learnt["all"] < 0.8


def test_what_a_run_sampled_trains_with_its_own_ids(run_of: RunOf) -> None:
    """Rejection-sampling fine-tuning."""
    frozen = LearnerSettings(lr=0.0)
    sampled = run_of({"rl": Reinforce(steps=1, playing=Playing(6, 8), learner=frozen)}, "sampled")
    episodes = list(TrajectoryStore(sampled / "trajectories.jsonl"))
    good = [episode for episode in episodes if episode.success]
    assert 0 < len(good) < len(episodes)
    copy = Supervise(data=(Recorded(str(sampled), success=True),), batch_episodes=len(good), epochs=1, learner=FAST)
    run = run_of({"copy": copy, "after": Evaluate()}, "learnt")
    (step,) = metrics_of(run, "copy")
    assert step["train/tokens"] == sum(episode.num_sampled_tokens for episode in good)
    logprobs = [logprob for episode in good for turn in episode.turns for logprob in turn.action.logprobs or ()]
    assert step["supervised/nll"] == pytest.approx(-np.mean(logprobs), abs=1e-4)  # of the very ids, at temperature 1


def test_ids_of_another_tokenizer_are_rendered_anew(run_of: RunOf, tmp_path: Path) -> None:
    frozen = LearnerSettings(lr=0.0)
    sampled = run_of({"rl": Reinforce(steps=1, playing=Playing(6, 8), learner=frozen)}, "sampled")
    elsewhere = Supervise(data=(Recorded(str(sampled), success=True),), epochs=40, batch_episodes=8)
    config = replace(
        CONFIG, model=replace(CONFIG.model, vocab_size=300), stages={"copy": elsewhere, "after": Evaluate()}
    )
    train(config, tmp_path / "elsewhere")
    assert greedy(tmp_path / "elsewhere") == 1.0


def test_episodes_that_cannot_be_rendered_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = chats(tmp_path, ["yes"] * 8)
    lines = (
        (store / "trajectories.jsonl").read_text().replace('"text":"yes"', '"text":"ye","finish_reason":"length"', 3)
    )
    (store / "trajectories.jsonl").write_text(lines)
    copy = Supervise(data=(Recorded(str(store)),), epochs=1, batch_episodes=1)
    with caplog.at_level(logging.WARNING):
        train(replace(CONFIG, stages={"copy": copy}), tmp_path / "run")
    assert "3 of 8 episodes are left out" in caplog.text
    assert len(metrics_of(tmp_path / "run", "copy")) == 5


def test_demonstrators_and_data_are_mixed(run_of: RunOf, tmp_path: Path) -> None:
    store = chats(tmp_path, ["yes"] * 6)
    copy = Supervise({"no": 1.0}, num_episodes=10, data=(Recorded(str(store)),), batch_episodes=4, epochs=1)
    steps = metrics_of(run_of({"copy": copy}), "copy")
    assert [step["train/rows"] for step in steps] == [4] * 4


def test_kept_demonstrations_are_played_once_for_an_identity(
    run_of: RunOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = []
    original = Agree.yes
    monkeypatch.setattr(Agree, "yes", lambda self, messages: played.append(1) or original(self, messages))
    copy = Supervise(
        {"yes": 0.5, "no": 0.5}, num_episodes=16, batch_episodes=8, keep_demonstrations=str(tmp_path / "kept")
    )
    plain = metrics_of(run_of({"copy": replace(copy, keep_demonstrations=None)}, "plain"), "copy")
    played.clear()
    first = metrics_of(run_of({"copy": copy}, "first"), "copy")
    assert played
    played.clear()
    again = metrics_of(run_of({"copy": copy}, "again"), "copy")
    assert not played
    assert first == again == plain
    run_of({"copy": copy}, "other", seed=5)
    assert played
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_a_resumed_stage_is_bit_identical_and_changed_data_are_refused(tmp_path: Path) -> None:
    store = chats(tmp_path, ["yes", "no"] * 16)
    copy = Supervise(data=(Recorded(str(store)),), epochs=2, batch_episodes=8, checkpoint_every=3)
    config = replace(CONFIG, stages={"copy": copy})

    def stop(progress: Progress) -> None:
        if progress.metrics and progress.step == 4:
            raise KeyboardInterrupt

    train(config, tmp_path / "whole")
    for name in ("cut", "changed"):
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / name, on_progress=stop)
    resume(tmp_path / "cut")
    assert metrics_of(tmp_path / "cut", "copy") == metrics_of(tmp_path / "whole", "copy")
    with (store / "trajectories.jsonl").open("ab") as file:
        file.write((store / "trajectories.jsonl").read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(ConfigError, match="the data of the run are not those that it began with"):
        resume(tmp_path / "changed")


def test_nothing_to_learn_from_is_refused_before_a_folder_is_made(run_of: RunOf, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stages\.copy\.data\[0\]: there is no store at absent"):
        run_of({"copy": Supervise(data=(Recorded("absent"),))})
    assert not (tmp_path / "run").exists()


def test_weights_divide_the_loss_of_an_update_in_their_proportion() -> None:
    row = Row.of([5, 6, 7, 8], [False, True, True, True])
    row = row.with_columns(turns=np.array([-1, 0, 1, 1], np.int32))
    other = Row.of([5, 6], [False, True], trajectory=1)
    weighted = _weighted([row, other], [(0.5, 2.0), None])
    found = _batch(weighted, np.array([0, 1]))
    # Weights 0.5, 2, 2 and 1 of a total of 5.5.
    np.testing.assert_allclose(found[0].column("coefficients"), np.array([0, 0.5, 2, 2]) / 5.5, rtol=1e-6)
    np.testing.assert_allclose(found[1].column("coefficients"), np.array([0, 1]) / 5.5, rtol=1e-6)
    plain = _batch(_weighted([row, other], [None, None]), np.array([0, 1]))
    np.testing.assert_allclose(plain[0].column("coefficients"), np.array([0, 1, 1, 1]) / 4, rtol=1e-6)
