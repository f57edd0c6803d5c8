"""A benchmark: one policy on one environment's tasks, compared with the null policy and the oracle.

Owns which episodes are still to be played. `agentrl.rollout` runs them, `agentrl.bench.folder` keeps the records,
`agentrl.bench.result` computes the scores.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentrl.bench.evaluate import EnvMaker, Which, env_maker, episode_seed, trial_key
from agentrl.bench.folder import BenchFolder
from agentrl.bench.identity import Identity, identify, same_env
from agentrl.bench.judges.judged import Judged, judge_episodes, labels_of
from agentrl.bench.measures.base import Measure
from agentrl.bench.measures.by_name import measures_of
from agentrl.bench.measures.cost import CostUSD
from agentrl.bench.provenance import Provenance
from agentrl.bench.records import utc_now, versions_of
from agentrl.bench.result import BenchConfig, BenchResult, Outcome, choose_tasks, score_of
from agentrl.env.base import Env
from agentrl.errors import RolloutError, StoreError
from agentrl.interrupts import is_from_outside
from agentrl.policy.base import Policy, SamplingParams
from agentrl.policy.by_name import PolicySetup, parse_spec, resolve
from agentrl.policy.remote.apis import APIS
from agentrl.policy.scripted import NullPolicy, OraclePolicy
from agentrl.rollout.judging.judge import Judge
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.serving.capture.player import player
from agentrl.serving.capture.settings import captured
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
    judge: Judge | None = None,
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
        judge: also scores the policy's episodes, when they have been played; it stays open.
    Raises:
        ConfigError: a name or value is wrong, or `out` holds another benchmark or is in use by another run.
        RolloutError: all episodes, or almost all, ended in a fault; what was played is recorded.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError("an event loop is running here: use `await arun_bench(...)` with the same arguments")
    config = replace(config or BenchConfig(), **more)
    further = _with_cost(measures_of(measures), config)
    with asyncio.Runner() as runner:
        bench = runner.run(_prepare(env, policy, config, out, setup, on_progress, further))
        bench.judge = judge
        with bench.folder:
            bench.recall()  # a store that cannot be read leaves the summary of earlier calls as it is
            try:
                runner.run(bench.play())
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt) and is_from_outside(error):
                    return bench.finish("interrupted")
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
    judge: Judge | None = None,
    **more: Any,
) -> BenchResult:
    """`run_bench` inside an event loop; a cancellation records what was played and propagates."""
    config = replace(config or BenchConfig(), **more)
    further = _with_cost(measures_of(measures), config)
    bench = await _prepare(env, policy, config, out, setup, on_progress, further)
    bench.judge = judge
    with bench.folder:
        bench.recall()
        try:
            await bench.play()
        except asyncio.CancelledError:
            bench.finish("interrupted")
            raise
        except BaseException as error:
            bench.fail(error)
            raise
        return bench.finish("finished")


def _with_cost(measures: Sequence[Measure], config: BenchConfig) -> list[Measure]:
    return [*measures, *([] if config.price is None else [CostUSD(config.price)])]


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
        owned, server, given = isinstance(policy, str), None, policy
        if isinstance(policy, type) or not (isinstance(policy, str) or callable(getattr(policy, "act", None))):
            raise TypeError(f"policy must be a Policy, or a name such as 'oracle', got {policy!r}")
        if isinstance(policy, str):
            setup = setup or PolicySetup()
            server = server_of(policy, setup)
            if setup.demonstrators is None:
                setup = replace(setup, demonstrators=probe.demonstrators)
            policy = resolve(policy, setup)
        if any(measure.reads_signals for measure in measures):
            sampling = config.sampling or getattr(policy, "sampling", None)
            if isinstance(sampling, SamplingParams):
                config = replace(config, sampling=replace(sampling, signals=True))
        identity = identify(
            env,
            probe,
            tasks,
            split=config.split,
            seed=config.seed,
            given=given,
            policy=policy,
            setup=setup,
            sampling=config.sampling,
        )
        if config.agent is not None:
            identity = replace(identity, env=captured(identity.env, config.agent.command))
    finally:
        await probe.aclose()
    players: dict[str, Policy] = {}
    if config.references and policy.name != "null":
        players["null"] = NullPolicy()
    if config.references and policy.name != "oracle" and has_oracle:
        players["oracle"] = OraclePolicy()
    # References first: they show that an environment is broken before the policy has cost anything.
    players[MAIN] = policy
    named = env if isinstance(env, (str, EnvRef)) else _with_ref(make_env, identity.env)
    bench = _Bench(named, identity, tasks, config, players, BenchFolder(out, identity), owned, on_progress, measures)
    bench.server = server
    return bench


def _with_ref(make_env: EnvMaker, ref: EnvRef) -> EnvMaker:
    """A function whose environments know what they are, so that every episode records it."""

    def make() -> Env:
        made = make_env()
        inner = made.unwrapped
        if inner.ref is None:  # type: ignore[attr-defined]
            inner.ref = ref  # type: ignore[attr-defined]
        return made

    return make


def server_of(policy: str, setup: PolicySetup) -> str | None:
    """The address that a policy behind a server talks to; None for the others. Raises: ConfigError without a key."""
    api = APIS.get(parse_spec(policy).kind)
    if api is None:
        return None
    api.check_key(address := api.address(setup.base_url), setup.api_key_env)
    return address


class _Bench:
    """The episodes of one benchmark: which there are, and which have been played."""

    def __init__(
        self,
        env: Which,
        identity: Identity,
        tasks: Sequence[Task],
        config: BenchConfig,
        players: dict[str, Policy],
        folder: BenchFolder,
        owned: bool,
        on_progress: Progress | None,
        measures: Sequence[Measure],
    ) -> None:
        self.env, self.ref, self.config, self.folder = env, identity.env, config, folder
        self.sampling = identity.sampling
        self.players, self.owned, self.on_progress = players, owned, on_progress
        self.measures = measures
        self.requests = {phase: self._requests(phase, tasks) for phase in players}
        self.planned = {r.group_id: r for requests in self.requests.values() for r in requests}
        self.server: str | None = None
        self.judge: Judge | None = None
        self.judged: Judged | None = None
        self.played: dict[str, Trajectory] = {}
        self.ended: set[str] = set()
        self.started_s, self.started_at = time.monotonic(), utc_now()
        self._costs: dict[str, float] = {}
        self._uncounted = False

    def recall(self) -> None:
        """Remember what earlier calls played of this benchmark, and nothing else."""
        self.started_at = self.folder.started_at or self.started_at
        for trajectory in self.folder.former():
            if self._is_planned(trajectory):
                self._keep(trajectory)

    def _is_planned(self, trajectory: Trajectory) -> bool:
        """Whether a recorded episode is one of this benchmark, by its content, not by its name alone."""
        request, env = self.planned.get(trajectory.group_id), trajectory.env
        return (
            request is not None
            and (trajectory.task.id, trajectory.seed) == (request.task.id, request.seed)
            and trajectory.task.fingerprint == request.task.fingerprint
            and same_env(env, self.ref)
            and env.version == self.ref.version
        )

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
            if self.config.price is not None and trajectory.group_id.startswith(f"{MAIN}/"):
                cost = self.config.price.of(trajectory)
                self._costs[trajectory.group_id] = 0.0 if math.isnan(cost) else cost
                if math.isnan(cost) and trajectory.turns and not self._uncounted:
                    self._uncounted = True
                    logger.warning("the policy counts no tokens: costs are not known, and no budget stops this run")

    @property
    def cost_usd(self) -> float | None:
        """What the policy's episodes on record cost; None where no price is known."""
        return None if self.config.price is None else math.fsum(self._costs.values())

    @property
    def _is_spent(self) -> bool:
        budget = self.config.budget_usd
        return budget is not None and (self.cost_usd or 0.0) >= budget

    def _ended(self, trajectory: Trajectory) -> None:
        self._keep(trajectory)
        self.ended.add(trajectory.group_id)
        if self.on_progress is not None:
            self.on_progress(len(self.played), len(self.planned), trajectory)

    async def play(self) -> None:
        """Play what is missing or was discarded."""
        labels = [] if self.judge is None else labels_of(self.judge)  # a file that cannot be read costs no episodes
        self.folder.write({"status": "running", "started_at": self.started_at})
        try:
            if self.server is not None and not all(self._is_scored(r.group_id) for r in self.requests[MAIN]):
                await check_reachable(self.server)
            for phase in self.players:
                await self._play(phase)
            if self.judge is not None:
                self.judged = await judge_episodes(self.judge, self._finals(MAIN), labels=labels)
        finally:
            if self.owned:
                await self.players[MAIN].aclose()
            if self.judge is not None:
                await self.judge.disconnect()

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
        rollouts.recall(self._finals(phase))
        try:
            async with player(self.config.agent if phase == MAIN else None) as rollouts.play, rollouts:
                await rollouts.run(self._affordable(missing))
        except RolloutError as error:
            # What earlier calls scored counts too: a few episodes that fail again are no failed benchmark.
            scored = sum(self._is_scored(r.group_id) for r in self.requests[phase])
            all_ended = all(r.group_id in self.ended for r in missing)
            if all_ended and scored >= (1 - rollouts.max_fault_fraction) * len(self.requests[phase]):
                return
            if phase == MAIN:
                raise
            logger.warning("the reference %r could not be played: %s", phase, error)

    def _affordable(self, requests: Sequence[GroupRequest]) -> Iterator[GroupRequest]:
        """The requests, one by one as slots come free, until the budget is spent."""
        for request in requests:
            if self._is_spent:
                return
            yield request

    def _finals(self, phase: str) -> list[Trajectory]:
        """The final episodes of a phase, as far as they have been played."""
        return [self.played[r.group_id] for r in self.requests[phase] if r.group_id in self.played]

    def _is_scored(self, group_id: str) -> bool:
        return group_id in self.played and self.played[group_id].status != "fault"

    def finish(self, status: Outcome) -> BenchResult:
        """The result of what has been played; also written to the folder."""
        if status == "finished" and self._is_spent and len(self.played) < len(self.planned):
            status = "interrupted"
        scores, finals = {}, {}
        # An error of a further measure must not hide the one that is being recorded.
        measures = () if status == "failed" else self.measures
        for phase, requests in self.requests.items():
            finals[phase] = self._finals(phase)
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
            sampling=self.sampling,
            versions=versions_of(self.ref),
            started_at=self.started_at,
            ended_at=utc_now(),
            cost_usd=self.cost_usd,
            provenance=Provenance.here(),
            judged=self.judged,
        )
        self.folder.write(result.to_json())
        return result

    def fail(self, error: BaseException) -> None:
        """Record what was played, and the error, which the caller raises."""
        try:
            result = self.finish("failed")
            self.folder.write({**result.to_json(), "error": f"{type(error).__name__}: {error}"})
        except StoreError as failure:
            if not isinstance(error, StoreError):  # else the disk is full, and the error already says so
                logger.warning("the summary could not be written either: %s", failure)
