"""Trainer, samplers and learners of a run, killed with SIGKILL at random moments: is a group lost or doubled?

usage: OMP_NUM_THREADS=1 nice -n 10 python benchmarks/kills.py [--moments 12] [--seed 0] [--only ranks] [--out OUT]
       [--table]

A training run is killed at random moments, each millisecond of its steps being as likely as another. With two samplers,
at lag 0 and at lag 1: the trainer, one of the samplers, or both at once. With a sampler and two ranks of a learner that
share its weights, at lag 0: the trainer, the other rank, or the sampler. A run that lost its trainer or a rank is begun
again and goes on to its end; a sampler that was killed is replaced. Of every run is then asked:

- whether each step trained the groups that it trains in the run that nobody killed, whole, once and in their order;
- whether no token that was trained was older than the lag;
- whether the weights are, bit for bit, those of the run that nobody killed (at lag 0; with a lag they depend on time);
- whether nothing is left behind: processes, temporary files and sockets, shared memory, other files in its folder.

A moment is drawn as a progress report and a time after it; the next report is the latest moment. Each finished cell is
a line of OUT/cells.jsonl with its moment, and is not computed again. Exit code 1 if a cell has a fault.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # optimizers load it: here once, rather than in every child
from resume import Moment, Report, cpu_seconds, draw
from safetensors.torch import load_file

from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.learning.learner import LearnerSettings
from agentrl.rollout.store import TrajectoryStore
from agentrl.tool_schema import tool
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.progress import Progress
from agentrl.training.settings import EnvConfig, RunConfig, SamplingConfig, ScaleConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import resume, train
from agentrl.trajectory import Task

STEPS, GROUPS, EPISODES = 6, 3, 4
KEPT = Path(__file__).resolve().parent / "results" / "kills"
STAGE, _END_S = "rl", 30.0
_FORK = multiprocessing.get_context("fork")


class Agree(ToolEnv):
    """Look, then say yes. A tiny model learns within seconds to say either."""

    tasks = Tasks.of(train=[{"n": n} for n in range(24)], eval=[{"n": n} for n in range(24, 32)])

    def start(self, task: Task) -> str:
        return f"Number {task.data['n']}: yes or no?"

    @tool
    def look(self) -> str:
        """Look at the number."""
        return f"it is {self.task.data['n']}"

    def score(self, answer: str | None) -> float:
        return float(answer == "yes")

    def yes(self, messages: Any) -> Any:
        return "yes" if messages[-1].role == "tool" else call("look")

    def no(self, messages: Any) -> Any:
        return "no" if messages[-1].role == "tool" else call("look")


ENV = EnvConfig(f"{Path(__file__).resolve()}:Agree", max_turns=3)


@dataclass(frozen=True)
class Kind:
    """A kind of run. Attributes: victims: what is killed of it."""

    lag: int
    scale: ScaleConfig
    victims: tuple[str, ...]


KINDS = {
    "lag 0": Kind(0, ScaleConfig(samplers=2), ("trainer", "sampler", "both")),
    "lag 1": Kind(1, ScaleConfig(samplers=2), ("trainer", "sampler", "both")),
    "ranks": Kind(0, ScaleConfig(samplers=1, learners=2, shard=True), ("trainer", "rank", "sampler")),
}


def warmed_up(folder: Path) -> ModelConfig:
    """A model that says yes about as often as no."""
    warm = LearnerSettings(lr=0.03, optimizer="muon")
    stage = Supervise({"yes": 0.5, "no": 0.5}, num_episodes=256, epochs=2, batch_episodes=16, learner=warm)
    config = TrainConfig(env=ENV, model=ModelConfig(hidden_size=32, num_layers=1), stages={"warm": stage})
    child = _FORK.Process(target=train, args=(config, folder))
    child.start()
    child.join()
    return ModelConfig(path=str(folder / "model"))


def plan(model: ModelConfig, kind: Kind) -> TrainConfig:
    """The run that is killed."""
    playing = Playing(GROUPS, EPISODES, max_lag=kind.lag)
    stage = Reinforce(steps=STEPS, playing=playing, checkpoint_every=2, learner=LearnerSettings(lr=1e-3))
    return TrainConfig(
        env=ENV,
        model=model,
        sampling=SamplingConfig(max_tokens=16),
        stages={STAGE: stage},
        run=RunConfig(evaluate_every=0, tensorboard=False, threads=1),
        scale=kind.scale,
    )


@dataclass(frozen=True)
class Place:
    """Where a cell runs.

    Attributes:
        run: its folder.
        temporary: folder of its temporary files.
        mark: a text in the environment of its processes.
    """

    run: Path
    temporary: Path
    mark: str

    @classmethod
    def fresh(cls, root: Path, name: str) -> Place:
        place = cls(root / name / "run", root / name / "tmp", f"{root.name}-{name}")
        shutil.rmtree(root / name, ignore_errors=True)
        place.temporary.mkdir(parents=True)
        return place


def _work(config: TrainConfig, place: Place, told: Callable[[Progress | None], None]) -> None:
    """A child's work: the processes that it starts carry the mark in their environment."""
    os.environ |= {"AGENTRL_BENCHMARK": place.mark, "TMPDIR": str(place.temporary)}
    tempfile.tempdir = None
    told(None)
    if (place.run / "config.toml").exists():
        resume(place.run, on_progress=told)
    else:
        train(config, place.run, on_progress=told)


