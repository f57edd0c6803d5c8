"""Arms of a file: how a control is laid over it, what it takes over, and the comparison as a user gets it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
from click.testing import CliRunner
from safetensors.numpy import load_file

from agentrl.cli import main
from agentrl.config import dump_config
from agentrl.errors import ConfigError
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.folder import RunFolder
from agentrl.training.sweeps.arms import overlaid, plan_arms, read_arms, run_arms, take_over
from agentrl.training.sweeps.grid import GridResult
from agentrl.training.train import resume, train
from tests.learning.fixtures import one_thread
from tests.training.stages.conftest import metrics_of

__all__ = ["one_thread"]

COPY = {
    "kind": "supervise",
    "demonstrators": {"yes": 0.5, "no": 0.5},
    "num_episodes": 256,
    "batch_episodes": 16,
    "learner": {"lr": 0.03, "optimizer": "muon", "schedule": {"name": "linear", "warmup_steps": 3}},
}
RL = {
    "kind": "reinforce",
    "steps": 3,
    "playing": {"prompts_per_step": 4, "group_size": 4},
    "learner": {"lr": 1e-2},
}
FILE = {
    "env": {"id": "tests.training.stages.conftest:Agree"},
    "model": {"hidden_size": 32, "num_layers": 1},
    "sampling": {"max_tokens": 6},
    "run": {"evaluate_every": 0, "tensorboard": False, "max_concurrency": 16},
    "stages": {
        "copy": COPY,
        "before": {"kind": "evaluate"},
        "rl": RL,
        "after": {"kind": "evaluate", "measures": ["reward"]},
    },
    "controls": {
        "slow": {"about": "a hundredth of the rate", "stages": {"rl": {"learner": {"lr": 1e-4}}}},
        "copied": {"plan": ["copy", "before"]},
        "other_start": {"stages": {"copy": {"num_episodes": 32}}},
    },
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "arms.toml"
    path.write_text(tomli_w.dumps(FILE))
    return path


def test_tables_merge_values_replace_and_a_table_with_a_kind_replaces_the_whole() -> None:
    table = {"a": {"b": 1, "c": {"kind": "x", "d": 2}}, "e": [1], "controls": {"z": {}}}
    assert overlaid(table, {"a": {"b": 3}, "about": "why"}) == {"a": {"b": 3, "c": {"kind": "x", "d": 2}}, "e": [1]}
    assert overlaid(table, {"a": {"c": {"kind": "y"}}, "e": []}) == {"a": {"b": 1, "c": {"kind": "y"}}, "e": []}
    assert overlaid(table, {"a": {"c": {"algorithm": "z"}}})["a"]["c"] == {"algorithm": "z"}
    assert overlaid(table, {"a": {"c": {"d": 4}}})["a"]["c"] == {"kind": "x", "d": 4}


def test_arms_are_read_with_the_stages_that_they_share(file: Path) -> None:
    arms = read_arms(file, ["sampling.max_tokens=5"])
    assert [(arm.name, arm.about, arm.shared) for arm in arms] == [
        ("main", "", None),
        ("slow", "a hundredth of the rate", "before"),
        ("copied", "", "before"),
        ("other_start", "", None),
    ]
    assert arms[0].config.run.keep_stages == ("before",)
    assert list(arms[2].config.stages) == ["copy", "before"]
    assert {arm.config.sampling.max_tokens for arm in arms} == {5}
    assert [arm.name for arm in read_arms(file, only=["copied"])] == ["main", "copied"]


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({"x": {"stages": {"rl": {"stepz": 1}}}}, r"\[controls\.x\]: .*stepz"),
        ({"x": {"plan": ["copi"]}}, r"\[controls\.x\]: plan: there is no stage 'copi'. Did you mean 'copy'"),
        ({"x": {"plan": "copy"}}, "expected a list"),
        ({"main": {}}, "cannot have this name"),
        ({"a/b": {}}, "cannot have this name"),
        ({"x": {"about": 3}}, "its `about` a text"),
    ],
)
def test_a_control_that_cannot_be_is_refused(tmp_path: Path, controls: object, message: str) -> None:
    path = tmp_path / "arms.toml"
    path.write_text(tomli_w.dumps({**FILE, "controls": controls}))
    with pytest.raises(ConfigError, match=message):
        read_arms(path)


def test_an_unknown_control_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"no control 'slo'\. Did you mean 'slow'"):
        read_arms(file, only=["slo"])


def test_an_arm_that_takes_over_stages_is_bit_for_bit_one_that_does_them_itself(file: Path, tmp_path: Path) -> None:
    arms = read_arms(file)
    train(arms[0].config, tmp_path / "main")
    assert take_over(arms[1].config, tmp_path / "taken", tmp_path / "main", "before")
    assert [line["stage"] for line in metrics_of(tmp_path / "taken", "before")] == ["before"]
    assert not metrics_of(tmp_path / "taken", "rl")
    resume(tmp_path / "taken")
    train(arms[1].config, tmp_path / "alone")
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("taken", "alone", "main")]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[1])
    assert any((weights[0][name] != weights[2][name]).any() for name in weights[2])
    for stage in ("copy", "before", "rl", "after"):
        assert metrics_of(tmp_path / "taken", stage) == metrics_of(tmp_path / "alone", stage)
    texts = [
        [
            (t.labels.stage, t.episode_id, t.turns[0].action.token_ids)
            for t in TrajectoryStore(tmp_path / name / "trajectories.jsonl")
        ]
        for name in ("taken", "alone")
    ]
    assert texts[0] == texts[1]


def test_nothing_is_taken_over_from_a_run_that_kept_nothing_or_of_another_kind(file: Path, tmp_path: Path) -> None:
    arms = read_arms(file)
    forgetful = replace(arms[0].config, run=replace(arms[0].config.run, keep_stages=()))
    train(replace(forgetful, stages={"copy": forgetful.stages["copy"]}), tmp_path / "main")
    assert not take_over(arms[1].config, tmp_path / "taken", tmp_path / "main", "before")
    assert not (tmp_path / "taken").exists()
    train(replace(arms[0].config, stages={n: arms[0].config.stages[n] for n in ("copy", "before")}), tmp_path / "kept")
    with (tmp_path / "kept" / "metrics.jsonl").open("r+") as log:
        log.write("!")
    with pytest.raises(Exception, match="was edited"):
        take_over(arms[1].config, tmp_path / "taken", tmp_path / "kept", "before")
    assert not (tmp_path / "taken").exists()


def test_the_command_compares_all_arms_and_goes_on(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    out = tmp_path / "out"
    command = ["train", str(file), "--controls", "--seeds", "0,1", "--out", str(out), "--json"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found == json.loads((out / "arms.json").read_text())
    assert found["stage"] == "after"
    assert found["units"] == {"success": "share", "reward": "reward"}
    rows = {(row["arm"], row["mode"]): row for row in found["rows"]}
    assert len(rows) == 8
    assert rows["main", "sampled"]["differences"] == {}
    summaries = [json.loads((out / "slow" / f"seed-{seed}" / "summary.json").read_text()) for seed in (0, 1)]
    mean = sum(summary["after"]["sampled"]["mean"] for summary in summaries) / 2
    assert rows["slow", "sampled"]["values"]["reward"]["mean"] == pytest.approx(mean)
    of_main = rows["main", "sampled"]["values"]["reward"]["mean"]
    assert rows["slow", "sampled"]["differences"]["reward"]["mean"] == pytest.approx(mean - of_main)
    assert "copied: before" in "".join(found["notes"])
    assert "a hundredth of the rate" in (out / "arms.html").read_text()
    times = {path: path.stat().st_mtime_ns for path in out.rglob("summary.json")}
    assert len(times) == 8
    again = CliRunner().invoke(main, command)
    assert json.loads(again.stdout) == found
    assert {path: path.stat().st_mtime_ns for path in out.rglob("summary.json")} == times


def test_an_arm_that_cannot_begin_stops_no_other(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept checkpoint that it would begin with is damaged; the other arm does not need it."""
    monkeypatch.chdir(Path(__file__).parents[3])
    arms = read_arms(file, only=["copied", "other_start"])
    runs = plan_arms(arms, tmp_path / "out", [0])
    assert all(result.summary for result in run_arms(runs[:1]))
    (tmp_path / "out" / "main" / "seed-0" / "stage_ends" / "before" / "model.safetensors").unlink()
    seen: list[GridResult] = []
    results = run_arms(runs, jobs=1, on_result=seen.append)
    assert [result.run.cell for result in results] == ["main", "copied", "other_start"]
    assert [result.summary is None for result in results] == [False, True, False]
    assert "model.safetensors is missing" in results[1].error
    assert not (tmp_path / "out" / "copied" / "seed-0").exists()
    assert len(seen) == 3


