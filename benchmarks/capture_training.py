"""Agents that nobody wrote for AgentRL, trained by GRPO: unmodified openai-agents and pydantic-ai on the Shop.

For each seed a tiny model copies demonstrations, a quarter of them the oracle's and the others with a wrong habit. From
there each agent is one run of `agentrl train` with an `[agent]`, whose own program plays every episode, those of the
evaluations too. The agents' packages are in an environment of their own. A finished run is a file of OUT and is not
computed again; a run that was interrupted begins anew, so that its seconds are those of one run.

    python -m venv VENV && VENV/bin/pip install openai-agents==0.24.0 pydantic-ai-slim[openai]==2.68.0 httpx
    python benchmarks/capture_training.py --python VENV/bin/python [--agents openai-agents] [--seeds 0,1,2] [--steps 20]
        [--rate 1.2e-3]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import tomli_w

from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import Trajectory

PROGRAMS = Path(__file__).resolve().with_name("capture_agents")
AGENTS = {"openai-agents": "openai_agents.py", "pydantic-ai": "pydantic_agent.py"}
RESULTS = Path(__file__).resolve().parent / "results" / "capture-training"
ENV = {"id": "agentrl/Shop-v0"}
WARM: Mapping[str, Any] = {"kind": "supervise", "demonstrators": {"oracle": 0.25, "hasty": 0.75}}
TASKS = 100
REINFORCE: Mapping[str, Any] = {"playing": {"prompts_per_step": 8, "group_size": 8}}
RATE = 6e-4
COLUMNS = (
    *("agent", "seed", "steps", "rate", "before, greedy", "before, sampled", "after, greedy", "after, sampled"),
    *("CPU s: warm start, run", "wall s", "first ratio − 1", "first KL", "re-tokenised ids", "forks (edited)"),
    "episodes: errors, faults",
)


@dataclass(frozen=True)
class Unit:
    """One agent with one seed. A short one tries the script."""

    agent: str
    seed: int
    out: Path
    runs: Path
    steps: int
    rate: float = RATE
    short: bool = False

    @property
    def name(self) -> str:
        rate = "" if self.rate == RATE else f"-rate-{self.rate:g}"
        return f"{self.agent}-{self.steps}-steps{rate}-{self.seed}"

    @property
    def cell(self) -> Path:
        return self.out / f"{self.name}.json"


def work(unit: Unit, python: Path) -> None:
    """Compute a cell, and remove its run."""
    warm = unit.runs / f"warm-{unit.seed}"
    spent = warm / "spent.json"
    if not spent.exists():
        stage = {**WARM, **({"num_episodes": 400} if unit.short else {})}
        spent.write_text(json.dumps(trained(warm, {"seed": unit.seed, "stages": {"warm_start": stage}})))
    warm_s, folder = json.loads(spent.read_text()), unit.runs / unit.name
    evaluation = {"num_tasks": 16 if unit.short else TASKS}
    rl = {**REINFORCE, "learner": {"lr": unit.rate}, "steps": 2 if unit.short else unit.steps}
    table = {
        "seed": unit.seed,
        "model": {"path": str(warm / "model")},
        "agent": {"command": f"exec {python} {PROGRAMS / AGENTS[unit.agent]}", "processes": 1},
        "stages": {"before": evaluation, "rl": rl, "after": evaluation},
    }
    known = {"agent": unit.agent, "seed": unit.seed, "rate": unit.rate}
    cell = {**known, "warm_start": warm_s, "run": trained(folder, table), **read(folder)}
    unit.out.mkdir(parents=True, exist_ok=True)
    unit.cell.write_text(json.dumps(cell, indent=1) + "\n")
    shutil.rmtree(folder)


def trained(folder: Path, table: Mapping[str, Any]) -> dict[str, float]:
    """Train anew. Returns: wall seconds, and CPU seconds of the trainer and of the agent's processes together."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".toml")
    file.write_text(tomli_w.dumps({"env": ENV, "run": {"evaluate_every": 0, "tensorboard": False}, **table}))
    command = [sys.executable, "-m", "agentrl", "train", str(file), "--out", str(folder)]
    before_s, began_s = _children_s(), time.monotonic()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return {"wall_s": round(time.monotonic() - began_s, 1), "cpu_s": round(_children_s() - before_s, 1)}


