"""`agentrl status`: how a training run is getting on. Owns its words; what a run says is `agentrl.training.status`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentrl.bench.measures.endings import by_cause
from agentrl.cli.boundary import json_option, print_json, say

if TYPE_CHECKING:
    from agentrl.distributed.state import SamplingState, WorkerState
    from agentrl.training.status.read import RunStatus
    from agentrl.training.status.steps import Success

_MOST_WORKERS = 16
_MIB = 1 << 20


@click.command("status")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--watch", is_flag=True, help="Show it again every few seconds, until the run ends or Ctrl-C.")
@click.option(
    "--every-s",
    type=click.FloatRange(0.1),
    default=2.0,
    show_default=True,
    help="Seconds between two looks of --watch.",
)
@json_option
def command(run: Path, watch: bool, every_s: float, as_json: bool) -> None:
    """Show how RUN, the folder of a training run, is getting on: step, time to go, samplers, speed, faults.

    It reads files alone: a run that goes on is not disturbed, and one that was killed can be read too.

    \b
    agentrl status runs/quickstart
    agentrl status runs/quickstart --watch
    """
    from agentrl.training.status.read import run_status

    if watch and as_json:
        raise click.UsageError("--json prints one document: leave out --watch, and call it as often as you need it")
    found = run_status(run)
    if as_json:
        print_json(asdict(found))
        return
    while True:
        if watch:
            click.clear()
        say("\n".join(status_lines(found)))
        if not watch or found.state in ("finished", "interrupted"):
            return
        time.sleep(every_s)
        found = run_status(run)


def status_lines(found: RunStatus) -> list[str]:
    """What is said of a run, a line each."""
    rows = [
        ("stage", _stage(found)),
        ("now", _part(found)),
        ("sampling", _sampling(found)),
        *_workers(found),
        ("speed", _speed(found)),
        ("success", _successes(found)),
        ("faults", f"{by_cause(found.played.faults)} of {found.played.episodes} episodes"),
        ("losses", _losses(found.sampling)),
        ("used", _used(found)),
        ("resume", found.resume),
    ]
    title = f"{found.run}: {', '.join(found.env)}, seed {found.seed}"
    return [title, _state(found), *(f"{name:<10}{text}" for name, text in rows if text)]


def _state(found: RunStatus) -> str:
    who = "" if found.process is None else f"process {found.process.pid} on {found.process.host}"
    heard = "" if found.heard_s is None else f"{duration(found.heard_s)} ago"
    if found.state == "finished":
        return "finished"
    if found.state == "running":
        return f"running: {who}, " + (f"last heard of {heard}" if heard else "which has just begun")
    if found.state == "silent":
        return f"silent: {who} was last heard of {heard}; it is stopped, hangs, or its machine is gone"
    kept = "there is no checkpoint yet" if found.checkpoint is None else f"checkpoint {found.checkpoint} is kept"
    return f"interrupted: {found.why or 'its process is gone'}; {kept}"


def _stage(found: RunStatus) -> str:
    now = next((stage for stage in found.stages if stage.state == "now"), None)
    if now is None:
        return ", ".join(f"{stage.name} (finished)" for stage in found.stages)
    later = [stage.name for stage in found.stages if stage.state == "next"]
    steps = f", step {now.step} of {now.total}" if now.total else ""
    pace = "" if found.pace is None else f", {duration(found.pace.step_s)} a step"
    left = "" if found.left_s is None else f", about {duration(found.left_s)} to go"
    return f"{now.name}{steps}{pace}{left}" + (f"; then {', '.join(later)}" if later else "")


def _part(found: RunStatus) -> str:
    return "" if found.part is None else f"{found.part.name} {found.part.number} of {found.part.total}"


def _sampling(found: RunStatus) -> str:
    sampling = found.sampling
    if sampling is None or found.state not in ("running", "silent"):
        return ""
    of_groups = f" of {sampling.groups} groups" if sampling.groups else ""
    waiting = f", {sampling.waiting} groups wait" if sampling.waiting else ""
    lag = "" if found.played.lag_max is None else f"; tokens at most {found.played.lag_max:.0f} updates old"
    under_way = f"{sampling.episodes} episodes{of_groups} under way{waiting}"
    return f"{sampling.by}: {under_way}; weights {found.weights}{lag}"


def _workers(found: RunStatus) -> Iterator[tuple[str, str]]:
    """A line for each worker of a run that goes on."""
    if found.sampling is None or found.state not in ("running", "silent"):
        return
    workers = found.sampling.workers
    for worker in workers[:_MOST_WORKERS]:
        yield "", _worker(worker)
    if len(workers) > _MOST_WORKERS:
        yield "", f"and {len(workers) - _MOST_WORKERS} more (--json names all)"


def _worker(worker: WorkerState) -> str:
    parts = [f"{worker.number}: {worker.condition}", worker.place, f"{worker.episodes} episodes"]
    parts += [f"{worker.cpu_s:.0f} s CPU"] if worker.cpu_s else []
    parts += [f"{worker.memory_bytes / _MIB:.0f} MiB"] if worker.memory_bytes else []
    return ", ".join(part for part in parts if part)


def _speed(found: RunStatus) -> str:
    pace = found.pace
    if pace is None or pace.tokens_per_s is None or pace.episodes_per_s is None:
        return ""
    steps = f"the last {pace.steps} steps" if pace.steps > 1 else "the last step"
    return f"{pace.tokens_per_s:.0f} tokens/s sampled, {pace.episodes_per_s:.1f} episodes/s ({steps})"


def _successes(found: RunStatus) -> str:
    both = {"training": found.played.training, "held-out": found.played.held_out}
    return "; ".join(f"{what} {_success(success)}" for what, success in both.items() if success is not None)


def _success(success: Success) -> str:
    known = success.low is not None and success.high is not None
    interval = f" [{success.low:.3f}, {success.high:.3f}]" if known else ""
    return f"{success.mean:.3f}{interval} ({success.stage}, step {success.step})"


def _losses(sampling: SamplingState | None) -> str:
    if sampling is None or not sampling.restarts:
        return ""
    last = f"; the last: {sampling.last_loss}" if sampling.last_loss else ""
    return f"{sampling.restarts} samplers or servers lost and replaced{last}"


def _used(found: RunStatus) -> str:
    parts = [f"{duration(found.wall_s)} wall"]
    parts += [f"{duration(found.cpu_s)} CPU"] if found.cpu_s else []
    is_on = found.state in ("running", "silent")
    parts += [f"{found.memory_bytes / _MIB:.0f} MiB in the process that learns"] if found.memory_bytes and is_on else []
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours >= 2 else f"{seconds / 60:.0f} min"