def test_a_control_that_shares_nothing_joins_arms_that_did(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main run kept a checkpoint for the first control; the second one needs none."""
    monkeypatch.chdir(Path(__file__).parents[3])
    first = run_arms(plan_arms(read_arms(file, only=["copied"]), tmp_path / "out", [0]), jobs=1)
    written_ns = (tmp_path / "out" / "main" / "seed-0" / "summary.json").stat().st_mtime_ns
    second = run_arms(plan_arms(read_arms(file, only=["other_start"]), tmp_path / "out", [0]), jobs=1)
    assert [result.error for result in (*first, *second)] == [""] * 4
    assert (tmp_path / "out" / "main" / "seed-0" / "summary.json").stat().st_mtime_ns == written_ns


def test_a_folder_of_another_configuration_is_refused_before_anything_begins(file: Path, tmp_path: Path) -> None:
    runs = plan_arms(read_arms(file, only=["copied"]), tmp_path / "out", [0])
    copied = replace(runs[1].config, sampling=replace(runs[1].config.sampling, max_tokens=5))
    RunFolder.create(runs[1].folder, dump_config(copied)).close()
    with pytest.raises(ConfigError, match="another configuration"):
        run_arms(runs)
    assert not runs[0].folder.exists()


def test_runs_are_planned_by_arm_and_seed(file: Path, tmp_path: Path) -> None:
    runs = plan_arms(read_arms(file), tmp_path, [3, 4])
    assert [run.folder.relative_to(tmp_path).as_posix() for run in runs][:3] == [
        "main/seed-3",
        "main/seed-4",
        "slow/seed-3",
    ]
    assert runs[3].after == (tmp_path / "main" / "seed-4", "before")
    assert runs[0].after is None
    with pytest.raises(ConfigError, match="each seed once"):
        plan_arms(read_arms(file), tmp_path, [3, 3])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--grid", "seed=1,2"], "--controls needs a CONFIG file"),
        (["--resume", "x"], "and no --resume"),
        (["--continue"], "and no --resume"),
    ],
)
def test_options_that_do_not_go_with_controls_are_refused(file: Path, more: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["train", str(file), "--controls", *more])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_a_file_without_controls_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.toml"
    path.write_text(tomli_w.dumps({key: value for key, value in FILE.items() if key != "controls"}))
    done = CliRunner().invoke(main, ["train", str(path), "--controls"])
    assert done.exit_code != 0
    assert "has no [controls.NAME]" in done.output


def test_an_arm_takes_over_the_reward_model_of_a_stage_that_it_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    playing = {"prompts_per_step": 4, "group_size": 4}
    judge = {"kind": "prefer", "objective": "bradley_terry", "apart": True, "steps": 1, "playing": playing}
    rl = {**RL, "steps": 1, "feedback": [{"kind": "reward_model", "stage": "judge", "keep": 0.0}]}
    slow = {"stages": {"rl": {"learner": {"lr": 1e-4}}}}
    file = tmp_path / "judged.toml"
    stages = {"copy": {**COPY, "num_episodes": 32}, "judge": judge, "rl": rl}
    file.write_text(tomli_w.dumps({**FILE, "stages": stages, "controls": {"slow": slow}}))
    results = run_arms(plan_arms(read_arms(file), tmp_path / "out", [0]), jobs=1)
    assert [result.error for result in results] == ["", ""]
    one, other = (result.run.folder / "reward_models" / "judge" / "value_head.json" for result in results)
    assert one.read_bytes() == other.read_bytes()