def _until(config: TrainConfig, place: Place, report: int, parent: Connection) -> None:
    """Tell the parent at a report; wait at the next one until it kills, or says to go on."""
    numbers = itertools.count()

    def told(progress: Progress | None) -> None:
        number = next(numbers)
        if number == report:
            parent.send(None)
        elif number == report + 1:
            parent.recv()

    _work(config, place, told)


def whole(config: TrainConfig, place: Place) -> list[Report]:
    """The run that nobody kills. Returns: its reports."""
    ours, theirs = _FORK.Pipe(duplex=False)
    child = _FORK.Process(target=_reporting, args=(config, place, theirs))
    child.start()
    theirs.close()
    reports: list[Report] = ours.recv()
    child.join()
    if child.exitcode:
        raise SystemExit(f"{place.run}: the run ended with exit code {child.exitcode}")
    return reports


def _reporting(config: TrainConfig, place: Place, parent: Connection) -> None:
    started, found = time.monotonic(), list[Report]()

    def told(progress: Progress | None) -> None:
        what = "start" if progress is None else f"{progress.stage} {progress.step}/{progress.total}"
        found.append(Report(len(found), what, STAGE, time.monotonic() - started))

    _work(config, place, told)
    parent.send(found)


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    try:
        return [int(one) for path in Path(f"/proc/{pid}/task").glob("*/children") for one in path.read_text().split()]
    except OSError:
        return []


def is_rank(pid: int) -> bool:
    """Whether a process is a rank of a learner."""
    return b"learners.follower" in Path(f"/proc/{pid}/cmdline").read_bytes()


def marked(mark: str) -> list[int]:
    """Live processes whose environment has the mark."""
    wanted, found = f"AGENTRL_BENCHMARK={mark}".encode(), []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def kill_at(config: TrainConfig, place: Place, moment: Moment, victim: str, rng: random.Random) -> tuple[str, set[int]]:
    """Begin a run and kill at a moment. Returns: what was killed, and the processes that there were."""
    ours, theirs = _FORK.Pipe()
    child = _FORK.Process(target=_until, args=(config, place, moment.report.number, theirs))
    child.start()
    theirs.close()
    assert child.pid is not None
    if ours.poll(300):
        ours.recv()
        child.join(moment.delay_s)
    started = sorted(children_of(child.pid))
    pids = {child.pid, *started}
    others = [pid for pid in started if is_rank(pid) == (victim == "rank")]
    hit = [] if victim == "trainer" else [rng.choice(others)]
    kills_trainer = victim in ("trainer", "both")
    for pid in [child.pid] * kills_trainer + hit:
        os.kill(pid, signal.SIGKILL)
    if not kills_trainer:
        ours.send(None)
    child.join()
    ours.close()
    if victim == "sampler" and child.exitcode:
        raise SystemExit(f"{place.run}: the run ended with exit code {child.exitcode} after its sampler was killed")
    if victim == "rank" and child.exitcode != 1:
        raise SystemExit(f"{place.run}: the run ended with exit code {child.exitcode} after a rank was killed")
    names = [f"{'rank' if victim == 'rank' else 'sampler'} {others.index(pid)} of {len(others)}" for pid in hit]
    return " and ".join(["trainer"] * kills_trainer + names), pids


def go_on(config: TrainConfig, place: Place) -> set[int]:
    """Let a killed run go on to its end. Returns: its process."""
    child = _FORK.Process(target=_work, args=(config, place, lambda progress: None))
    child.start()
    assert child.pid is not None
    child.join()
    if child.exitcode:
        raise SystemExit(f"{place.run}: the resumed run ended with exit code {child.exitcode}")
    return {child.pid}


def trained(run: Path) -> dict[int, list[tuple[str, str, list[str]]]]:
    """Step -> its groups in the order in which they were recorded: id, task, and the ids of their episodes."""
    steps: dict[int, dict[str, tuple[str, str, list[str]]]] = {}
    for episode in TrajectoryStore(run / "trajectories.jsonl"):
        group = steps.setdefault(episode.labels.step, {})
        group.setdefault(episode.group_id, (episode.group_id, episode.task.id, []))[2].append(episode.episode_id)
    return {step: list(groups.values()) for step, groups in steps.items()}


def oldest(run: Path) -> int:
    """Updates between the oldest token of an episode and the step that it was trained in."""
    return max(
        episode.labels.step - 1 - version
        for episode in TrajectoryStore(run / "trajectories.jsonl")
        for turn in episode.turns
        for version in turn.action.versions or ()
    )


