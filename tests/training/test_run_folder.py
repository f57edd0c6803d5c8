"""Whose folder it is: a run writes only into one that it made or found empty, and removes only its own files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agentrl.cli import main
from agentrl.config import dump_config
from agentrl.errors import ConfigError, EnvFault, ModelError, RolloutError, StoreError
from agentrl.registry import load_reference
from agentrl.training import checkpoint
from agentrl.training.folder import RunFolder, is_run, move_aside
from agentrl.training.settings import RunConfig
from agentrl.training.train import resume, train
from tests.training.test_preflight import CONFIG, ENV, STAGES

BROKEN = replace(CONFIG, env=replace(ENV, id="test/AskBrokenOracle-v0"))
OFTEN = replace(
    CONFIG,
    stages={**STAGES, "warm_start": replace(STAGES["warm_start"], checkpoint_every=1)},
    run=RunConfig(evaluate_every=0, tensorboard=False, keep_checkpoints=1),
)


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder, by its path."""
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def stop_at(stage: str, step: int) -> Callable[[Any], None]:
    """A progress display that presses Ctrl-C."""

    def press(progress: Any) -> None:
        if (progress.stage, progress.step) == (stage, step):
            raise KeyboardInterrupt

    return press


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl.rollout.runner._MAX_BACKOFF_S", 0.0)


@pytest.mark.parametrize(
    "files",
    [
        ("checkpoints/my.pt", "tensorboard/events", "trajectories.jsonl", "metrics.jsonl"),
        ("notes.txt",),
        ("config.toml",),
        ("checkpoints/step-00000001/model.safetensors",),
        ("summary.json", "trajectories.jsonl"),  # of a benchmark
        (".gitkeep",),
    ],
)
@pytest.mark.parametrize("config", [BROKEN, CONFIG], ids=["fails", "works"])
def test_a_folder_with_somebodys_files_is_refused_by_name_and_not_touched(
    tmp_path: Path, files: tuple[str, ...], config: Any, no_waiting: None
) -> None:
    mine = tmp_path / "mine"
    for name in files:
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text("precious")
    before = content(mine)
    first = min(Path(name).parts[0] for name in files)
    with pytest.raises(ConfigError, match=rf"mine holds \d files or folders that are not of a run \({first}.*--out"):
        train(config, mine)
    assert content(mine) == before
    assert sorted(p.name for p in mine.iterdir()) == sorted({Path(name).parts[0] for name in files})


def test_an_empty_folder_and_what_operating_systems_leave_are_free_and_stay(tmp_path: Path, no_waiting: None) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / ".DS_Store").write_text("finder")
    with pytest.raises(RolloutError):
        train(BROKEN, mine)
    assert content(mine) == {".DS_Store": "finder"}
    (mine / ".DS_Store").unlink()
    with pytest.raises(RolloutError):
        train(BROKEN, mine)
    assert list(mine.iterdir()) == []


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    with pytest.raises(ConfigError, match="file is no folder: choose another --out"):
        train(CONFIG, tmp_path / "file")
    with pytest.raises(ConfigError, match="link is a link to nothing"):
        train(CONFIG, tmp_path / "link")
    with pytest.raises(StoreError, match="choose another"):
        train(CONFIG, tmp_path / "file" / "run")
    with pytest.raises(StoreError, match="cannot write"):
        train(CONFIG, "/proc/agentrl/run")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "link"]


def test_a_linked_folder_is_that_folder(tmp_path: Path, no_waiting: None) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "to_full").symlink_to(tmp_path / "full")
    with pytest.raises(ConfigError, match=r"\(mine\.txt\)"):
        train(CONFIG, tmp_path / "to_full")
    (tmp_path / "empty").mkdir()
    (tmp_path / "to_empty").symlink_to(tmp_path / "empty")
    with pytest.raises(RolloutError):
        train(BROKEN, tmp_path / "to_empty")
    assert (tmp_path / "to_empty").is_symlink()
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, *args: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(StoreError, match=r"cannot write .*Permission denied; choose another"):
        train(CONFIG, tmp_path / "read-only" / "run")


