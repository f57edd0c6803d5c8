"""Recorded episodes get another score without a model; the old folder stays as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentrl.bench.compare import compare, comparison
from agentrl.bench.records import read_record
from agentrl.bench.rescoring.rescore import rescore
from agentrl.bench.runner import run_bench
from agentrl.cli import main
from agentrl.env.base import Env
from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.errors import ConfigError, ReplayError
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import Labels, Trajectory
from tests.bench.toys import Adder, Some

HERE = "tests.bench.rescoring.test_rescore"


class Strict(Adder):
    """Takes even sums alone for right."""

    async def score(self, answer: str | None) -> float:
        right = await super().score(answer)
        return right * float(int(answer or 0) % 2 == 0)


class Chatty(Adder):
    """Asks in other words, so that recorded actions answer another question."""

    async def start(self, task):
        return "please: " + await super().start(task)


class Corrected(Adder):
    """The same questions; the reference of one task was wrong before, and its content is another one now."""

    tasks = Tasks.of(eval=[{"a": n, "b": 10 * n, **({"note": "looked at"} if n == 3 else {})} for n in range(8)])


@pytest.fixture
def played(tmp_path: Path) -> Path:
    """Adder, played by an agent that is right on six of eight tasks."""
    run_bench(f"{Adder.__module__}:Adder", Some(right=6), out=tmp_path / "old")
    return tmp_path / "old"


def content(folder: Path) -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def digits(episode: Trajectory) -> Mapping[str, float]:
    """Half for one digit, half for the digit 5."""
    answer = episode.turns[-1].action.text
    return {"short": 0.5 * (len(answer) == 1), "five": 0.5 * ("5" in answer)}


def looks(episode: Trajectory, env: Env) -> tuple[float, bool]:
    """The first number of the task that the environment is in, which no message shows on its own."""
    return env.unwrapped.task.data["a"] / 10, env.unwrapped.task.data["a"] > 6


def test_a_function_scores_the_episodes_into_a_new_folder(played: Path) -> None:
    before = content(played)
    found = rescore(played, rubric=digits)
    assert content(played) == before
    assert found.result.out == str(played.resolve()) + "-rescored"
    score = found.result.score
    assert score.success.mean == 0  # the answers are 0, 11, 22, 33, 44, 55, 0 and 0
    assert {name: one.mean for name, one in score.components.items()} == {"short": 3 / 16, "five": 1 / 16}


def test_the_new_folder_is_a_benchmark_that_compares_with_the_old_one(played: Path, tmp_path: Path) -> None:
    rescore(played, tmp_path / "new", rubric=f"{HERE}:digits")
    old, new = read_record(played), read_record(tmp_path / "new")
    found = comparison(old, new)
    assert found.difference.n == 8
    assert found.difference.mean == old_mean(played) - new_mean(tmp_path / "new")
    assert any(f"{HERE}:digits (code " in note and "scored by" in note for note in found.notes)
    assert len(list(TrajectoryStore(tmp_path / "new" / "trajectories.jsonl"))) == 24  # null and oracle as well


def old_mean(folder: Path) -> float:
    return float(json.loads((folder / "summary.json").read_text())["success"]["mean"])


new_mean = old_mean


def test_a_function_of_the_environment_sees_its_last_state(played: Path, tmp_path: Path) -> None:
    found = rescore(played, tmp_path / "new", rubric=looks, trust_record=True)
    assert found.result.score.reward.mean == pytest.approx(sum(range(8)) / 80)
    assert found.result.score.success.mean == 1 / 8


def test_new_weights_of_recorded_components(played: Path, tmp_path: Path) -> None:
    found = rescore(played, tmp_path / "new", rubric=Rubric({"reward": 3.0}))
    assert found.result.score.reward.mean == 3 * 6 / 8
    assert found.changed == tuple(f"eval-{n}" for n in range(6))


def test_the_environment_as_it_is_now_scores_what_was_recorded(played: Path, tmp_path: Path) -> None:
    same = rescore(played, tmp_path / "same", trust_record=True)
    assert (same.changed, same.result.score.success.mean) == ((), 6 / 8)
    strict = rescore(played, tmp_path / "strict", env=f"{HERE}:Strict")
    assert strict.result.score.success.mean == 3 / 8
    assert set(strict.changed) == {"eval-1", "eval-3", "eval-5"}
    assert compare(read_record(played), read_record(tmp_path / "strict")).mean == 3 / 8


def test_an_episode_that_takes_another_course_is_discarded_with_its_cause(played: Path, tmp_path: Path) -> None:
    found = rescore(played, tmp_path / "new", env=f"{HERE}:Chatty")
    counts = found.result.score.counts
    assert (counts.scored, counts.attempted, dict(counts.discarded)) == (0, 8, {"author": 8})
    assert found.lost == 24  # null and oracle as well
    assert "the recorded actions were answered differently here" in next(iter(found.result.score.faults))


def test_tasks_with_other_content_are_named_and_taken_only_where_asked(played: Path, tmp_path: Path) -> None:
    old = rescore(played, tmp_path / "a", env=f"{HERE}:Corrected")
    assert old.other_tasks == ("eval-3",)
    compare(read_record(played), read_record(tmp_path / "a"))
    rescore(played, tmp_path / "b", env=f"{HERE}:Corrected", own_tasks=True)
    with pytest.raises(ConfigError, match="task 'eval-3' had other content"):
        compare(read_record(played), read_record(tmp_path / "b"))


def test_code_that_a_record_names_is_not_imported(played: Path, tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="not registered here"):
        rescore(played, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_something_is_refused_and_so_is_a_later_benchmark_in_the_new_one(
    played: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="is not empty"):
        rescore(played, played, rubric="recorded")
    rescore(played, tmp_path / "new", rubric="recorded")
    with pytest.raises(ConfigError, match="scored_by"):
        run_bench(f"{Adder.__module__}:Adder", Some(right=6), out=tmp_path / "new")


@pytest.mark.parametrize(
    ("rubric", "why"),
    [
        ("json:__name__", "is no rubric"),
        (lambda: 1.0, "takes 0 arguments"),
        ("no_such_module:x", "no module 'no_such_module'"),
        (Rubric({"polite": 1.0}), "'reward' has no weight. Known: polite. Weights name every recorded component"),
    ],
)
def test_what_is_no_rubric_is_refused(played: Path, rubric, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        rescore(played, rubric=rubric)


@pytest.mark.parametrize("value", [float("nan"), "much", None])
def test_a_score_that_is_no_number_is_refused_and_nothing_is_written(played: Path, tmp_path: Path, value) -> None:
    with pytest.raises((TypeError, ValueError), match="reward"):
        rescore(played, tmp_path / "new", rubric=lambda episode: value)
    assert not (tmp_path / "new").exists()


def test_a_function_that_returns_three_values_is_told_what_it_may_return(played: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must return a score, or \(score, success\), got 3 values"):
        rescore(played, tmp_path / "new", rubric=lambda episode: (1.0, True, "well done"))


def test_the_command(played: Path, tmp_path: Path) -> None:
    arguments = ["rescore", str(played), "--out", str(tmp_path / "new")]
    result = CliRunner().invoke(main, [*arguments, "--rubric", f"{HERE}:digits"])
    assert result.exit_code == 0, result.output
    assert "The score changed on 8 of 8 tasks" in result.stderr
    again = CliRunner().invoke(main, [*arguments, "--env", f"{HERE}:Chatty", "--json"])
    assert (again.exit_code, "is not empty" in again.stderr) == (1, True)
    other = CliRunner().invoke(main, [*arguments[:3], str(tmp_path / "other"), "--env", f"{HERE}:Chatty", "--json"])
    assert other.exit_code == 3
    assert json.loads(other.stdout)["lost"] == 24
    assert json.loads(other.stdout)["scored_by"]["env"]["id"] == f"{HERE}:Chatty"


def test_nothing_to_score(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        rescore(tmp_path / "absent", rubric="recorded")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "summary.json").write_text('{"identity": {"tasks": {"fingerprints": {}}}}')
    (tmp_path / "half" / "trajectories.jsonl").write_text('{"torn')
    with pytest.raises(ConfigError, match="holds no benchmark with results"):
        rescore(tmp_path / "half", rubric="recorded")


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """The folder of a training run that evaluated before and after."""
    folder = tmp_path / "trained"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("")
    with TrajectoryStore(folder / "trajectories.jsonl") as store:
        for stage, right in (("before", 2), ("after", 7)):
            for episode in run_bench(Adder, Some(right=right), references=False).trajectories:
                name = episode.group_id.removeprefix("bench/")
                store.append(replace(episode, group_id=name, labels=Labels(stage, mode="sampled")))
    return folder


def test_the_gain_of_a_training_run_is_a_comparison_of_its_evaluations(trained: Path, tmp_path: Path) -> None:
    for stage in ("before", "after"):
        rescore(trained, tmp_path / stage, rubric="recorded", stage=stage)
    before, after = read_record(tmp_path / "before"), read_record(tmp_path / "after")
    assert rescore(trained, rubric="recorded").result.score.success.mean == 7 / 8  # the last one is the default
    gain = comparison(after, before)
    assert (gain.difference.mean, gain.difference.n) == (5 / 8, 8)
    assert gain.difference.low > 0
    own = comparison(after, after)
    assert own.difference.mean == 0
    assert own.difference.low < 0 < own.difference.high
    assert own.tests.p_value == 1.0


def test_evaluations_between_steps_are_not_pooled(trained: Path, tmp_path: Path) -> None:
    with TrajectoryStore(trained / "trajectories.jsonl") as store:
        for step, right in ((1, 3), (2, 5)):
            for episode in run_bench(Adder, Some(right=right), references=False).trajectories:
                name = episode.group_id.removeprefix("bench/")
                store.append(replace(episode, group_id=name, labels=Labels("eval", step, "sampled")))
    found = rescore(trained, tmp_path / "new", rubric="recorded", stage="eval").result
    assert (found.score.success.mean, found.config.trials, found.score.n_episodes) == (5 / 8, 1, 8)


def test_an_evaluation_that_a_run_does_not_have_is_refused(trained: Path, played: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no evaluation of stage 'rl'.*it has: before \(sampled\), after \(sampled\)"
    ):
        rescore(trained, rubric="recorded", stage="rl")
    with pytest.raises(ConfigError, match="choose an evaluation of a training run"):
        rescore(played, rubric="recorded", stage="after")
