"""A benchmark that is killed at any point loses and doubles nothing; its episodes do not depend on what runs beside."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from agentrl.bench.runner import run_bench
from agentrl.rollout.store import TrajectoryStore
from tests.bench.toys import Adder, Some

KILLS = 10
TRIALS = 12
PATIENCE_S = 60.0


def play(folder: str) -> None:
    """An agent that is right on most tasks, slow enough to be killed between two episodes."""
    run_bench(Adder, Some(right=6, wait_s=0.002), out=folder, trials=TRIALS, max_concurrency=4)


def kill_at(folder: Path, num_bytes: int) -> bool:
    """Play until the store holds that many bytes, then kill -9. Returns whether it was killed before its end."""
    child = multiprocessing.get_context("fork").Process(target=play, args=(str(folder),))
    child.start()
    store, give_up_s = folder / "trajectories.jsonl", time.monotonic() + PATIENCE_S
    while child.is_alive() and (not store.exists() or store.stat().st_size < num_bytes):
        assert time.monotonic() < give_up_s, "the benchmark does not go on"
        time.sleep(0.0005)
    if child.is_alive():
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    return child.exitcode == -signal.SIGKILL


def without_times(summary: dict[str, Any]) -> dict[str, Any]:
    """What a summary says, without when and how long."""
    timed = ("started_at", "ended_at", "wall_s", "out", "provenance")
    effort = {name: value for name, value in summary["effort"].items() if not name.endswith("_s")}
    references = {name: {**score, "effort": None} for name, score in summary["references"].items()}
    kept = {name: value for name, value in summary.items() if name not in timed}
    return {**kept, "effort": effort, "references": references}


def test_ten_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    play(str(tmp_path / "whole"))
    whole = tmp_path / "whole" / "trajectories.jsonl"
    rng, folder = random.Random(14), tmp_path / "killed"
    points = sorted(rng.randrange(1, whole.stat().st_size) for _ in range(KILLS))
    killed, before = 0, b""
    for point in points:
        killed += kill_at(folder, point)
        now = (folder / "trajectories.jsonl").read_bytes()
        assert now.startswith(before[: before.rfind(b"\n") + 1])  # a line that was whole stays
        before = now
    play(str(folder))
    assert killed >= KILLS - 2  # the last points may lie behind the last episode
    finals = [t.group_id for t in TrajectoryStore(folder / "trajectories.jsonl") if not t.labels.superseded]
    planned = [t.group_id for t in TrajectoryStore(whole)]
    assert sorted(finals) == sorted(planned)
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "killed")]
    assert without_times(summaries[0]) == without_times(summaries[1])


def episode_hashes(folder: Path) -> dict[str, str]:
    """Of each episode everything that is recorded but times."""
    found = {}
    for _, record in TrajectoryStore(folder / "trajectories.jsonl").records():
        for turn in record["turns"]:
            turn["policy_s"] = turn["env_s"] = 0.0
        text = json.dumps(record, sort_keys=True)
        found[record["group_id"]] = hashlib.sha256(text.encode()).hexdigest()
    return found


@pytest.mark.parametrize("policy", ["random", "oracle"])
@pytest.mark.parametrize("env", ["agentrl/Guess-v0", "agentrl/Shop-v0"])
def test_one_episode_at_a_time_or_32_are_the_same_episodes(tmp_path: Path, env: str, policy: str) -> None:
    for concurrency in (1, 32):
        run_bench(
            env, policy, out=tmp_path / str(concurrency), num_tasks=8, trials=4, max_concurrency=concurrency, seed=3
        )
    one, many = episode_hashes(tmp_path / "1"), episode_hashes(tmp_path / "32")
    assert len(one) >= 8 * 4
    assert len(set(one.values())) == len(one)
    assert one == many
