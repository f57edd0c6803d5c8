"""`run_status`: how a run is getting on, from what it has written. Reads files alone, and changes nothing."""

from __future__ import annotations

import shlex
import time
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agentrl.bench.views.run_report import read_metrics
from agentrl.distributed.state import SamplingState
from agentrl.errors import CheckpointError
from agentrl.rollout.lock import holder_of
from agentrl.training.folder import RunFolder, is_run
from agentrl.training.status.beat import Beat, Part, Process
from agentrl.training.status.steps import Lines, Pace, Played, pace, played

State = Literal["running", "silent", "interrupted", "finished"]
SILENT_S = 30.0
"""After this many seconds without a word a run is called silent."""
_MOST_NAMED = 3


@dataclass(frozen=True)
class StageStatus:
    """A stage of the plan.

    Attributes:
        state: `finished`, `now` or `next`.
        step, total: steps that are done, and how many there are; 0 where the stage counts none.
    """

    name: str
    state: Literal["finished", "now", "next"]
    step: int
    total: int


@dataclass(frozen=True)
class RunStatus:
    """How a run is getting on.

    Attributes:
        run: its folder.
        env: ids of its environments.
        seed: of the run.
        state: `running`; `silent` if its process exists and says nothing, or is of another machine and said nothing for
            long; `interrupted` if its process is gone; `finished`.
        why: the error that interrupted it; empty where it said none, as after SIGKILL.
        process: that makes the run, or was the last to do so; None if that is not known.
        heard_s: seconds since it last wrote status.json; None if it has not yet.
        stages: the plan; only the stages that have begun where the run has not said more.
        part: what is in progress, such as an evaluation.
        left_s: about how long the stage in progress will still take; None if unknown.
        pace: of the newest steps of the stage.
        played: the episodes so far, by metrics.jsonl.
        sampling: who samples and what is under way; as it last was, where the run is not running.
        weights: version of the sampler's weights.
        wall_s, cpu_s: seconds spent so far, over interruptions; CPU seconds of all processes, as far as reported.
        memory_bytes: resident memory of the process that learns; 0 if unknown.
        checkpoint: number of the newest checkpoint; None if there is none.
        resume: the command that goes on with it; empty unless it is interrupted.
    """

    run: str
    env: tuple[str, ...]
    seed: int
    state: State
    why: str
    process: Process | None
    heard_s: float | None
    stages: tuple[StageStatus, ...]
    part: Part | None
    left_s: float | None
    pace: Pace | None
    played: Played
    sampling: SamplingState | None
    weights: int
    wall_s: float
    cpu_s: float
    memory_bytes: int
    checkpoint: int | None
    resume: str


def run_status(run: str | Path) -> RunStatus:
    """How a run is getting on; also of one that was killed, or is finished.

    Args: run: its folder.
    Raises: CheckpointError if there is no run, or one of another format; StoreError if its files cannot be read.
    """
    folder = _open(Path(run))
    lines = read_metrics(folder.metrics_path)
    beat = Beat.read(folder.status_path)
    process, heard_s = _process(folder, beat)
    state = _state(folder, process, heard_s)
    stages = _stages(beat, lines, state)
    now = next((stage for stage in stages if stage.state == "now"), None)
    found = None if now is None else pace(lines, now.name)
    is_on = state in ("running", "silent")
    part = beat.part if beat is not None and is_on else None
    last: Any = lines[-1] if lines else {}
    return RunStatus(
        run=str(run),
        **_settings(folder),
        state=state,
        why=beat.ended if beat is not None and state == "interrupted" else "",
        process=process,
        heard_s=heard_s,
        stages=stages,
        part=part,
        left_s=_left_s(now, found, part) if is_on else None,
        pace=found,
        played=played(lines),
        sampling=None if beat is None else beat.now.sampling,
        weights=0 if beat is None else beat.now.weights,
        wall_s=max(last.get("time_s", 0.0), 0.0 if beat is None else beat.now.wall_s),
        cpu_s=0.0 if beat is None else beat.now.cpu_s,
        memory_bytes=0 if beat is None else beat.memory_bytes,
        checkpoint=_newest_checkpoint(folder),
        resume=f"agentrl train --resume {shlex.quote(str(run))}" if state == "interrupted" else "",
    )


def _open(path: Path) -> RunFolder:
    try:
        return RunFolder.open(path)
    except CheckpointError:
        if (path / "config.toml").exists():
            raise
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: give the folder of a training run (`agentrl train` names it)")
    runs = sorted(str(below.parent) for below in path.glob("*/config.toml") if is_run(below.parent))
    shown = f"; there are runs below it: {', '.join(runs[:_MOST_NAMED])}{', …' if len(runs) > _MOST_NAMED else ''}"
    raise CheckpointError(
        f"{path} holds no training run (no config.toml): give the folder of one{shown if runs else ''}"
    )


def _settings(folder: RunFolder) -> dict[str, Any]:
    """Environments and seed, by the run's configuration. Raises: CheckpointError."""
    try:
        config = tomllib.loads(folder.config_path.read_text(encoding="utf-8"))
        envs = [env["id"] for env in (config.get("envs") or {"": config["env"]}).values()]
        return {"env": tuple(envs), "seed": int(config.get("seed", 0))}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder.config_path} cannot be read: {error!r}. Restore it from a backup") from error


def _process(folder: RunFolder, beat: Beat | None) -> tuple[Process | None, float | None]:
    """Whose run it is, and how long ago that process wrote; a process that has just gone on with it has not yet."""
    holder = holder_of(folder.path)
    if beat is not None and holder in (None, (beat.process.pid, beat.process.host)):
        return beat.process, max(0.0, time.time() - beat.written_s)
    return (None if holder is None else Process(*holder)), None


def _state(folder: RunFolder, process: Process | None, heard_s: float | None) -> State:
    is_held = holder_of(folder.path) is not None
    if folder.is_finished:
        return "finished"
    if process is None or not is_held or (process.is_here and not process.exists):
        return "interrupted"
    return "silent" if heard_s is not None and heard_s > SILENT_S else "running"


def _stages(beat: Beat | None, lines: Lines, state: State) -> tuple[StageStatus, ...]:
    """The plan as the run told it, or the stages that its lines name."""
    done = {line["stage"]: int(line["step"]) for line in lines}
    if beat is None:
        seen = [StageStatus(name, "finished", step, 0) for name, step in done.items()]
        return (*seen[:-1], *([] if state == "finished" else [replace(one, state="now") for one in seen[-1:]]))
    at = len(beat.stages) if state == "finished" else beat.now.stage
    return tuple(
        StageStatus(
            stage.name,
            "finished" if number < at else "now" if number == at else "next",
            done.get(stage.name, 0),
            stage.total,
        )
        for number, stage in enumerate(beat.stages)
    )


def _left_s(stage: StageStatus | None, found: Pace | None, part: Part | None) -> float | None:
    """Time to go of a stage: by its pace where it counts its steps, otherwise by what it reports of itself."""
    if stage is None:
        return None
    if stage.total and found is not None:
        return found.step_s * (stage.total - stage.step)
    if part is None or part.name != stage.name or stage.total or part.number <= part.first:
        return None
    return (time.time() - part.began_s) / (part.number - part.first) * (part.total - part.number)


def _newest_checkpoint(folder: RunFolder) -> int | None:
    found = [path.name.removeprefix("step-") for path in folder.checkpoints_path.glob("step-*")]
    return max((int(number) for number in found if number.isdigit()), default=None)