def test_a_failed_run_leaves_what_came_into_its_folder_meanwhile(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def add(progress: Any) -> None:
        for name in ("notes.txt", "checkpoints/keep/my.pt", "tensorboard/mine"):
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            (run / name).write_text("mine")
        raise ModelError("broken")

    with pytest.raises(ModelError):
        train(CONFIG, run, on_progress=add)
    assert content(run) == dict.fromkeys(("checkpoints/keep/my.pt", "notes.txt", "tensorboard/mine"), "mine")
    with pytest.raises(ConfigError, match=r"not of a run \(checkpoints, notes\.txt, tensorboard\)"):
        train(CONFIG, run)


def test_a_failed_run_removes_its_own_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = RunFolder.create(tmp_path / "run", "", tensorboard=True)
    folder.log("rl", 1, 1, 0.5, {"loss/policy": 0.25})
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    folder.abandon()
    assert not (tmp_path / "run").exists()


def test_what_a_user_puts_into_a_run_survives_resuming_and_pruning(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(OFTEN, run, on_progress=stop_at("warm_start", 2))
    (step,) = (run / "checkpoints").glob("step-*")
    shutil.copytree(step, run / "checkpoints" / "step-00000000")  # of another run, as far as this one knows
    manifest = run / "checkpoints" / "step-00000000" / checkpoint.MANIFEST
    manifest.write_text(manifest.read_text().replace('"run": "', '"run": "other'))
    (run / "checkpoints" / "best").symlink_to(step)
    own = ("notes.txt", "checkpoints/keep/my.pt", f"checkpoints/{step.name}/why.txt", "model/mine.txt", "tensorboard/x")
    for name in own:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("mine")
    assert resume(run)["steps"] == 2
    moved = [name if not name.startswith("model/") else "model-old/mine.txt" for name in own]
    assert {name: (run / name).read_text() for name in moved} == dict.fromkeys(moved, "mine")
    kept = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert kept[:2] == ["best", "keep"]
    assert kept[2:4] == ["step-00000000", step.name]
    assert len(kept) == 5  # and the newest of this run
    assert (run / "model" / "config.json").exists()


def test_a_model_that_was_written_before_is_not_kept_twice(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(CONFIG, run)
    (run / "summary.json").unlink()  # as if the disk had been full
    resume(run)
    assert sorted(p.name for p in run.glob("*model*")) == ["model"]


def test_fresh_moves_a_run_aside_with_all_that_is_in_it_and_nothing_else(tmp_path: Path) -> None:
    run = tmp_path / "run"
    RunFolder.create(run, "").close()
    (run / "notes.txt").write_text("mine")
    (tmp_path / "run-old").symlink_to("absent")
    assert move_aside(run) == tmp_path / "run-old-2"
    assert (tmp_path / "run-old-2" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "run-old-2" / ".lock").exists()
    assert is_run(tmp_path / "run-old-2")
    for name in ("config.toml", "format"):
        run.mkdir(exist_ok=True)
        (run / name).write_text("mine")
        with pytest.raises(ConfigError, match="holds no run"):
            move_aside(run)
    assert content(run) == {"config.toml": "mine", "format": "mine"}


def test_a_checkpoint_of_another_run_at_the_same_step_is_moved_not_removed(tmp_path: Path, make_model: Any) -> None:
    model, root = make_model(), tmp_path / "checkpoints"
    checkpoint.save(root, 1, model, run="a", extra={"of": "a"})
    path = checkpoint.save(root, 1, model, run="b", extra={"of": "b"})
    assert checkpoint.read(path).extra == {"of": "b"}
    assert checkpoint.read(root / "step-00000001-old-1").extra == {"of": "a"}
    (root / ".writing-notes").mkdir()
    (root / ".replaced-mine").mkdir()
    (root / ".writing-00000009-1").mkdir()
    assert checkpoint.latest(root) == path
    assert sorted(p.name for p in root.glob(".*")) == [".replaced-mine", ".writing-notes"]


# One process at a time.

HOLD = """
import sys
from agentrl.training.folder import RunFolder
folder = RunFolder.open(sys.argv[1])
folder.lock()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A run without a checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tmp_path / "run", on_progress=stop_at("demonstrations", 0))
    return tmp_path / "run"


def test_a_run_that_another_process_writes_is_refused_by_name_and_a_killed_one_blocks_nothing(
    interrupted: Path,
) -> None:
    command = [sys.executable, "-c", HOLD, str(interrupted)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        before = content(interrupted)
        for refused in (lambda: resume(interrupted), lambda: move_aside(interrupted)):
            with pytest.raises(ConfigError, match=f"run is in use by process {process.pid}"):
                refused()
        assert content(interrupted) == before
        RunFolder.open(interrupted)  # to read it
        process.kill()
        process.wait()
    assert resume(interrupted)["after"]["n_tasks"] == 3
    assert not (interrupted / ".lock").exists()


def test_two_runs_that_begin_in_one_folder(tmp_path: Path) -> None:
    first = RunFolder.create(tmp_path / "run", "")
    os.unlink(tmp_path / "run" / "config.toml")  # as if it had not got so far
    for name in ("format", "identity.json", "metrics.jsonl"):
        (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / "checkpoints").rmdir()
    with pytest.raises(ConfigError, match="in use by process"):
        RunFolder.create(tmp_path / "run", "")
    first.close()
    RunFolder.create(tmp_path / "run", "").close()


def test_the_folder_is_locked_while_a_run_goes_on_and_free_after(tmp_path: Path) -> None:
    refusals: list[str] = []

    def second(progress: Any) -> None:
        if not refusals:
            with pytest.raises(ConfigError) as refused:
                resume(tmp_path / "run")
            refusals.append(str(refused.value))

    train(CONFIG, tmp_path / "run", on_progress=second)
    assert "in use by process" in refusals[0]
    assert not (tmp_path / "run" / ".lock").exists()


def open_files(folder: Path) -> list[str]:
    """Files below a folder that this process has open."""
    links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    targets = [os.readlink(link) for link in links if link.is_symlink()]
    return [target for target in targets if target.startswith(str(folder))]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors are listed in /proc")
def test_no_file_of_a_run_stays_open(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(OFTEN, tmp_path / "run", on_progress=stop_at("warm_start", 2))
    assert open_files(tmp_path) == []
    resume(tmp_path / "run")
    assert open_files(tmp_path) == []


def test_a_folder_that_became_read_only_cannot_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(OFTEN, tmp_path / "run", on_progress=stop_at("warm_start", 2))
    with (tmp_path / "run" / "metrics.jsonl").open("a") as log:
        log.write('{"stage": "rl", "st')  # cut off, as by kill -9

    def refused(*args: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "truncate", refused)
    with pytest.raises(StoreError, match=r"cannot write .*Read-only file system; resume in a folder that can"):
        resume(tmp_path / "run")


# Runs end properly.


@pytest.mark.parametrize("code", [0, None, 3, "done"])
@pytest.mark.parametrize("at", [("demonstrations", 0), ("rl", 1)])
def test_sys_exit_in_the_code_of_a_run_is_an_error_and_the_run_can_be_resumed(
    tmp_path: Path, at: tuple[str, int], code: Any
) -> None:
    def leave(progress: Any) -> None:
        if (progress.stage, progress.step) == at:
            sys.exit(code)

    shown = "" if code is None else repr(code)
    with pytest.raises(EnvFault, match=rf"called sys\.exit\({shown}\) \(test_run_folder\.py:\d+ in leave\)"):
        train(CONFIG, tmp_path / "run", on_progress=leave)
    assert not (tmp_path / "run" / ".lock").exists()
    with pytest.raises(EnvFault):
        resume(tmp_path / "run", on_progress=leave)
    assert resume(tmp_path / "run")["steps"] == 2


LEAVES = """
import sys
from dataclasses import dataclass
from agentrl.rollout.feedback.base import Feedback

@dataclass(frozen=True)
class Leaves(Feedback):
    async def __call__(self, groups):
        sys.exit(0)
"""


def test_a_part_that_calls_sys_exit_does_not_end_the_command_as_if_it_had_succeeded(tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text(LEAVES)
    stages = {**STAGES, "rl": replace(STAGES["rl"], feedback=(load_reference(f"{tmp_path}/leaves.py:Leaves")(),))}
    (tmp_path / "run.toml").write_text(dump_config(replace(CONFIG, stages=stages)))
    out = tmp_path / "run"
    result = CliRunner().invoke(main, ["train", str(tmp_path / "run.toml"), "--out", str(out), "--json"])
    assert result.exit_code == 1
    assert "called sys.exit(0) (leaves.py:9 in __call__)" in json.loads(result.stdout)["error"]["message"]
    assert "</html>" in (out / "report.html").read_text()
    assert f"Continue with: agentrl train --resume {out}" in result.stderr
