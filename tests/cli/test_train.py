"""`agentrl train`: which configuration and folder a call means. The loop is a stand-in that records calls."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from agentrl.cli import main
from agentrl.cli.progress import TrainProgress, shown_metrics
from agentrl.cli.train import summary_text
from agentrl.config import dump_config, load_config
from agentrl.training.folder import RunFolder
from agentrl.training.plan import TrainConfig
from agentrl.training.train import open_run

TABLE = {"greedy": {"mean": 0.4, "ci95": [0.3, 0.5]}, "sampled": {"mean": 0.38, "ci95": [0.3, 0.46]}, "n_tasks": 9}


class FakeLoop:
    """`train` and `resume` as the real ones are called; `end` decides how a run ends."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, int]] = []
        self.end: Callable[[], None] = lambda: None

    def train(self, config: TrainConfig, out_dir: Path, *, on_progress: Callable[[Any], None]) -> dict[str, Any]:
        return self._run("train", RunFolder.create(out_dir, dump_config(config)), config)

    def resume(self, out_dir: Path, *, on_progress: Callable[[Any], None]) -> dict[str, Any]:
        folder, config = open_run(out_dir)
        folder.lock()
        return self._run("resume", folder, config)

    def _run(self, verb: str, folder: RunFolder, config: TrainConfig) -> dict[str, Any]:
        self.calls.append((verb, folder.path.name, config.seed))
        try:
            folder.log("rl", 1, 1, 0.5, {"rollout/success": 0.5})
            self.end()
        finally:
            folder.close()
        summary = {"env": {"id": config.env.id}, "seed": config.seed, "before": TABLE, "after": TABLE}
        summary |= {"wall_s": 1.0, "cpu_s": 1.0}
        folder.write_summary(summary)
        return summary


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeLoop:
    fake = FakeLoop()
    monkeypatch.setattr("agentrl.training.train.train", fake.train)
    monkeypatch.setattr("agentrl.training.train.resume", fake.resume)
    monkeypatch.chdir(tmp_path)
    Path("quick.toml").write_text('[env]\nid = "agentrl/Guess-v0"\n[run]\ntensorboard = false\n')
    return fake


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["train", *arguments])


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_a_file_with_overrides(loop: FakeLoop) -> None:
    result = run("quick.toml", "--set", "stages.rl.steps=3", "--seed", "5", "--out", "runs/a", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["seed"], summary["env"]["id"]) == (5, "agentrl/Guess-v0")
    config = load_config(TrainConfig, "runs/a/config.toml")
    assert (config.stages["rl"].steps, config.seed) == (3, 5)


def test_an_environment_with_an_oracle_gets_a_warm_start(loop: FakeLoop) -> None:
    assert run("agentrl/Guess-v0").exit_code == 0
    config = load_config(TrainConfig, "runs/guess-v0/config.toml")
    assert dict(config.stages["warm_start"].demonstrators) == {"oracle": 1.0}
    assert run("agentrl/Guess-v0", "--set", 'model.path="m"').exit_code == 0
    config = load_config(TrainConfig, "runs/guess-v0-2/config.toml")
    assert dict(config.stages["warm_start"].demonstrators) == {}