def weights(run: Path) -> dict[str, bytes]:
    tensors = load_file(run / "model" / "model.safetensors")
    return {name: value.contiguous().view(torch.uint8).numpy().tobytes() for name, value in tensors.items()}


def left_behind(place: Place, pids: set[int]) -> list[str]:
    """What a run that has ended left outside of its folder."""
    limit = time.monotonic() + _END_S
    while (alive := marked(place.mark)) and time.monotonic() < limit:
        time.sleep(0.1)
    found = [f"process {pid}" for pid in alive]
    found += [f"temporary {path.name}" for path in place.temporary.iterdir()]
    names = [path.name for path in Path("/dev/shm").iterdir()]
    return found + [f"shared memory {name}" for name in names if any(str(pid) in name.split("_") for pid in pids)]


def faults(place: Place, reference: Path, lag: int, pids: set[int]) -> list[str]:
    """What is wrong with a run that has ended."""
    found, wanted = trained(place.run), trained(reference)
    wrong = [f"groups of step {step}" for step in sorted({*found, *wanted}) if found.get(step) != wanted.get(step)]
    lines = [json.loads(line) for line in (place.run / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["stage"] == STAGE]
    wrong += [] if steps == list(range(1, STEPS + 1)) else [f"steps in the metrics: {steps}"]
    age = max(oldest(place.run), int(max(line.get("rollout/lag_max", 0) for line in lines)))
    wrong += [f"a token is {age} updates old"] if age > lag else []
    if lag == 0 and weights(place.run) != weights(reference):
        wrong.append("weights")
    files = [{path.name for path in run.iterdir()} for run in (place.run, reference)]
    wrong += [f"file {name}" for name in sorted(files[0] ^ files[1])]
    return wrong + left_behind(place, pids)


def cells(root: Path, kinds: list[str], moments: int, seed: int, done: set[str]) -> Iterator[dict[str, Any]]:
    """Kill once for each moment that is not done yet; one of each kind, then a second one, and so on."""
    wanted = [(n, kind, victim) for n in range(moments) for kind in kinds for victim in KINDS[kind].victims]
    wanted = [(n, kind, victim) for n, kind, victim in wanted if f"{kind}/{victim}/{n}" not in done]
    if not wanted:
        return
    model = warmed_up(root / "warm")
    needed = {kind for _, kind, _ in wanted}
    plans = {kind: plan(model, KINDS[kind]) for kind in needed}
    places = {kind: Place.fresh(root, f"whole-{kind.replace(' ', '-')}") for kind in needed}
    reports = {kind: whole(plans[kind], places[kind]) for kind in needed}
    for number, kind, victim in wanted:
        name = f"{kind}/{victim}/{number}"
        rng, before_s, place = random.Random(f"{seed}/{name}"), cpu_seconds(), Place.fresh(root, "killed")
        moment = draw(rng, _between_steps(reports[kind]), STAGE)
        hit, pids = kill_at(plans[kind], place, moment, victim, rng)
        if victim != "sampler":
            pids |= go_on(plans[kind], place)
        wrong = faults(place, places[kind].run, KINDS[kind].lag, pids)
        took = {"cpu_s": round(cpu_seconds() - before_s, 1), "killed": hit, "faults": wrong}
        yield {"cell": name, "after": moment.report.what, "delay_ms": round(1000 * moment.delay_s), **took}


def _between_steps(reports: list[Report]) -> list[Report]:
    """From the first step's report to the last one's: samplers are there all the time."""
    first, last = (next(one.number for one in reports if one.what == f"{STAGE} {step}/{STEPS}") for step in (1, STEPS))
    return reports[first : last + 1]


def table(rows: list[dict[str, Any]]) -> str:
    """Kills and how many runs came out whole, by kind and victim, with the moments."""
    lines = ["| run | killed | kills | whole | after report + ms |", "|---|---|---|---|---|"]
    for kind, victim in [(name, victim) for name in KINDS for victim in KINDS[name].victims]:
        own = [row for row in rows if row["cell"].startswith(f"{kind}/{victim}/")]
        when = ", ".join(f"{row['after']} + {row['delay_ms']}" for row in own)
        lines.append(f"| {kind} | {victim} | {len(own)} | {sum(not row['faults'] for row in own)} | {when} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=12, help="kills of each victim at each lag")
    parser.add_argument("--only", choices=KINDS, action="append", help="kinds of runs; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=KEPT, help="where finished cells are kept")
    parser.add_argument("--table", action="store_true", help="only print the table of the finished cells")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    log = given.out / "cells.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    if not given.table:
        with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
            done = {row["cell"] for row in rows}
            for one in cells(Path(scratch), given.only or list(KINDS), given.moments, given.seed, done):
                rows.append(one)
                with log.open("a") as lines:
                    lines.write(json.dumps(one) + "\n")
                print(json.dumps(one), flush=True)
    print(table(rows))
    return int(any(row["faults"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
