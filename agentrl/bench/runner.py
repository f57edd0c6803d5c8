"""A benchmark: one policy on one environment's tasks, compared with the null policy and the oracle.

Owns which episodes are still to be played, and the folder of the records. `agentrl.rollout` runs the episodes,
`agentrl.bench.result` computes the scores.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from agentrl.bench.evaluate import Which, env_maker, env_ref, episode_seed, trial_key
from agentrl.bench.measures.base import Measure
from agentrl.bench.measures.by_name import measures_of
from agentrl.bench.result import BenchConfig, BenchResult, Outcome, score_of
from agentrl.env.base import Env
from agentrl.errors import ConfigError, RolloutError, StoreError, TaskError
from agentrl.policy.base import Policy
from agentrl.policy.by_name import PolicySetup, parse_spec, resolve
from agentrl.policy.chat import OPENAI_URL
from agentrl.policy.scripted import NullPolicy, OraclePolicy
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.store import TrajectoryStore, write_summary
from agentrl.trajectory import EnvRef, Labels, Task, Trajectory
from agentrl.wire.reachable import check_reachable

logger = logging.getLogger(__name__)
MAIN = "bench"
# (episodes done, episodes in all, the episode that just ended)
Progress = Callable[[int, int, Trajectory], None]


def run_bench(
    env: Which,
    policy: Policy | str,
    *,
    config: BenchConfig | None = None,
    out: str | Path | None = None,
    setup: PolicySetup | None = None,
    on_progress: Progress | None = None,
    measures: Sequence[str | Measure] = (),
    **more: Any,
) -> BenchResult:
    """Measure a policy on an environment.

    Ctrl-C ends it; the result then holds what was played, with the status `interrupted`. Another call with the same
    `out` plays only what is missing or was discarded.

    Args:
        env: a registered id, a reference, or a function that makes one environment.
        policy: a policy, or its name (`oracle`, `local:DIR`, `openai:NAME`). A given policy stays open; one made from
            its name, with `setup`, is closed at the end.
        config: what to measure; its fields can also be given directly (`trials=5`).
        out: folder for `trajectories.jsonl` and `summary.json`; None keeps nothing on disk.
        on_progress: called as each episode ends.
        measures: further ones to compute: names such as `pass_at:3` or `./mine.py:Mine`, or objects.
    Raises:
        ConfigError: a name or value is wrong, or `out` holds another benchmark.
        RolloutError: all episodes, or almost all, ended in a fault; what was played is recorded.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError("an event loop is running here: use `await arun_bench(...)` with the same arguments")
    config = replace(config or BenchConfig(), **more)
    further = measures_of(measures)
    with asyncio.Runner() as runner:
        bench = runner.run(_prepare(env, policy, config, out, setup, on_progress, further))
        try:
            runner.run(bench.play())
        except KeyboardInterrupt:
            return bench.finish("interrupted")
        except BaseException as error:
            bench.fail(error)
            raise
        return bench.finish("finished")


async def arun_bench(
    env: Which,
    policy: Policy | str,
    *,
    config: BenchConfig | None = None,
    out: str | Path | None = None,
    setup: PolicySetup | None = None,
    on_progress: Progress | None = None,
    measures: Sequence[str | Measure] = (),
    **more: Any,
) -> BenchResult:
    """`run_bench` inside an event loop; a cancellation records what was played and propagates."""
    config = replace(config or BenchConfig(), **more)
    bench = await _prepare(env, policy, config, out, setup, on_progress, measures_of(measures))
    try:
        await bench.play()
    except asyncio.CancelledError:
        bench.finish("interrupted")
        raise
    except BaseException as error:
        bench.fail(error)
        raise
    return bench.finish("finished")


