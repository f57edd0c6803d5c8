"""Does RL beat supervision, with one setting for every environment? Nine environments, fresh seeds, equal CPU.

For each environment and seed a tiny model copies demonstrations (a quarter are the oracle's, the others show a wrong
habit). Arms: `before`, the checkpoint of that warm start that does best on training tasks; `rl`, the default RL from
its end; `further`, supervision from its end for as many CPU-seconds as `rl` took; on three environments also the
controls `shuffled` (advantages permuted over the step) and `rate_0`. Held-out tasks are played by finished arms alone.
A finished cell is a line of OUT/cells/ENVIRONMENT-SEED.jsonl and is not computed again; an interrupted run is resumed.

    python benchmarks/learning_table.py --out runs/learning-table [--only guess,shop] [--seeds 11] [--jobs 2] [--table]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tomli_w
from learning_intervals import Cells, markdown

from agentrl.bench.evaluate import EvalResult, evaluate
from agentrl.env import registry
from agentrl.policy.base import SamplingParams
from agentrl.policy.local import LocalPolicy
from agentrl.rollout.store import TrajectoryStore

ENVIRONMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "shop": ("agentrl/Shop-v0", {}),
    "shop-unsorted": ("agentrl/Shop-v0", {"cheapest_first": False}),
    "guess": ("agentrl/Guess-v0", {}),
    "calculator": ("agentrl/Calculator-v0", {}),
    "search": ("agentrl/Search-v0", {}),
    "function-1": ("agentrl/FunctionSynthesis-v0", {"level": 1}),
    "terminal-1": ("agentrl/Terminal-v0", {"level": 1}),
    "lake-1": ("agentrl/FrozenLake-v0", {"level": 1}),
    "desk-1": ("agentrl/LoanDesk-v0", {"level": 1}),
}
SHUFFLED = Path(__file__).resolve().with_name("shuffled_credit.py")
DEMONSTRATORS = {"oracle": 0.25, "hasty": 0.75}
CONTROLLED = ("shop", "guess", "calculator")
TASKS, PROBE_TASKS, FIRST_STEPS, MAX_TOKENS = 200, 100, 3, 64
DEMONSTRATIONS, FEWEST_DEMONSTRATIONS = 8000, 64


@dataclass(frozen=True)
class Unit:
    """One environment with one seed: a warm start and the arms that begin from it. A short one tries the script."""

    name: str
    seed: int
    out: Path
    short: bool = False

    @property
    def demonstrations(self) -> int:
        return 400 if self.short else DEMONSTRATIONS

    @property
    def cells(self) -> Path:
        return self.out / "cells" / f"{self.name}-{self.seed}.jsonl"

    def folder(self, arm: str) -> Path:
        return self.out / "runs" / f"{self.name}-{self.seed}" / arm

    def arms(self) -> list[str]:
        return ["before", "rl", "further", *(["shuffled", "rate_0"] if self.name in CONTROLLED else [])]


def work(unit: Unit) -> None:
    """Compute the cells of a unit that are not there yet, and remove the unit's runs at the end."""
    unit.cells.parent.mkdir(parents=True, exist_ok=True)
    done = {cell["arm"] for cell in Cells.read(unit.cells)}
    for arm in unit.arms():
        if arm not in done:
            cell = {"env": unit.name, "seed": unit.seed, "arm": arm, **ARMS[arm](unit)}
            with unit.cells.open("a") as file:
                file.write(json.dumps(cell) + "\n")
            print(f"{unit.name} seed {unit.seed} {arm}: {Cells.said(cell)}", file=sys.stderr, flush=True)
    shutil.rmtree(unit.folder("warm").parent, ignore_errors=True)


def warm_start(unit: Unit) -> dict[str, Any]:
    stage = {"kind": "supervise", "demonstrators": DEMONSTRATORS, "num_episodes": unit.demonstrations}
    return run(unit, "warm", {"warm_start": {**stage, "checkpoint_every": 125}})


def before(unit: Unit) -> dict[str, Any]:
    """The checkpoint of the warm start with the best success on training tasks."""
    summary = warm_start(unit)
    folders = [unit.folder("warm") / "model", *sorted((unit.folder("warm") / "checkpoints").glob("step-*"))]
    scores = [play(unit, folder, "train", 1.0, PROBE_TASKS).mean for folder in folders]
    best = folders[int(np.argmax(scores))]
    return {"cpu_s": summary["cpu_s"], "chosen": best.name, "train": max(scores), **held_out(unit, best)}


def reinforced(unit: Unit, arm: str = "rl", **settings: Any) -> dict[str, Any]:
    warm_start(unit)
    stage = {"kind": "reinforce", **({"steps": 4} if unit.short else {}), **settings}
    summary = run(unit, arm, {"rl": stage}, start=unit.folder("warm") / "model")
    model = unit.folder(arm) / "model"
    train = play(unit, model, "train", 1.0, PROBE_TASKS).mean
    return {
        "cpu_s": summary["cpu_s"],
        "steps": summary["steps"],
        "train": train,
        "groups": first_groups(unit.folder(arm)),
        **held_out(unit, model),
    }


