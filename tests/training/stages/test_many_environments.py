"""A run over several environments as a user writes it: what it learns from, what it evaluates, how it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from agentrl.cli.train import summary_text
from agentrl.config import dump_config, load_config
from agentrl.errors import ConfigError
from agentrl.messages import Action
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.stages.environments import played_env
from agentrl.training.stages.playing import rollout_metrics
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.sweeps.arms import read_arms
from agentrl.training.train import train
from agentrl.trajectory import Task, Trajectory, TrajectoryGroup, Turn
from tests.endings import ENDINGS
from tests.training.stages.conftest import metrics_of

AGREE, TWICE = "test/Agree-v0", "test/AgreeTwice-v0"
TABLE: dict[str, Any] = {
    "envs": {"once": {"id": AGREE, "weight": 3.0}, "twice": {"id": TWICE}, "bare": {"id": AGREE, "max_turns": 3}},
    "train_on": ["once", "twice"],
    "model": {"hidden_size": 32, "num_layers": 1},
    "sampling": {"max_tokens": 6},
    "run": {"evaluate_every": 0, "tensorboard": False, "max_concurrency": 16},
    "stages": {
        "copy": {"kind": "supervise", "demonstrators": {"yes": 0.5, "no": 0.5}, "num_episodes": 32, "epochs": 1},
        "before": {"kind": "evaluate"},
        "rl": {
            "kind": "reinforce",
            "steps": 3,
            "playing": {"prompts_per_step": 8, "group_size": 4},
            "learner": {"lr": 1e-2},
            "checkpoint_every": 1,
        },
        "after": {"kind": "evaluate", "measures": ["reward"]},
    },
}


def changed(**changes: Any) -> TrainConfig:
    return TrainConfig.of({**TABLE, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "run"
    train(changed(), folder)
    return folder


def test_demonstrations_and_groups_come_from_the_trained_environments_by_weight(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["stages"]["copy"]["planned_updates"] == (3 * 32 + 32) // 8
    trained = list(TrajectoryStore(run / "trajectories.jsonl").read(stage="rl"))
    assert {t.env.id for t in trained} == {AGREE, TWICE}
    assert all(not t.env.limits for t in trained), "the environment `bare` is not trained on"
    metrics = metrics_of(run, "rl")
    assert all({"rollout/success@once", "rollout/success@twice"} <= set(m) for m in metrics)


def test_environments_of_one_id_have_metrics_of_their_own() -> None:
    envs = {name: played_env(name, env, weight=1.0, trains=True) for name, env in changed().envs.items()}
    bare = replace(envs["bare"], name="other", ref=replace(envs["bare"].ref, kwargs={"render_mode": None}))
    played = [
        TrajectoryGroup(name, [Trajectory(ref, Task("t"), 0, [Turn((), Action(text="x"), reward=reward)])])
        for name, ref, reward in (("a", envs["once"].ref, 1.0), ("b", bare.ref, 0.0))
    ]
    played = [
        replace(g, trajectories=[replace(t, ending=ENDINGS["terminated"]) for t in g.trajectories]) for g in played
    ]
    found = rollout_metrics(played, {"once": envs["once"], "other": bare})
    assert (found["rollout/success@once"], found["rollout/success@other"]) == (1.0, 0.0)


def test_the_table_shows_each_environment_their_mean_and_the_lowest(run: Path) -> None:
    table = json.loads((run / "summary.json").read_text())["after"]
    played = [t for t in TrajectoryStore(run / "trajectories.jsonl").read(stage="after") if t.labels.mode == "sampled"]
    means = {}
    for name, found in table["environments"].items():
        own = [t for t in played if t.env.id == found["env"]["id"] and t.env.limits == found["env"]["limits"]]
        assert len(own) == 4
        means[name] = sum(t.success for t in own) / 4
        assert found["sampled"]["mean"] == means[name]
        assert found["sampled"]["measures"]["reward"]["mean"] == means[name]
    assert [found["trains"] for found in table["environments"].values()] == [True, True, False]
    over = table["over_environments"]["sampled"]
    assert over["all"]["mean"]["mean"] == pytest.approx(sum(means.values()) / 3)
    assert over["trained"]["mean"]["mean"] == pytest.approx((means["once"] + means["twice"]) / 2)
    assert over["held_out"]["min"] == {"env": "bare", **over["held_out"]["mean"], "n": 4} | {
        "ci95": over["held_out"]["min"]["ci95"]
    }
    assert over["all"]["min"]["mean"] == min(means.values())
    assert over["all"]["of_attempted"]["mean"]["mean"] == over["all"]["mean"]["mean"]  # nothing was discarded
    assert table["sampled"]["mean"] == pytest.approx(sum(means.values()) / 3)


def test_the_terminal_and_the_report_show_each_environment(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    text = summary_text(summary, run)
    assert "trained on once, twice, seed 0" in text
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    for name, found in summary["after"]["environments"].items():
        before = summary["before"]["environments"][name]
        for mode in ("greedy", "sampled"):
            assert f"{before[mode]['mean']:.3f}  {found[mode]['mean']:.3f} [" in lines[name]
    assert lines["bare"].endswith("held out")
    lowest = summary["after"]["over_environments"]["sampled"]["trained"]["min"]
    assert f"lowest, sampled: {lowest['env']} {lowest['mean']:.3f}" in text
    page = (run / "report.html").read_text()
    assert "By environment" in page
    assert '<span class="soft">trained on</span> <b>once, twice</b>' in page
    assert '<span class="soft">held out</span> <b>bare</b>' in page
    assert f"lowest, sampled: {lowest['env']}" in page


def test_a_resumed_run_learns_the_same(
    run: Path, undecided: ModelConfig, interrupted_run_of: Callable[..., Path]
) -> None:
    config = replace(changed(), model=undecided)
    stages = {name: stage for name, stage in config.stages.items() if name != "copy"}
    more = {"envs": config.envs, "train_on": config.train_on}
    whole = run.with_name("whole")
    train(replace(config, stages=stages), whole)
    resumed = interrupted_run_of(stages, 2, **more)
    assert metrics_of(resumed, "rl") == metrics_of(whole, "rl")
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (whole, resumed))
    assert all((one[name] == other[name]).all() for name in one)


def test_weights_are_chosen_by_held_out_tasks_of_the_trained_environments(tmp_path: Path) -> None:
    config = changed(run={**TABLE["run"], "evaluate_every": 1, "evaluate_tasks": 4})
    train(config, tmp_path / "run")
    checks = metrics_of(tmp_path / "run", "eval")
    assert {key for key in checks[0] if "success@" in key} == {"eval/success@once", "eval/success@twice"}
    assert checks[0]["eval/success_env_min"] == min(checks[0]["eval/success@once"], checks[0]["eval/success@twice"])
    assert checks[0]["eval/success_of_attempted_env_min"] == checks[0]["eval/success_env_min"]


def test_the_written_configuration_is_read_back(tmp_path: Path) -> None:
    config = changed(train_on=["twice"])
    assert config.env.id == TWICE
    (tmp_path / "config.toml").write_text(dump_config(config))
    assert load_config(TrainConfig, tmp_path / "config.toml") == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": {"id": TWICE}}, r"\[env\] or \[envs.NAME\], not both"),
        ({"train_on": ["onse"]}, r"there is no \[envs.onse\].*once"),
        ({"train_on": "once"}, "a list of different names"),
        ({"envs": {}}, "there are none"),
    ],
)
def test_what_cannot_be_read_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        changed(**changes)


def test_the_arms_of_the_shipped_file_have_equal_episodes_of_each_environment() -> None:
    main, *controls = read_arms(Path(__file__).parents[3] / "multitask.toml")
    assert len(main.config.trained) >= 5
    assert len(main.config.envs) - len(main.config.trained) >= 2

    def of_each(config: TrainConfig) -> tuple[float, int, int]:
        stage, warm = config.stages["rl"], config.stages["warm_start"]
        assert isinstance(stage, Reinforce)
        assert isinstance(warm, Supervise)
        weights = sum(config.envs[name].weight for name in config.trained)
        return stage.playing.prompts_per_step / weights, stage.steps, warm.num_episodes * warm.epochs

    for arm in controls:
        assert arm.config.envs == main.config.envs, "the columns of the matrix, and the texts of the tokenizer"
        assert of_each(arm.config) == of_each(main.config)
    alone = {arm.name: arm.config.trained for arm in controls if arm.name.startswith("alone-")}
    assert alone == {f"alone-{name}": (name,) for name in main.config.trained}


def with_stage(name: str, **changes: Any) -> dict[str, Any]:
    return {**TABLE["stages"], name: {**TABLE["stages"][name], **changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"envs": {**TABLE["envs"], "same": {"id": AGREE}}}, "envs.same and envs.once are the same environment"),
        (
            {"envs": {**TABLE["envs"], "bare": {"id": TWICE, "max_turns": 3, "eval_split": "evil"}}},
            "envs.bare: .*'evil'",
        ),
        ({"stages": with_stage("copy", demonstrators={"maybe": 1.0})}, "has no method 'maybe'"),
        ({"stages": with_stage("rl", playing={"mixture": {AGREE: 1.0}})}, "takes the weights from there"),
        ({"stages": with_stage("rl", playing={"levels": {"values": [1, 2]}})}, "leave it out of a run over"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_run(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(changed(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_tokenizer_and_the_demonstrations_of_an_environment_do_not_depend_on_what_else_is_trained(
    tmp_path: Path,
) -> None:
    own = {**TABLE["envs"], "twice": {"id": TWICE, "demonstrators": {"no": 1.0}}}
    for name, trained, episodes in (("both", ["once", "twice"], 16), ("one", ["twice"], 240)):
        stages = {"copy": {**TABLE["stages"]["copy"], "num_episodes": episodes}, "after": {"kind": "evaluate"}}
        train(changed(envs=own, train_on=trained, stages=stages), tmp_path / name)
    both, one = ((tmp_path / name / "model" / "tokenizer.json").read_text() for name in ("both", "one"))
    assert both == one
    assert "Number" in one, "a word that stands only in the environments that are not trained on"
    answers = TrajectoryStore(tmp_path / "one" / "trajectories.jsonl").read(stage="after")
    assert {t.turns[0].action.text for t in answers if t.labels.mode == "greedy"} == {"no"}


def test_demonstrators_of_an_environment_are_checked(tmp_path: Path) -> None:
    envs = {**TABLE["envs"], "twice": {"id": TWICE, "demonstrators": {"maybe": 1.0}}}
    with pytest.raises(ConfigError, match=r"envs.twice: .*has no method 'maybe'"):
        train(changed(envs=envs), tmp_path / "run")