def default_out(env_id: str, policy: str, root: str | Path = "runs") -> Path:
    """The name of a new folder for a benchmark: `runs/bench-ENV-POLICY-TIME`."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"{env_id.rsplit('/', 1)[-1]}-{policy}").strip("-")[:80]
    return Path(root) / f"bench-{name}-{time.strftime('%Y%m%d-%H%M%S')}"


async def _prepare(
    env: Which,
    policy: Policy | str,
    config: BenchConfig,
    out: str | Path | None,
    setup: PolicySetup | None,
    on_progress: Progress | None,
    measures: Sequence[Measure],
) -> _Bench:
    make_env = env_maker(env)
    probe = make_env()
    try:
        tasks = choose_tasks(probe, config)
        has_oracle = callable(getattr(probe, "oracle", None))
        demonstrators, made = probe.demonstrators, probe.ref
    finally:
        await probe.aclose()
    owned = isinstance(policy, str)
    server = None
    if isinstance(policy, str):
        setup = setup or PolicySetup()
        server = server_of(policy, setup)
        if setup.demonstrators is None:
            setup = replace(setup, demonstrators=demonstrators)
        policy = resolve(policy, setup)
    ref = made or env_ref(env)
    folder = _Folder(out, ref, policy.name, config)
    players: dict[str, Policy] = {}
    if config.references and policy.name != "null":
        players["null"] = NullPolicy()
    if config.references and policy.name != "oracle" and has_oracle:
        players["oracle"] = OraclePolicy()
    # References first: they show that an environment is broken before the policy has cost anything.
    players[MAIN] = policy
    bench = _Bench(env, ref, tasks, config, players, folder, owned, on_progress, measures)
    bench.server = server
    return bench


def server_of(policy: str, setup: PolicySetup) -> str | None:
    """The address that an `openai:` policy talks to; None for the others."""
    if parse_spec(policy).kind != "openai":
        return None
    return setup.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL


def choose_tasks(env: Env, config: BenchConfig) -> list[Task]:
    """The tasks of a benchmark. Raises: ConfigError if there are not enough; TaskError if there is no such split."""
    try:
        tasks = env.tasks.split(config.split)
    except TaskError as error:
        raise TaskError(f"{error} Choose another split, or give {type(env).__name__} tasks under that name") from error
    if config.num_tasks is None:
        chosen = list(tasks)
    elif config.num_tasks > len(tasks):
        raise ConfigError(f"split {config.split!r} has {len(tasks)} tasks, {config.num_tasks} wanted: ask for fewer")
    else:
        order = np.random.default_rng(config.seed).permutation(len(tasks))
        chosen = [tasks[i] for i in order[: config.num_tasks]]
    if not chosen:
        raise ConfigError(f"split {config.split!r} has no tasks")
    return chosen


class _Folder:
    """The records on disk: those of earlier calls, and those that this call writes."""

    def __init__(self, out: str | Path | None, ref: EnvRef, policy: str, config: BenchConfig) -> None:
        self.path = Path(out) if out is not None else None
        self.store = TrajectoryStore(self.path / "trajectories.jsonl") if self.path is not None else None
        # What must not change between calls that share a folder; more trials or tasks may be added.
        self.identity = {
            "env": asdict(replace(ref, version="")),
            "policy": policy,
            "split": config.split,
            "seed": config.seed,
            "sampling": asdict(config.sampling) if config.sampling is not None else None,
        }
        self._check()

    def _check(self) -> None:
        """Compare the folder with this benchmark. Raises: ConfigError if it holds something else."""
        if self.path is None or not self.path.exists():
            return
        try:
            summary = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
            former = summary["identity"]
        except FileNotFoundError:
            if any(self.path.iterdir()):
                raise ConfigError(f"{self.path} holds files, but no benchmark: choose another folder") from None
            return
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self.path}/summary.json is no benchmark ({error}): choose another folder") from None
        now = json.loads(json.dumps(self.identity))
        differing = [f"{k} {former.get(k)!r}, not {now[k]!r}" for k in now if former.get(k) != now[k]]
        if differing:
            raise ConfigError(f"{self.path} holds a benchmark with {'; '.join(differing)}: choose another folder")

    def former(self) -> list[Trajectory]:
        """Final trajectories of earlier calls, in the order in which they ended."""
        if self.store is None or not self.store.path.exists():
            return []
        return [t for t in self.store if not t.labels.superseded]

    def write(self, summary: dict[str, Any]) -> None:
        if self.path is not None:
            write_summary(self.path / "summary.json", {"identity": self.identity, **summary})


class _Bench:
    """The episodes of one benchmark: which there are, and which have been played."""

    def __init__(
        self,
        env: Which,
        ref: EnvRef,
        tasks: Sequence[Task],
        config: BenchConfig,
        players: dict[str, Policy],
        folder: _Folder,
        owned: bool,
        on_progress: Progress | None,
        measures: Sequence[Measure],
    ) -> None:
        self.env, self.ref, self.config, self.folder = env, ref, config, folder
        self.players, self.owned, self.on_progress = players, owned, on_progress
        self.measures = measures
        self.requests = {phase: self._requests(phase, tasks) for phase in players}
        self.planned = {r.group_id for requests in self.requests.values() for r in requests}
        self.server: str | None = None
        self.played: dict[str, Trajectory] = {}
        self.started_s = time.monotonic()
        for trajectory in folder.former():
            self._keep(trajectory)

    def _requests(self, phase: str, tasks: Sequence[Task]) -> list[GroupRequest]:
        """One request per task and trial; trial by trial, so that an interrupted run has played most tasks."""
        trials = self.config.trials if phase == MAIN else 1
        seed = self.config.seed
        return [
            GroupRequest(
                task, episode_seed(seed, task.id, trial), 1, f"{phase}/{trial_key(task.id, trial)}", Labels(phase)
            )
            for trial in range(trials)
            for task in tasks
        ]

    def _keep(self, trajectory: Trajectory) -> None:
        """Remember a final trajectory; a discarded one never replaces one that counts."""
        former = self.played.get(trajectory.group_id)
        if former is None or former.status == "fault" or trajectory.status != "fault":
            self.played[trajectory.group_id] = trajectory

    def _ended(self, trajectory: Trajectory) -> None:
        self._keep(trajectory)
        if self.on_progress is not None:
            self.on_progress(len(self.played.keys() & self.planned), len(self.planned), trajectory)

    async def play(self) -> None:
        """Play what is missing or was discarded."""
        self.folder.write({"status": "running"})
        try:
            if self.server is not None and not all(self._is_scored(r.group_id) for r in self.requests[MAIN]):
                await check_reachable(self.server)
            for phase in self.players:
                await self._play(phase)
        finally:
            if self.owned:
                await self.players[MAIN].aclose()

    async def _play(self, phase: str) -> None:
        missing = [r for r in self.requests[phase] if not self._is_scored(r.group_id)]
        if not missing:
            return
        rollouts = Rollouts(
            self.env,
            self.players[phase],
            env_id=self.ref.id,
            max_concurrency=min(self.config.max_concurrency, len(missing)),
            sampling=self.config.sampling,
            store=self.folder.store,
            on_trajectory=self._ended,
        )
        try:
            async with rollouts:
                await rollouts.run(missing)
        except RolloutError as error:
            if phase == MAIN:
                raise
            logger.warning("the reference %r could not be played: %s", phase, error)

    def _is_scored(self, group_id: str) -> bool:
        return group_id in self.played and self.played[group_id].status != "fault"

    def finish(self, status: Outcome) -> BenchResult:
        """The result of what has been played; also written to the folder."""
        scores, finals = {}, {}
        # An error of a further measure must not hide the one that is being recorded.
        measures = () if status == "failed" else self.measures
        for phase, requests in self.requests.items():
            finals[phase] = [self.played[r.group_id] for r in requests if r.group_id in self.played]
            trials = self.config.trials if phase == MAIN else 1
            scores[phase] = score_of(finals[phase], trials=trials, n_planned=len(requests), measures=measures)
        result = BenchResult(
            env=self.ref,
            policy=self.players[MAIN].name,
            config=self.config,
            status=status,
            score=scores.pop(MAIN),
            references=scores,
            wall_s=time.monotonic() - self.started_s,
            out=str(self.folder.path) if self.folder.path is not None else None,
            trajectories=finals[MAIN],
        )
        self.folder.write(result.to_json())
        if self.folder.store is not None:
            self.folder.store.close()
        return result

    def fail(self, error: BaseException) -> None:
        """Record what was played, and the error, which the caller raises."""
        try:
            result = self.finish("failed")
            self.folder.write({**result.to_json(), "error": f"{type(error).__name__}: {error}"})
        except StoreError as failure:
            if not isinstance(error, StoreError):  # else the disk is full, and the error already says so
                logger.warning("the summary could not be written either: %s", failure)