def further(unit: Unit) -> dict[str, Any]:
    """New demonstrations, as many as cost the CPU-seconds of the arm `rl`."""
    warm, budget_s = warm_start(unit), Cells.one(unit.cells, "rl")["cpu_s"]
    demonstrations = max(FEWEST_DEMONSTRATIONS, round(unit.demonstrations * budget_s / warm["cpu_s"]))
    stage = {"kind": "supervise", "demonstrators": DEMONSTRATORS, "num_episodes": demonstrations}
    summary = run(unit, "further", {"further": stage}, start=unit.folder("warm") / "model", seed=unit.seed + 1000)
    model = unit.folder("further") / "model"
    train = play(unit, model, "train", 1.0, PROBE_TASKS).mean
    return {"cpu_s": summary["cpu_s"], "demonstrations": demonstrations, "train": train, **held_out(unit, model)}


ARMS = {
    "before": before,
    "rl": reinforced,
    "further": further,
    "shuffled": lambda unit: reinforced(unit, "shuffled", credit=f"{SHUFFLED}:ShuffledGRPO"),
    "rate_0": lambda unit: reinforced(unit, "rate_0", learner={"lr": 1e-12}),
}


def run(
    unit: Unit,
    arm: str,
    stages: dict[str, Any],
    *,
    start: Path | None = None,
    seed: int | None = None,
    more: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Train in a process of its own, or resume it. What a run selects by evaluation, it selects on training tasks.

    Args:
        unit, arm, stages: what is trained, and the name of its folder.
        start: model folder; None is a model from scratch.
        seed: by default that of the unit.
        more: further keys of sections of the configuration, such as `run` or `scale`.
    Returns: its summary.
    """
    folder = unit.folder(arm)
    env_id, kwargs = ENVIRONMENTS[unit.name]
    sections: dict[str, dict[str, Any]] = {
        "env": {"id": env_id, "kwargs": kwargs, "eval_split": "train"},
        "model": {} if start is None else {"path": str(start)},
        "run": {"keep_checkpoints": 8, "tensorboard": False},
    }
    config = {
        "seed": unit.seed if seed is None else seed,
        **{name: {**sections.get(name, {}), **more.get(name, {})} for name in {**sections, **more}},
        "stages": stages,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".toml")
    path.write_text(tomli_w.dumps(config))
    command = [sys.executable, "-m", "agentrl", "train", str(path), "--out", str(folder), "--continue"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads((folder / "summary.json").read_text())


def play(unit: Unit, model: Path, split: str, temperature: float, count: int = TASKS) -> EvalResult:
    """One episode of each of the first tasks of a split."""
    env_id, kwargs = ENVIRONMENTS[unit.name]
    ref = registry.reference(env_id, **kwargs)
    env = registry.make(ref)
    tasks = env.tasks.split(split)[:count]
    env.close()
    sampling = SamplingParams(temperature=temperature, max_tokens=MAX_TOKENS)
    return evaluate(LocalPolicy.from_folder(model), ref, tasks, sampling=sampling, seed=unit.seed)


def held_out(unit: Unit, model: Path) -> dict[str, list[int]]:
    """Success on each held-out task; a discarded episode is a failure."""
    results = {mode: play(unit, model, "eval", rate) for mode, rate in (("greedy", 0.0), ("sampled", 1.0))}
    return {mode: [int(bool(t.success)) for t in result.trajectories] for mode, result in results.items()}


def first_groups(folder: Path) -> dict[str, int]:
    """How many groups of the first steps failed as a whole, were solved as a whole, or differ."""
    groups: dict[tuple[int, str], list[float]] = {}
    with TrajectoryStore(folder / "trajectories.jsonl") as store:
        for trajectory in store:
            if trajectory.labels.stage == "rl" and trajectory.labels.step > FIRST_STEPS:
                break
            if trajectory.labels.stage == "rl":
                groups.setdefault((trajectory.labels.step, trajectory.group_id), []).append(trajectory.reward)
    kinds = ["differ" if len(set(r)) > 1 else "all_1" if r[0] > 0 else "all_0" for r in groups.values()]
    return {kind: kinds.count(kind) for kind in ("all_0", "all_1", "differ")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/learning-table"))
    parser.add_argument("--only", default=",".join(ENVIRONMENTS), help="comma-separated environments")
    parser.add_argument("--seeds", default="11,12,13", help="comma-separated")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--short", action="store_true", help="few demonstrations and steps, to try this script")
    parser.add_argument("--table", action="store_true", help="only print the table of the finished cells")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := set(names) - set(ENVIRONMENTS):
        parser.error(f"--only: no environment {', '.join(sorted(unknown))}; there are {', '.join(ENVIRONMENTS)}")
    if not args.table:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        units = [Unit(name, int(seed), args.out, args.short) for seed in args.seeds.split(",") for name in names]
        with ProcessPoolExecutor(args.jobs, max_tasks_per_child=1) as pool:
            began = {unit: pool.submit(work, unit) for unit in units}
        for unit, done in began.items():
            if (error := done.exception()) is not None:
                print(f"{unit.name} seed {unit.seed} is not complete: {error}", file=sys.stderr)
    print("\n".join(markdown(Cells.read_all(args.out / "cells"), list(ENVIRONMENTS))))


if __name__ == "__main__":
    main()