def _children_s() -> float:
    """CPU seconds of the processes that this one has started and that have ended, with those that they started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def read(folder: Path) -> dict[str, Any]:
    """What a run's own files say."""
    summary = json.loads((folder / "summary.json").read_text())
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    updates = [line for line in metrics if line["stage"] == "rl" and "update/ratio_mean" in line]
    with TrajectoryStore(folder / "trajectories.jsonl") as store:
        played = [trajectory for trajectory in store if trajectory.labels.stage == "rl"]
    success = {
        when: {mode: {key: summary[when][mode][key] for key in ("mean", "ci95")} for mode in ("greedy", "sampled")}
        for when in ("before", "after")
    }
    return {
        **success,
        "tasks": summary["after"]["n_tasks"],
        "steps": summary["steps"],
        "trainer_cpu_s": summary["cpu_s"],
        "first_ratio": updates[0]["update/ratio_mean"],
        "first_kl": updates[0]["update/approx_kl"],
        "most_ratio_error": max(abs(line["update/ratio_mean"] - 1) for line in updates),
        "episodes": len(played),
        "faults": sum(trajectory.ending.kind == "fault" for trajectory in played),
        "errors": sum(trajectory.ending.kind == "error" for trajectory in played),
        **conversations(played),
    }


def conversations(played: Sequence[Trajectory]) -> dict[str, int]:
    """Turns, forks, and of the ids of earlier turns those that a later prompt does not hold as they were."""
    found = {"turns": 0, "forks": 0, "edited": 0, "ids": 0, "retokenised": 0}
    for trajectory in played:
        actions = [turn.action for turn in trajectory.turns]
        counts = trajectory.info.get("capture", {})
        found["turns"] += len(actions)
        found["forks"] += max(0, counts.get("roots", 1) - 1)
        found["edited"] += counts.get("edited", 0)
        for earlier, later in pairwise(actions):
            known = [*(earlier.prompt_ids or ()), *(earlier.token_ids or ())]
            same = [one == other for one, other in zip(known, later.prompt_ids or (), strict=False)]
            found["ids"] += len(known)
            found["retokenised"] += len(known) - sum(same)
    return found


def table(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a run. Success on held-out tasks, with 95% intervals."""
    return [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *map(_row, cells)]


def _row(cell: Mapping[str, Any]) -> str:
    warm, run = cell["warm_start"], cell["run"]
    scores = [_score(cell[when][mode]) for when in ("before", "after") for mode in ("greedy", "sampled")]
    fields = [
        *(cell["agent"], cell["seed"], cell["steps"], f"{cell.get('rate', RATE):g}", *scores),
        *(f"{warm[key]:.0f} + {run[key]:.0f}" for key in ("cpu_s", "wall_s")),
        f"{cell['first_ratio'] - 1:.0e}",
        f"{cell['first_kl']:.0e}",
        f"{cell['retokenised']:,} of {cell['ids']:,}",
        f"{cell['forks']} ({cell['edited']}) in {cell['turns']:,} turns",
        f"{cell['episodes']:,}: {cell['errors']}, {cell['faults']}",
    ]
    return f"| {' | '.join(map(str, fields))} |"


def _score(score: Mapping[str, Any]) -> str:
    low, high = score["ci95"]
    return f"{score['mean']:.3f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="of the environment that has the agents")
    parser.add_argument("--agents", default=",".join(AGENTS), help="comma-separated")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--steps", type=int, default=20, help="of RL, 64 episodes each")
    parser.add_argument("--rate", type=float, default=RATE, help="of the learner")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the finished cells")
    parser.add_argument("--runs", type=Path, default=Path("runs/capture-training"), help="folder of runs under way")
    parser.add_argument("--short", action="store_true", help="few demonstrations and steps, to try this script")
    parser.add_argument("--table", action="store_true", help="only print the table of the finished cells")
    args = parser.parse_args()
    names = args.agents.split(",")
    if unknown := set(names) - set(AGENTS):
        parser.error(f"--agents: no agent {', '.join(sorted(unknown))}; there are {', '.join(AGENTS)}")
    if not args.table:
        if args.python is None:
            parser.error("--python: name the interpreter of the environment that has the agents")
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        seeds = [int(seed) for seed in args.seeds.split(",")]
        units = [
            Unit(name, seed, args.out, args.runs, args.steps, args.rate, args.short) for seed in seeds for name in names
        ]
        for unit in units:
            if not unit.cell.exists():
                work(unit, args.python.absolute())
                print(_row(json.loads(unit.cell.read_text())), file=sys.stderr, flush=True)
    print("\n".join(table([json.loads(path.read_text()) for path in sorted(args.out.glob("*.json"))])))


if __name__ == "__main__":
    main()
