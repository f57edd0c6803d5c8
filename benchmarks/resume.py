"""Whether a killed run that goes on is, bit for bit, the run that was never killed.

usage: python benchmarks/resume.py OUT [--moments 12] [--seed 0] [--json]

Runs with a stage of each kind (supervise, evaluate, prefer, reinforce) and each of GRPO and PPO are killed with SIGKILL
at random moments of each stage. Every killed run then goes on to its end, and its weights, metrics and episodes are
compared with those of the uninterrupted run, times left out. Each finished cell is a line of OUT/cells.jsonl: the same
command goes on after it. Exit code 1 if anything differs. The children are forks, so that torch is imported once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.learning.credit.gae import TokenGAE
from agentrl.learning.credit.group_relative import GRPO
from agentrl.learning.learner import LearnerSettings
from agentrl.learning.optimizers import Schedule
from agentrl.tool_schema import tool
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
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
_RL = Reinforce(steps=6, playing=Playing(3, 4), kl_coef=0.01, checkpoint_every=2, learner=_LEARNER)
_STAGES = ("supervise", "evaluate", "prefer", "reinforce")


def config_of(algorithm: str) -> TrainConfig:
    """A run with a stage of each kind."""
    credit = {"grpo": GRPO(), "ppo": TokenGAE()}[algorithm]
    return TrainConfig(
        env=EnvConfig(f"{Path(__file__).resolve()}:Agree", max_turns=3),
        model=ModelConfig(hidden_size=32, num_layers=1),
        sampling=SamplingConfig(max_tokens=24),
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
            "prefer": Prefer(steps=6, playing=Playing(3, 4), checkpoint_every=2, learner=_LEARNER),
            "reinforce": replace(_RL, credit=credit),
        },
        run=RunConfig(evaluate_every=2, evaluate_tasks=4, tensorboard=False, checkpoint_seconds=1.0),
    )


def digest(run: Path) -> dict[str, str]:
    """Hashes of what a run left, without times."""
    weights = hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
    logs = {name: _lines_hash(run / f"{name}.jsonl") for name in ("metrics", "trajectories")}
    return {"weights": weights, **logs}


def _lines_hash(path: Path) -> str:
    lines = [_without_times(json.loads(line)) for line in path.read_text().splitlines()]
    return hashlib.sha256(json.dumps(lines, sort_keys=True).encode()).hexdigest()


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


def _work(algorithm: str, run: Path) -> None:
    if (run / "config.toml").exists():
        resume(run)
    else:
        train(config_of(algorithm), run)


def _span(run: Path, stage: str) -> tuple[float, float]:
    """Seconds of the whole run at which a stage began and ended."""
    begun = 0.0
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        if line["stage"] == stage:
            ends = [
                other["time_s"]
                for other in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
                if other["stage"] == stage
            ]
            return begun, max(ends)
        begun = line["time_s"]
    raise ValueError(f"{run} has no stage {stage}")


def kill_at(algorithm: str, run: Path, after_s: float) -> str:
    """Begin a run, and kill it after some seconds. Returns: where it was, as its metrics say."""
    child = _FORK.Process(target=_work, args=(algorithm, run))
    child.start()
    child.join(after_s)
    if child.exitcode is not None:
        return "ended before"
    child.kill()
    child.join()
    log = run / "metrics.jsonl"
    whole = [line for line in log.read_text().split("\n")[:-1] if line] if log.exists() else []
    if not whole:
        return "before the first step"
    last = json.loads(whole[-1])
    return f"after {last['stage']} {last['step']}"


def cells(out: Path, algorithm: str, moments: int, seed: int, done: set[str]) -> Iterator[dict[str, Any]]:
    """Kill and resume once for each moment that is not done yet."""
    reference = out / f"{algorithm}-whole"
    if not (reference / "summary.json").exists():
        shutil.rmtree(reference, ignore_errors=True)
        _in_child(algorithm, reference)
    wanted = digest(reference)
    for stage in _STAGES:
        rng = random.Random(f"{seed}/{algorithm}/{stage}")
        begin, end = _span(reference, stage)
        for number in range(moments):
            after_s, name = rng.uniform(begin, end), f"{algorithm}/{stage}/{number}"
            if name in done:
                continue
            run = out / "killed"
            shutil.rmtree(run, ignore_errors=True)
            started = time.monotonic()
            where = kill_at(algorithm, run, after_s)
            if not (run / "summary.json").exists():
                _in_child(algorithm, run)
            found = digest(run)
            differs = [key for key in wanted if found[key] != wanted[key]]
            yield {
                "cell": name,
                "killed_after_s": round(after_s, 2),
                "where": where,
                "differs": differs,
                "s": round(time.monotonic() - started, 1),
            }


def _in_child(algorithm: str, run: Path) -> None:
    child = _FORK.Process(target=_work, args=(algorithm, run))
    child.start()
    child.join()
    if child.exitcode:
        raise SystemExit(f"{run}: the run ended with exit code {child.exitcode}")


def table(results: list[dict[str, Any]]) -> str:
    """Kills, and how many runs came out identical, by algorithm and stage."""
    lines = ["| algorithm | moments of | kills | identical | killed after |", "|---|---|---|---|---|"]
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault(result["cell"].rpartition("/")[0], []).append(result)
    for name, group in groups.items():
        algorithm, stage = name.split("/")
        same = sum(not result["differs"] for result in group)
        where = sorted({result["where"].removeprefix("after ") for result in group})
        lines.append(f"| {algorithm} | {stage} | {len(group)} | {same} | {', '.join(where)} |")
    return "\n".join(lines)


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
    for algorithm in given.algorithms.split(","):
        for result in cells(given.out, algorithm, given.moments, given.seed, done):
            results.append(result)
            with log.open("a") as file:
                file.write(json.dumps(result) + "\n")
            if not given.json:
                print(result["cell"], result["where"], "DIFFERS" if result["differs"] else "identical", flush=True)
    print(json.dumps(results) if given.json else "\n" + table(results))
    return int(any(result["differs"] for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