def test_the_chat_format_and_template_are_keys_of_the_model(loop: FakeLoop, tmp_path: Path) -> None:
    assert run("quick.toml", "--chat-format", "hermes", "--chat-template", 'my "own".jinja').exit_code == 0
    model = load_config(TrainConfig, "runs/quick/config.toml").model
    assert (model.chat_format, model.chat_template) == ("hermes", 'my "own".jinja')
    assert run("--resume", "runs/quick", "--chat-format", "generic").exit_code == 2
    (tmp_path / "x" / "model").mkdir(parents=True)
    summary: dict[str, Any] = {"env": {"id": "agentrl/Guess-v0"}, "seed": 0, "wall_s": 1, "cpu_s": 1}
    summary["settings"] = {"model": {"chat_format": "hermes"}}
    assert "/x/model --chat-format hermes)" in summary_text(summary, tmp_path / "x")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("agentrl/Gess-v0",), 1, "Did you mean 'agentrl/Guess-v0'?"),
        (("absent.toml",), 1, "absent.toml: no such file"),
        (("quick.toml", "--set", "stages.rl.step=3"), 1, "Did you mean 'steps'?"),
        (("quick.toml", "--set", "train.lr=1"), 1, "[train] is now [stages.rl]"),
        (
            ("quick.toml", "--set", "stages.lr.steps=1"),
            1,
            "of the standard plan. Known: after, before, rl, warm_start",
        ),
        (("quick.toml", "--set", "env.id=agentrl/Gess-v0"), 1, "Did you mean 'agentrl/Guess-v0'?"),
        ((), 2, "give a CONFIG file or an environment"),
        (("quick.toml", "--resume", "runs/a"), 2, "--resume takes all settings from the run"),
        (("--resume", "runs/absent"), 1, "holds no run"),
    ],
)
def test_wrong_calls_leave_no_folder(loop: FakeLoop, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert not Path("runs").exists()
    assert loop.calls == []


def test_a_run_is_never_written_over(loop: FakeLoop) -> None:
    assert run("quick.toml", "--out", "runs/a").exit_code == 0
    again = run("quick.toml", "--out", "runs/a")
    assert again.exit_code == 1
    assert "already holds a finished run: choose another --out" in again.stderr
    assert "last checkpoint" not in again.stderr


def test_continue_resumes_what_was_interrupted_and_shows_what_is_finished(loop: FakeLoop) -> None:
    loop.end = interrupt
    first = run("quick.toml", "--out", "runs/q", "--continue", "--seed", "7")
    assert first.exit_code == 130
    assert "no checkpoint yet. Begin again with: agentrl train --resume runs/q" in first.stderr
    assert Path("runs/q/report.html").exists()
    loop.end = lambda: None
    # Without a seed, the interrupted run is meant, whatever its seed.
    assert run("quick.toml", "--out", "runs/q", "--continue").exit_code == 0
    finished = run("quick.toml", "--out", "runs/q", "--continue", "--seed", "7", "--json")
    assert json.loads(finished.stdout)["seed"] == 7
    assert "finished" in finished.stderr
    assert loop.calls == [("train", "q", 7), ("resume", "q", 7)]


@pytest.mark.parametrize("arguments", [("--continue", "--seed", "8"), ("--fresh",)])
def test_another_seed_or_fresh_moves_the_old_run_aside(loop: FakeLoop, arguments: tuple[str, ...]) -> None:
    assert run("quick.toml", "--out", "runs/q", "--seed", "0").exit_code == 0
    assert run("quick.toml", "--out", "runs/q", *arguments).exit_code == 0
    assert len(loop.calls) == 2
    assert load_config(TrainConfig, "runs/q-old/config.toml").seed == 0
    assert Path("runs/q/summary.json").exists()
    assert Path("runs/q-old/summary.json").exists()


def test_resume(loop: FakeLoop) -> None:
    loop.end = interrupt
    run("quick.toml", "--out", "runs/a")
    loop.end = lambda: None
    assert run("--resume", "runs/a").exit_code == 0
    done = run("--resume", "runs/a")
    assert "finished already" in done.stderr
    assert loop.calls == [("train", "a", 0), ("resume", "a", 0)]


def test_a_finished_run_gets_the_report_that_a_full_disk_prevented(loop: FakeLoop) -> None:
    run("quick.toml", "--out", "runs/a")
    report = Path("runs/a/report.html")
    report.unlink(missing_ok=True)
    assert run("--resume", "runs/a").exit_code == 0
    assert "</html>" in report.read_text()
    report.write_text("of an interruption before the end")
    os.utime(report, (0, 0))
    assert run("--resume", "runs/a").exit_code == 0
    assert "</html>" in report.read_text()


def test_a_full_disk_at_the_start_leaves_no_half_written_run(loop: FakeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *args: Any, **kwargs: Any) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    result = run("quick.toml", "--out", "runs/a")
    assert result.exit_code == 1
    assert re.search(r"cannot write to \S*runs/a: ", result.stderr)
    assert "--resume" not in result.stderr
    assert not Path("runs/a").exists()


@pytest.mark.parametrize("arguments", [(), ("--fresh",), ("--continue",)])
@pytest.mark.parametrize("name", ["notes.txt", "config.toml", "trajectories.jsonl", "checkpoints/my.pt"])
def test_a_folder_that_is_not_a_runs_is_refused_and_stays(
    loop: FakeLoop, arguments: tuple[str, ...], name: str
) -> None:
    Path("mine", name).parent.mkdir(parents=True)
    Path("mine", name).write_text("precious")
    result = run("quick.toml", "--out", "mine", *arguments)
    assert result.exit_code == 1
    assert "mine holds 1 files or folders that are not of a run" in result.stderr
    assert Path("mine", name).read_text() == "precious"
    assert sorted(os.listdir()) == ["mine", "quick.toml"]
    assert loop.calls == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--resume", "runs/a"),
        ("quick.toml", "--out", "runs/a", "--continue"),
        ("quick.toml", "--out", "runs/a", "--continue", "--seed", "9"),
        ("quick.toml", "--out", "runs/a", "--fresh"),
    ],
)
def test_a_run_that_goes_on_elsewhere_is_refused_by_name(loop: FakeLoop, arguments: tuple[str, ...]) -> None:
    loop.end = interrupt
    run("quick.toml", "--out", "runs/a")
    loop.end = lambda: None
    writer = RunFolder.open("runs/a")
    writer.lock()
    before = Path("runs/a/report.html").stat().st_mtime_ns
    result = run(*arguments)
    assert result.exit_code == 1
    assert f"runs/a is in use by process {os.getpid()}" in result.stderr
    assert Path("runs/a/report.html").stat().st_mtime_ns == before
    assert os.listdir("runs") == ["a"]
    writer.close()
    assert run(*arguments).exit_code == 0


