"""Whether a killed run that goes on is, bit for bit, the run that was never killed.

usage: nice -n 10 python benchmarks/resume.py OUT [--moments 12] [--seed 0] [--json]

Runs with a stage of each kind (supervise, evaluate, prefer, reinforce) and each of GRPO and PPO are killed with SIGKILL
at random moments of each stage. A moment is drawn as a progress report of the stage (of a step, a demonstration, or an
episode of an evaluation) and a time after it, each millisecond of the stage being as likely as another. The parent
kills when that time has passed after that report; if the next report comes before, the run kills itself there. The
newest checkpoint then says which stage was in progress; if it is another one, the moment is drawn again and the kill
counted as `missed`.

Every killed run then goes on to its end, and each tensor of its weights, each line of its metrics and episodes, and its
summary are compared with those of the uninterrupted run, times left out. Each finished cell is a line of
OUT/cells.jsonl, with what was drawn: the same command goes on after it, and a larger --moments adds to it. Exit code 1
if anything differs. The children are forks, so that torch is imported once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # optimizers load it: here once, rather than in every child
import transformers
from safetensors.torch import load_file

from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.learning.credit.gae import TokenGAE
from agentrl.learning.credit.group_relative import GRPO
from agentrl.learning.learner import LearnerSettings
from agentrl.learning.optimizers import Schedule
from agentrl.tool_schema import tool
from agentrl.training import checkpoint
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.progress import OnProgress, Progress
from agentrl.training.settings import EnvConfig, RunConfig, SamplingConfig
from agentrl.training.stages.evaluate import Evaluate
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.prefer import Prefer
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import resume, train
from agentrl.trajectory import Task


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


_FORK = multiprocessing.get_context("fork")
_LEARNER = LearnerSettings(lr=1e-3, num_epochs=2, num_minibatches=2)
_WARM = LearnerSettings(lr=0.03, optimizer="muon", schedule=Schedule("linear", warmup_steps=3))
_RL = Reinforce(steps=5, playing=Playing(2, 4), kl_coef=0.01, checkpoint_every=2, learner=_LEARNER)
_STAGES = ("supervise", "evaluate", "prefer", "reinforce")


def config_of(algorithm: str) -> TrainConfig:
    """A run with a stage of each kind."""
    credit = {"grpo": GRPO(), "ppo": TokenGAE()}[algorithm]
    return TrainConfig(
        env=EnvConfig(f"{Path(__file__).resolve()}:Agree", max_turns=3),
        model=ModelConfig(hidden_size=32, num_layers=1),
        sampling=SamplingConfig(max_tokens=16),
        stages={
            "supervise": Supervise(
                {"yes": 0.5, "no": 0.5},
                num_episodes=256,
                epochs=2,
                batch_episodes=16,
                checkpoint_every=10,
                learner=_WARM,
            ),
            "evaluate": Evaluate(num_tasks=6),
            "prefer": Prefer(steps=5, playing=Playing(2, 4), checkpoint_every=2, learner=_LEARNER),
            "reinforce": replace(_RL, credit=credit),
        },
        run=RunConfig(evaluate_every=2, evaluate_tasks=4, tensorboard=False, checkpoint_seconds=1.0),
    )


def kept_of(run: Path) -> dict[str, list[Any]]:
    """What a run left, piece by piece, without times."""
    weights = load_file(run / "model" / "model.safetensors")
    summary = json.loads((run / "summary.json").read_text())
    logs = {name: (run / f"{name}.jsonl").read_text().splitlines() for name in ("metrics", "trajectories")}
    return {
        "weights": [(name, value.shape, value.numpy().tobytes()) for name, value in sorted(weights.items())],
        **{name: [_without_times(json.loads(line)) for line in lines] for name, lines in logs.items()},
        "summary": [_without_times({name: summary[name] for name in ("stages", "before", "after", "steps")})],
    }


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        clocked = ("speed/", "share/")
        kept = {
            k: v
            for k, v in value.items()
            if not (k.endswith("_s") or k in ("started", "ended") or k.startswith(clocked))
        }
        return {key: _without_times(item) for key, item in kept.items()}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def differences(found: dict[str, list[Any]], wanted: dict[str, list[Any]]) -> list[str]:
    """Names of the pieces that differ, such as `metrics 12`."""
    return [
        f"{kind} {number}"
        for kind, pieces in wanted.items()
        for number, (left, right) in enumerate(itertools.zip_longest(found[kind], pieces))
        if left != right
    ]


@dataclass(frozen=True)
class Report:
    """A progress report of the uninterrupted run.

    Attributes:
        number: from 0, over the whole run; 0 is the start.
        what: such as `prefer 2/6`.
        stage: in progress after it.
        time_s: since the start.
    """

    number: int
    what: str
    stage: str
    time_s: float


@dataclass(frozen=True)
class Moment:
    """When to kill: some time after a report. The next report is the latest moment."""

    report: Report
    delay_s: float


def _work(algorithm: str, run: Path, on_progress: OnProgress | None = None) -> None:
    if (run / "config.toml").exists():
        resume(run, on_progress=on_progress)
    else:
        train(config_of(algorithm), run, on_progress=on_progress)


def _in_child(work: Callable[..., None], *args: Any) -> multiprocessing.Process:
    child = _FORK.Process(target=work, args=args)
    child.start()
    return child  # type: ignore[return-value]


def _finish(algorithm: str, run: Path) -> None:
    child = _in_child(_work, algorithm, run)
    child.join()
    if child.exitcode:
        raise SystemExit(f"{run}: the run ended with exit code {child.exitcode}")


def reports_of(algorithm: str, out: Path) -> list[Report]:
    """The reports of the uninterrupted run, which is made here if it does not exist yet."""
    run, file = out / f"{algorithm}-whole", out / f"{algorithm}-reports.json"
    if not file.exists():
        shutil.rmtree(run, ignore_errors=True)
        child = _in_child(_write_reports, algorithm, run, file)
        child.join()
        if child.exitcode:
            raise SystemExit(f"{run}: the run ended with exit code {child.exitcode}")
    return [Report(**report) for report in json.loads(file.read_text())]


def _write_reports(algorithm: str, run: Path, file: Path) -> None:
    started, found = time.monotonic(), list[tuple[Progress, float]]()
    _work(algorithm, run, lambda progress: found.append((progress, time.monotonic() - started)))
    stage, reports = _STAGES[0], [Report(0, "start", _STAGES[0], 0.0)]
    for number, (progress, time_s) in enumerate(found, 1):
        stage = progress.stage if progress.stage in _STAGES else stage
        # After the last step of a stage, the next one is in progress as soon as the checkpoint is written.
        last = progress.stage in _STAGES and progress.step == progress.total and bool(progress.metrics)
        following = _STAGES[min(_STAGES.index(stage) + last, len(_STAGES) - 1)]
        reports.append(Report(number, f"{progress.stage} {progress.step}/{progress.total}", following, time_s))
    file.write_text(json.dumps([asdict(report) for report in reports]))


def draw(rng: random.Random, reports: list[Report], stage: str) -> Moment:
    """A moment of a stage, uniform over its duration in the uninterrupted run."""
    pairs = [pair for pair in itertools.pairwise(reports) if pair[0].stage == stage]
    lengths = [after.time_s - before.time_s for before, after in pairs]
    [(report, following)] = rng.choices(pairs, weights=lengths)
    return Moment(report, rng.uniform(0.0, following.time_s - report.time_s))


def kill_at(algorithm: str, run: Path, moment: Moment) -> str:
    """Begin a run and kill it. Returns: the stage that was in progress."""
    shutil.rmtree(run, ignore_errors=True)
    ours, theirs = _FORK.Pipe(duplex=False)
    child = _in_child(_work_until, algorithm, run, moment.report.number, theirs)
    theirs.close()
    if ours.poll(120):
        ours.recv()
        child.join(moment.delay_s)
    child.kill()
    child.join()
    ours.close()
    if child.exitcode != -signal.SIGKILL:
        raise SystemExit(f"{run}: the run ended with exit code {child.exitcode} before it was killed")
    newest = checkpoint.latest(run / "checkpoints")
    return _STAGES[0 if newest is None else checkpoint.read(newest).extra["state"]["stage"]]


def _work_until(algorithm: str, run: Path, report: int, parent: Connection) -> None:
    """Run; tell the parent at a report, and die at the next one."""
    seen = 0

    def at(progress: Progress | None) -> None:
        nonlocal seen
        if seen == report:
            parent.send(None)
        elif seen > report:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    at(None)
    _work(algorithm, run, at)


def cells(out: Path, algorithms: list[str], moments: int, seed: int, done: set[str]) -> Iterator[dict[str, Any]]:
    """Kill and resume once for each moment that is not done yet; one of each stage, then a second one, and so on."""
    reports = {algorithm: reports_of(algorithm, out) for algorithm in algorithms}
    wanted = {algorithm: kept_of(out / f"{algorithm}-whole") for algorithm in algorithms}
    for number, algorithm, stage in itertools.product(range(moments), algorithms, _STAGES):
        name = f"{algorithm}/{stage}/{number}"
        if name not in done:
            rng = random.Random(f"{seed}/{name}")
            yield {"cell": name, **cell(out / "killed", algorithm, stage, rng, reports[algorithm], wanted[algorithm])}


def cell(
    run: Path, algorithm: str, stage: str, rng: random.Random, reports: list[Report], wanted: dict[str, list[Any]]
) -> dict[str, Any]:
    """Kill a run inside a stage, let it go on, and compare what it left."""
    missed, moment, before_s = 0, draw(rng, reports, stage), cpu_seconds()
    while kill_at(algorithm, run, moment) != stage:
        missed, moment = missed + 1, draw(rng, reports, stage)
    _finish(algorithm, run)
    return {
        "after": moment.report.what,
        "delay_ms": round(1000 * moment.delay_s, 1),
        "missed": missed,
        "compared": {kind: len(pieces) for kind, pieces in wanted.items()},
        "differs": differences(kept_of(run), wanted),
        "cpu_s": round(cpu_seconds() - before_s, 1),
    }


def table(results: list[dict[str, Any]]) -> str:
    """Kills, and how many runs came out identical, by algorithm and stage."""
    lines = ["| algorithm | stage | kills | identical | killed after report + ms |", "|---|---|---|---|---|"]
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in sorted(results, key=_place):
        groups.setdefault(result["cell"].rpartition("/")[0], []).append(result)
    for name, group in groups.items():
        algorithm, stage = name.split("/")
        same = sum(not result["differs"] for result in group)
        where = ", ".join(f"{result['after']} + {result['delay_ms']:.0f}" for result in group)
        lines.append(f"| {algorithm} | {stage} | {len(group)} | {same} | {where} |")
    return "\n".join(lines)


def _place(result: dict[str, Any]) -> tuple[str, int, int]:
    algorithm, stage, number = result["cell"].split("/")
    return algorithm, _STAGES.index(stage), int(number)


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in used)


def conditions(results: list[dict[str, Any]]) -> str:
    """What was compared, what it cost, and the packages."""
    compared = {name: result["compared"] for result in results for name in [result["cell"].split("/")[0]]}
    lines = [f"{name}: {', '.join(f'{n} {kind}' for kind, n in pieces.items())}" for name, pieces in compared.items()]
    minutes, missed = sum(result["cpu_s"] for result in results) / 60, sum(result["missed"] for result in results)
    return "\n".join(
        [
            *lines,
            f"{len(results)} kills inside their stage, {missed} that hit another one and were drawn again",
            f"{minutes:.1f} CPU-minutes; {os.cpu_count()} cores, one torch thread; Python {platform.python_version()}, "
            f"torch {torch.__version__}, transformers {transformers.__version__}",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--moments", type=int, default=12, help="kills in each stage of each algorithm")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--algorithms", default="grpo,ppo")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    log = given.out / "cells.jsonl"
    results = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {result["cell"] for result in results}
    for result in cells(given.out, given.algorithms.split(","), given.moments, given.seed, done):
        results.append(result)
        with log.open("a") as file:
            file.write(json.dumps(result) + "\n")
        if not given.json:
            outcome = "DIFFERS" if result["differs"] else "identical"
            print(f"{result['cell']}: {result['after']} + {result['delay_ms']} ms: {outcome}", flush=True)
    print(json.dumps(results) if given.json else f"\n{table(results)}\n\n{conditions(results)}")
    return int(any(result["differs"] for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
