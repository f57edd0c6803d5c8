"""The gate of self-feedback as a user runs it: it admits, refuses, stops at the turn, and resumes exactly."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest

from agentrl.env.registry import register
from agentrl.env.tasks import Tasks
from agentrl.errors import ConfigError, TrainingRefused
from agentrl.learning.learner import LearnerSettings
from agentrl.learning.optimizers import Schedule
from agentrl.messages import Action
from agentrl.rollout.feedback.all_pairs import AllPairs
from agentrl.rollout.feedback.base import FEEDBACKS
from agentrl.rollout.feedback.rlsf import RLSF
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.model_setup import ModelConfig
from agentrl.training.stages.canary import Canary, CanaryWatch, chance_of, gain_over
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.prefer import Prefer
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import resume, train
from agentrl.trajectory import EnvRef, Task, Trajectory, Turn
from tests.training.stages.conftest import CONFIG, Agree, metrics_of

LENIENT = Canary(num_tasks=4, trials=4, threshold=0.0, answers=2, every=2, drop=1.0)
STAGE = Prefer(
    steps=4,
    playing=Playing(4, 4),
    feedback=(RLSF(threshold=0.0, gap=0.0),),
    checkpoint_every=2,
    learner=LearnerSettings(lr=1e-3),
)


@register("test/Phrase-v0", max_turns=1)
class Phrase(Agree):
    """Say that the answer is yes."""

    tasks = Tasks.of(train=[{"n": n} for n in range(12)], eval=[{"n": n} for n in range(12, 16)])

    def score(self, answer):
        return float(answer == "So the answer is yes.")

    def yes(self, messages):
        return "So the answer is yes."

    def no(self, messages):
        return "So the answer is no."


PHRASE = replace(CONFIG, env=replace(CONFIG.env, id="test/Phrase-v0"), sampling=replace(CONFIG.sampling, max_tokens=12))


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """A model that says yes and no in given shares, by name."""
    made = {}

    def model(**shares):
        key = json.dumps(shares)
        if key not in made:
            warm = LearnerSettings(lr=0.03, optimizer="muon", schedule=Schedule("linear", warmup_steps=3))
            stage = Supervise(shares, num_episodes=256, epochs=2, batch_episodes=16, learner=warm)
            folder = tmp_path_factory.mktemp("model") / "run"
            train(replace(PHRASE, stages={"copy": stage}), folder)
            made[key] = ModelConfig(path=str(folder / "model"))
        return made[key]

    return model


def run(model, stage, folder, name="rlsf"):
    summary = train(replace(PHRASE, model=model, stages={name: stage}), folder)
    return summary["stages"][name]["canary"]


def test_a_model_that_is_right_where_it_is_sure_is_admitted(model_of, tmp_path):
    found = run(model_of(yes=0.8, no=0.2), replace(STAGE, canary=replace(LENIENT, threshold=0.6)), tmp_path / "run")
    assert [step for step, _ in found["accuracy"]] == [0, 2, 4]
    assert found["accuracy"][0][1] >= 0.6
    assert found["ended"] == ""
    steps = metrics_of(tmp_path / "run", "rlsf")
    assert [step.get("canary/accuracy") for step in steps] == [
        None,
        found["accuracy"][1][1],
        None,
        found["accuracy"][2][1],
    ]


def test_a_model_that_is_sure_of_wrong_answers_is_refused(model_of, tmp_path):
    stage = replace(STAGE, canary=replace(LENIENT, threshold=0.6))
    with pytest.raises(TrainingRefused, match=r"canary refused: .* where guessing gives 0\.50.* threshold of 0\.6"):
        run(model_of(yes=0.05, no=0.95), stage, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()  # no step was made


def test_a_refused_stage_can_be_skipped(model_of, tmp_path):
    stage = replace(STAGE, canary=replace(LENIENT, threshold=0.6, refuse="skip"))
    found = run(model_of(yes=0.05, no=0.95), stage, tmp_path / "run")
    assert found["ended"].startswith("refused")
    assert metrics_of(tmp_path / "run", "rlsf") == []


@dataclass(frozen=True)
class PreferNo(AllPairs):
    """What ruins the model: wrong answers are preferred."""

    def score(self, trajectory):
        return 1.0 - float(trajectory.success)


def test_training_stops_at_the_turn_of_the_canary(model_of, tmp_path, monkeypatch):
    monkeypatch.setitem(FEEDBACKS._given, "prefer_no", PreferNo)
    watched = Canary(num_tasks=12, trials=4, threshold=0.5, answers=2, every=1, drop=0.1)
    fast = LearnerSettings(lr=3e-3)
    stage = replace(STAGE, steps=40, feedback=(PreferNo(),), canary=watched, learner=fast)
    found = run(model_of(yes=0.8, no=0.2), stage, tmp_path / "run")
    assert found["ended"].startswith("stopped at step")
    values = [value for _, value in found["accuracy"]]
    assert values[-1] < max(values) - 0.1
    assert all(value >= max(values[: i + 1]) - 0.1 for i, value in enumerate(values[:-1]))
    assert len(metrics_of(tmp_path / "run", "rlsf")) == len(values) - 1 < 40


def watched(settings, *accuracies, chance=0.0):
    watch = CanaryWatch(settings)
    watch.load_state_dict({"values": enumerate(accuracies), "chance": chance or watch.chance})
    return watch


def test_the_threshold_is_of_the_gain_over_guessing():
    # 0.74 of two answers is less than half of the way from guessing to certainty; of ten answers it is most of it.
    two = watched(Canary(threshold=0.6, answers=2), 0.74)
    assert two.ended == (
        "refused: its accuracy is 0.74 where guessing gives 0.50, so its gain over guessing is 0.48, "
        "below the threshold of 0.6"
    )
    assert watched(Canary(threshold=0.6, answers=10), 0.74).ended == ""
    assert watched(Canary(threshold=0.6, answers=2), 0.81).ended == ""


def test_the_gain_over_guessing():
    assert gain_over(0.25, 0.25) == 0.0
    assert gain_over(0.25, 0.1) == 0.0
    assert gain_over(0.5, 0.75) == 0.5
    assert gain_over(0.0, 0.6) == 0.6
    assert gain_over(1.0, 1.0) == 0.0


def answered(task, answer, success):
    turn = Turn((), Action(f"Well. So the answer is {answer}."), float(success))
    return Trajectory(EnvRef("e"), Task(task), 0, [turn])


def test_chance_is_the_share_of_the_most_frequent_right_answer():
    episodes = [
        answered("a", "true", True),
        answered("a", "false", False),
        answered("b", "True", True),
        answered("b", "true", True),  # a task counts once
        answered("c", "false", True),
        answered("d", "true", False),  # its right answer is not known
    ]
    assert chance_of(episodes) == pytest.approx(2 / 3)
    assert chance_of(episodes[-1:]) == 0.0


def test_without_a_number_of_answers_chance_is_estimated_and_one_answer_to_all_is_refused(model_of, tmp_path):
    """Every right answer is yes, so a model that knows no more than that would be right everywhere."""
    stage = replace(STAGE, canary=replace(LENIENT, threshold=0.6, answers=None, refuse="skip"))
    found = run(model_of(yes=0.8, no=0.2), stage, tmp_path / "run")
    assert found["chance"] == 1.0
    assert found["ended"].startswith("refused")


def test_one_possible_answer_is_refused(model_of, tmp_path):
    with pytest.raises(ConfigError, match=r"stages\.rlsf\.canary\.answers = 1"):
        run(model_of(yes=0.8, no=0.2), replace(STAGE, canary=replace(LENIENT, answers=1)), tmp_path / "run")


def test_a_turn_is_a_fall_from_the_best_by_more_than_the_drop():
    watch = watched(Canary(threshold=0.5, answers=2, drop=0.2), 0.8, 0.9, 0.75)
    assert watch.ended == ""
    watch.values.append((3, 0.65))
    assert watch.ended == "stopped at step 3: its accuracy fell from 0.90 to 0.65"


def test_a_resumed_stage_goes_on_bit_for_bit(model_of, tmp_path):
    stage = replace(STAGE, canary=LENIENT)
    config = replace(PHRASE, model=model_of(yes=0.8, no=0.2), stages={"rlsf": stage})

    def stop(progress):
        if progress.metrics and progress.step == 3:
            raise KeyboardInterrupt

    train(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", on_progress=stop)
    resume(tmp_path / "cut")
    assert metrics_of(tmp_path / "cut", "rlsf") == metrics_of(tmp_path / "whole", "rlsf")
    whole, cut = (
        [(t.labels.stage, t.turns[0].action.signals) for t in TrajectoryStore(tmp_path / n / "trajectories.jsonl")]
        for n in ("whole", "cut")
    )
    assert whole == cut
    assert all(signals is not None for _, signals in whole)


def test_one_sample_of_a_question_is_refused(model_of, tmp_path):
    with pytest.raises(ConfigError, match=r"stages\.rlsf\.canary\.trials = 1"):
        run(model_of(yes=0.8, no=0.2), replace(STAGE, canary=replace(LENIENT, trials=1)), tmp_path / "run")


def test_branches_begin_with_the_likeliest_tokens_and_are_for_preferences_alone(model_of, tmp_path):
    model = model_of(yes=0.8, no=0.2)
    branched = replace(STAGE, steps=1, playing=Playing(4, 4, branches=3))
    train(replace(PHRASE, model=model, stages={"rlsf": branched}), tmp_path / "run")
    groups = {}
    for episode in TrajectoryStore(tmp_path / "run" / "trajectories.jsonl"):
        groups.setdefault(episode.group_id, []).append(episode.turns[0].action)
    for actions in groups.values():
        firsts = [action.logprobs[0] for action in actions[:3]]
        assert firsts == sorted(firsts, reverse=True)
        assert len({action.token_ids[0] for action in actions[:3]}) == 3
        # After the first token a branch is greedy.
        assert all(margin >= 0 for action in actions[:3] for margin in action.signals.margins[1:])
    refused = Reinforce(steps=1, playing=Playing(4, 4, branches=2))
    with pytest.raises(ConfigError, match=r"stages\.rl\.playing\.branches"):
        train(replace(PHRASE, model=model, stages={"rl": refused}), tmp_path / "no")
    with pytest.raises(ConfigError, match=r"branches = 9 is more than group_size = 4"):
        train(
            replace(PHRASE, model=model, stages={"rlsf": replace(STAGE, playing=Playing(4, 4, branches=9))}),
            tmp_path / "more",
        )
