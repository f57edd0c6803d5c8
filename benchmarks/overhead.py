"""CPU time per environment step of AgentRL and its peers, on one task, 64 episodes at a time, recorded.

    benchmarks/peers.sh
    .venv-peers/bin/python benchmarks/overhead.py [--rounds 9] [--episodes 448] [--only bare,agentrl] [--json FILE]

Each framework lives in a process of its own, all started before the first round. A round visits
every framework once, in an order that rotates; CPU is the process's own user and system time (and
its server's, where it has one). Garbage collection is as Python sets it. The first round warms up and
checks that every framework recorded the same tool results and rewards; it is not counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from overhead_cases.task import CONCURRENCY, STEPS_PER_EPISODE

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Case:
    """One row of the table: which module plays, with which functions, and what fraction of the episodes."""

    name: str
    module: str
    run: str = "run"
    read: str = "read"
    start: str = ""
    divide: int = 1
    note: str = ""


CASES = (
    Case("bare", "bare", note="plain loop, JSON line at the end"),
    Case("bare-unrecorded", "bare", "run_unrecorded", "", note="the same, nothing written"),
    Case("bare-async", "bare", "run_async", note="the same, 64 asyncio workers, policy yields once a turn"),
    Case("bare-tokens", "bare", "run_tokens", note="bare, plus prompt ids, 24 sampled ids and logprobs a turn"),
    Case("gymnasium", "gymnasium_case", note="hand-written Env, default wrappers, JSON line at the end"),
    Case("gem", "gem_case", note="ToolEnvWrapper, JSON line at the end"),
    Case("skyrl-gym", "skyrl_case", note="BaseTextEnv + ToolGroup, JSON line at the end"),
    Case("openenv", "openenv_case", note="typed Environment in process, JSON line at the end"),
    Case("openenv-socket", "openenv_case", "run_socket", "read", "start_server", 4, "server and client, 64 sessions"),
    Case("verifiers", "verifiers_case", divide=4, note="in-process ToolEnv, run_rollout, policy yields once a turn"),
    Case("agentrl-step", "agentrl_case", "run_steps", "read_steps", note="ToolEnv.step, JSON line at the end"),
    Case("agentrl", "agentrl_case", note="Rollouts + TrajectoryStore, policy yields once a turn"),
    Case(
        "agentrl-tokens",
        "agentrl_case",
        "run_tokens",
        note="agentrl, plus ids and logprobs as in bare-tokens",
    ),
)
PACKAGES = ("agentrl", "gymnasium", "gem-llm", "skyrl-gym", "openenv", "verifiers", "pydantic", "msgspec")


class Worker:
    """A framework's process."""

    def __init__(self, case: Case) -> None:
        self.case = case
        command = [sys.executable, str(HERE / "overhead_worker.py"), case.module, case.run, case.read, case.start]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def play(self, episodes: int) -> dict[str, Any]:
        """One round. Raises: RuntimeError if the process died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        count = max(CONCURRENCY, episodes // self.case.divide)
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.case.name}: its process ended; its error is printed above")
        answer: dict[str, Any] = json.loads(line)
        answer["us_per_step"] = 1e6 * answer["cpu_s"] / (count * STEPS_PER_EPISODE)
        answer["bytes_per_episode"] = answer["bytes"] / count
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()


def measure(cases: list[Case], rounds: int, episodes: int) -> dict[str, list[dict[str, Any]]]:
    """Interleaved rounds of every case. Raises: RuntimeError if a framework recorded something else."""
    workers = [Worker(case) for case in cases]
    results: dict[str, list[dict[str, Any]]] = {case.name: [] for case in cases}
    try:
        for number in range(rounds + 1):
            turn = number % len(workers)
            for worker in workers[turn:] + workers[:turn]:
                answer = worker.play(episodes)
                if not answer["right"]:
                    raise RuntimeError(f"{worker.case.name} recorded other results or rewards than expected")
                if number:
                    results[worker.case.name].append(answer)
            print(f"round {number} of {rounds}" + ("" if number else " (warm-up and check)"), file=sys.stderr)
    finally:
        for worker in workers:
            worker.close()
    return results


def table(cases: list[Case], results: dict[str, list[dict[str, Any]]]) -> str:
    """Medians, their spread, and the median of the per-round ratios to the bare loop."""
    lines = ["| framework | µs/step | min–max | × bare | × unrecorded | bytes/episode | what runs |"]
    lines.append("|---|---:|---:|---:|---:|---:|---|")
    for case in cases:
        times = [r["us_per_step"] for r in results[case.name]]
        size = statistics.median(r["bytes_per_episode"] for r in results[case.name])
        ratios = [_ratio(times, results.get(base)) for base in ("bare", "bare-unrecorded")]
        spread = f"{min(times):.1f}–{max(times):.1f}"
        lines.append(
            f"| {case.name} | {statistics.median(times):.1f} | {spread} | {ratios[0]} | {ratios[1]} "
            f"| {size:.0f} | {case.note} |"
        )
    return "\n".join(lines)


def _ratio(times: list[float], base: list[dict[str, Any]] | None) -> str:
    if not base:
        return "-"
    return f"{statistics.median(t / b['us_per_step'] for t, b in zip(times, base, strict=True)):.2f}"


def conditions() -> dict[str, str]:
    """Machine and versions."""
    found = {"python": platform.python_version(), "system": platform.platform(terse=True), "cpu": _cpu_model()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0]}, {len(models)} cores" if models else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--episodes", type=int, default=448)
    parser.add_argument("--only", help="comma-separated names; `bare` is always measured")
    parser.add_argument("--json", type=Path, help="write every round's figures here")
    given = parser.parse_args()
    names = None if given.only is None else {"bare", *given.only.split(",")}
    cases = [case for case in CASES if names is None or case.name in names]
    results = measure(cases, given.rounds, given.episodes)
    print(table(cases, results))
    print("\n" + ", ".join(f"{name} {value}" for name, value in conditions().items()))
    if given.json is not None:
        given.json.write_text(json.dumps({"conditions": conditions(), "rounds": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