@pytest.mark.parametrize("code", [0, None, 7])
def test_sys_exit_in_the_code_of_a_run_is_a_failure_with_a_report(loop: FakeLoop, code: int | None) -> None:
    loop.end = lambda: sys.exit(code)
    result = run("quick.toml", "--out", "runs/a", "--json")
    assert result.exit_code == 1
    assert f"sys.exit({code!r}) was called (test_train.py:" in result.stderr
    assert "sys.exit" in json.loads(result.stdout)["error"]["message"]
    assert "</html>" in Path("runs/a/report.html").read_text()
    assert "Begin again with: agentrl train --resume runs/a" in result.stderr


def test_sys_exit_in_a_file_of_an_environment_is_a_failure(loop: FakeLoop) -> None:
    Path("mine.py").write_text("import sys\nsys.exit(0)\n")
    result = run("./mine.py:Mine")
    assert result.exit_code == 1
    assert "sys.exit(0) was called (mine.py:2 in <module>)" in result.stderr


def test_discarded_episodes_are_named_below_the_table() -> None:
    counts = {"n_attempted": 10, "discarded": {"server": 1, "host": 1, "author": 0}, "n_discarded_after_actions": 1}
    cell = {
        "mean": 1.0,
        "ci95": [0.6, 1.0],
        "success_of_attempted": {"mean": 0.8, "ci95": [0.5, 0.9], "n": 9},
        **counts,
    }
    summary = {"env": {"id": "e"}, "seed": 1, "wall_s": 1.0, "cpu_s": 1.0, "before": TABLE, "after": {"greedy": cell}}
    text = summary_text(summary, Path("absent"))
    assert "after, greedy: 2 (1 server, 1 host) of 10 episodes were discarded" in text
    assert "discarded; with those as failures 0.800  [0.500, 0.900]" in text
    assert "warning: 1 of them after the model had acted: do not trust this success rate" in text
    assert "discarded" not in summary_text({**summary, "after": TABLE}, Path("absent"))


def test_the_table() -> None:
    after = {**TABLE, "greedy": {"mean": 0.95, "ci95": [None, None]}}
    summary = {"env": {"id": "e"}, "seed": 1, "before": TABLE, "after": after, "wall_s": 61.4, "cpu_s": 60.0}
    lines = summary_text(summary, Path("runs/x")).splitlines()
    assert lines[4] == "greedy    0.400  [0.300, 0.500]     0.950"
    assert lines[5] == "sampled   0.380  [0.300, 0.460]     0.380  [0.300, 0.460]"
    assert lines[-1] == "Report: runs/x/report.html"
    assert "-" in summary_text({**summary, "before": None}, Path("x")).splitlines()[4]


def step(stage: str, number: int, total: int, **metrics: float) -> SimpleNamespace:
    return SimpleNamespace(stage=stage, step=number, total=total, metrics=metrics)


def test_what_the_table_says_in_words_stands_below_it() -> None:
    summary = {"env": {"id": "e"}, "seed": 1, "before": TABLE, "after": TABLE, "wall_s": 61.4, "cpu_s": 60.0}
    summary["verdicts"] = [
        {"name": "worse", "text": "Worse (greedy): so."},
        {"name": "too_hard", "text": "Too hard: so."},
    ]
    summary["stages"] = {"rl": {"selection": {"text": "All steps were done"}}, "before": TABLE}
    lines = summary_text(summary, Path("absent")).splitlines()
    start = lines.index("Worse (greedy): so.")
    assert lines[start + 1 : start + 4] == ["Too hard: so.", "rl: All steps were done.", ""]


def test_progress_in_a_pipe_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainProgress() as progress:
        for number in range(1, 101):
            progress(step("warm_start", number, 100))
        progress(step("eval", 0, 9, **{"eval/success": 0.5, "eval/ci95_low": 0.4, "eval/ci95_high": 0.6}))
        progress(step("rl", 1, 9, **{"rollout/success": 0.25, "time/sample_s": 1.0, "time/learn_s": 0.5}))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "warm start 1/100",
        "warm start 100/100",
        "evaluation 0/9  held-out success 0.500  [0.400 to 0.600]",
        "training 1/9  success 0.250  1.5 s",
    ]


def test_progress_in_a_terminal_is_a_bar() -> None:
    console = Console(force_terminal=True, width=120, record=True, file=sys.stderr)
    with TrainProgress(console) as progress:
        progress(step("warm_start", 1, 2))
        progress(step("warm_start", 2, 2))
        progress(step("rl", 1, 4, **{"rollout/success": 0.25}))
        progress(step("eval", 1, 4, **{"eval/success": 0.5}))
    text = console.export_text()
    assert "warm start" in text
    assert "2/2" in text
    assert "success 0.250" in text
    assert "held-out success 0.500" in text


def test_shown_metrics_names_what_is_there() -> None:
    assert shown_metrics({}) == ""
    assert shown_metrics({"loss/policy": 0.12345, "grad/norm": 3.0}) == "loss 0.123"
