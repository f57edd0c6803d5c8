"""Many episodes at once: groups, retries of faults, cancellation. The only owner of concurrency.

One episode belongs to `agentrl.rollout.episode`, writing to `agentrl.rollout.store`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

from agentrl.env import registry
from agentrl.env.base import Env
from agentrl.errors import EnvFault, PolicyFault, RolloutError
from agentrl.policy.base import Policy, SamplingParams
from agentrl.rollout.env_pool import EnvPool
from agentrl.rollout.episode import mark_fault, new_key, run_episode
from agentrl.rollout.fault_tally import FaultTally
from agentrl.rollout.requests import GroupRequest, Job, PendingGroup, jobs_of, sampling_seed
from agentrl.rollout.store import TrajectoryStore
from agentrl.rollout.verdict import KnownToWork, Repeated, UnderWay, acts_otherwise, longest
from agentrl.trajectory import EnvRef, Labels, Task, Trajectory, TrajectoryGroup

logger = logging.getLogger(__name__)
_MAX_BACKOFF_S = 30.0
Play = Callable[..., Awaitable[Trajectory]]
"""Plays one episode: `run_episode`, or something else with its arguments."""


class Rollouts:
    """Runs episodes with one policy, at most `max_concurrency` at a time in all its streams together.

    Episodes start in the order of the requests and end when they end: a slow episode occupies its own
    slot and delays no other. Environment instances are used again between episodes; a fault or a cancellation
    costs the instance. Use it under `async with`, or call `aclose`.

    Args:
        env: of the requests that name none: an id, a reference, or a function that makes one instance. An `EnvFault`
            from making one discards the episode, any other exception propagates.
        policy: serves all episodes; stays open.
        env_id: recorded on the trajectories where `env` is a function.
        max_concurrency: episodes alive at the same time.
        max_attempts: tries of an episode that ends in a fault, all with the same seeds.
        sampling: of every turn; by default the policy's own `sampling`, if it has one. Each episode
            gets its own `seed`.
        store: receives every trajectory, discarded attempts too (labelled `superseded` where another try follows).
        on_trajectory: called with each final trajectory, as it ends.
        backoff_s: wait before the second attempt; doubles each time, at most 30.
        max_fault_fraction: a stream with a greater share of discarded episodes ends with RolloutError.
        play: plays one episode; takes and gives what `run_episode` does.
    Attributes:
        running: episodes under way.
    """

    def __init__(
        self,
        env: str | EnvRef | Callable[[], Env],
        policy: Policy,
        *,
        env_id: str = "",
        max_concurrency: int = 64,
        max_attempts: int = 3,
        sampling: SamplingParams | None = None,
        store: TrajectoryStore | None = None,
        on_trajectory: Callable[[Trajectory], None] | None = None,
        backoff_s: float = 0.5,
        max_fault_fraction: float = 0.9,
        play: Play = run_episode,
    ) -> None:
        if max_concurrency < 1 or max_attempts < 1:
            raise ValueError(f"max_concurrency and max_attempts must be >= 1, got {max_concurrency} and {max_attempts}")
        if isinstance(policy, type) or not callable(getattr(policy, "act", None)):
            raise TypeError(f"policy must be a Policy, such as OraclePolicy(), got {policy!r}")
        self.policy = policy
        self.max_concurrency, self.max_attempts = max_concurrency, max_attempts
        self.sampling, self.store, self.on_trajectory = sampling, store, on_trajectory
        self.backoff_s, self.max_fault_fraction, self.play = backoff_s, max_fault_fraction, play
        self.ref, make_env = _own_env(env, env_id)
        self.envs = EnvPool(make_env)
        self._pools = {(self.ref.url, self.ref.key): self.envs}
        self._known: dict[EnvPool, KnownToWork] = defaultdict(KnownToWork)
        self._discarded: dict[str, Trajectory] = {}
        self._slots = asyncio.Semaphore(max_concurrency)
        self._workers: set[asyncio.Task[None]] = set()
        self._under_way = UnderWay()

    @property
    def running(self) -> int:
        return len(self._under_way)

    def pool_of(self, ref: EnvRef | None) -> EnvPool:
        """The instances of an environment; None is the runner's own."""
        if ref is None:
            return self.envs
        place = ref.url, ref.key
        if place not in self._pools:
            self._pools[place] = EnvPool(partial(registry.make, ref))
        return self._pools[place]

    def recall(self, episodes: Iterable[Trajectory]) -> None:
        """Go on from what was recorded of the runner's own environment, before the first episode is asked for.

        An episode that was discarded is taken again with its actions, as after a fault in this run; the others show
        what works.

        Args: episodes: final attempts.
        """
        for episode in episodes:
            if episode.ending.kind == "fault":
                self._discarded[episode.episode_id] = episode
            else:
                self._known[self.envs].note(episode)

    async def stream(self, requests: Iterable[GroupRequest]) -> AsyncIterator[TrajectoryGroup]:
        """Run groups and yield each as it completes.

        Requests are taken lazily, as slots come free. Leave an unfinished stream through
        `contextlib.aclosing`, or close the runner: either stops what is running.

        Raises: RolloutError if more episodes are faults than `max_fault_fraction` accepts; StoreError if the store
            cannot be written.
        """
        async with aclosing(self._complete(requests)) as groups:
            async for group in groups:
                yield group.finished()

    async def run(self, requests: Iterable[GroupRequest], *, judged: bool = True) -> list[TrajectoryGroup]:
        """Run groups and return them in the order of the requests.

        Args: judged: False accepts any number of faults; the caller then judges several runs by `check_faults`.
        Raises: as `stream`.
        """
        async with aclosing(self._complete(requests, judged)) as groups:
            complete = [group async for group in groups]
        return [group.finished() for group in sorted(complete, key=lambda group: group.number)]

    def check_faults(self, groups: Iterable[TrajectoryGroup]) -> None:
        """Raises: RolloutError if almost nothing but faults came back in these groups together."""
        tally = self._tally()
        for group in groups:
            for trajectory in group.trajectories:
                tally.add(trajectory)
        tally.finish()

    def _tally(self, judged: bool = True) -> FaultTally:
        return FaultTally(self.max_fault_fraction if judged else 1.0, 2 * self.max_concurrency)

    async def aclose(self) -> None:
        """Stop what is running and close the environments; the policy stays open."""
        await _stop(set(self._workers))
        for pool in self._pools.values():
            await pool.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _complete(self, requests: Iterable[GroupRequest], judged: bool = True) -> AsyncGenerator[PendingGroup]:
        tally = self._tally(judged)
        outcomes: asyncio.Queue[PendingGroup | BaseException | None] = asyncio.Queue()
        jobs = jobs_of(requests)
        # A request for a few episodes needs no more workers than it has episodes.
        known = self.max_concurrency
        if isinstance(requests, Sequence):
            known = sum(getattr(request, "num_episodes", 1) for request in requests)
        needed = max(1, min(known, self.max_concurrency))
        workers = {asyncio.create_task(self._work(jobs, outcomes, tally)) for _ in range(needed)}
        self._workers |= workers
        running = len(workers)

        def ended(worker: asyncio.Task[None]) -> None:
            nonlocal running
            running -= 1
            self._workers.discard(worker)
            if worker.cancelled():
                outcomes.put_nowait(RolloutError("the runner was closed while episodes were running"))
            elif (error := worker.exception()) is not None:
                outcomes.put_nowait(error)
            elif not running:
                outcomes.put_nowait(None)

        for worker in workers:
            worker.add_done_callback(ended)
        try:
            while (outcome := await outcomes.get()) is not None:
                if isinstance(outcome, BaseException):
                    raise outcome
                yield outcome
            tally.finish()
        finally:
            await _stop(workers)

    async def _work(self, jobs: Iterator[Job], outcomes: asyncio.Queue[Any], tally: FaultTally) -> None:
        """One worker: takes a slot, then the next episode, until none is left."""
        while True:
            async with self._slots:
                job = next(jobs, None)
                if job is None:
                    return
                group, index = job
                with self._under_way.episode() as name:
                    trajectory = await self._attempts(group.request, index, name)
            tally.add(trajectory)
            if self.on_trajectory is not None:
                self.on_trajectory(trajectory)
            if group.settle(index, trajectory):
                outcomes.put_nowait(group)
            # An episode that never waited has not let anyone else run.
            await asyncio.sleep(0)

    async def _attempts(self, request: GroupRequest, index: int, name: object) -> Trajectory:
        """Play an episode, again from the same seeds while it faults; store every attempt."""
        pool = self.pool_of(request.env)
        known = self._known[pool]
        repeated = Repeated(pool, known, self.policy, self._under_way, name)
        episode_id = f"{request.group_id}/{index}"
        key = new_key(episode_id)
        former, asked_anew, attempt = self._discarded.pop(episode_id, None), False, 0
        try:
            while True:
                earlier = _taken_again(request, former)
                trajectory, fault = await self._episode(pool, request, index, attempt, key, earlier, repeated)
                attempt += 1
                if former is not None and acts_otherwise(former, trajectory):
                    asked_anew = True
                trajectory.labels = replace(trajectory.labels, asked_anew=asked_anew)
                former = trajectory if former is None else longest(former, trajectory)
                if fault is None:
                    known.note(trajectory)
                last = attempt >= self.max_attempts
                trajectory, fault = repeated.ruled_on(trajectory, fault, last=last)
                again = fault is not None and await repeated.again(trajectory, fault, last=last)
                if again:
                    trajectory.labels = replace(trajectory.labels, superseded=True)
                if self.store is not None:
                    self.store.append(trajectory)
                if not again:
                    return trajectory
                await asyncio.sleep(min(self.backoff_s * 2 ** (attempt - 1), _MAX_BACKOFF_S))
        finally:
            await self.policy.release(key)

    async def _episode(
        self,
        pool: EnvPool,
        request: GroupRequest,
        index: int,
        attempt: int,
        key: str,
        earlier: Trajectory | None,
        repeated: Repeated,
    ) -> tuple[Trajectory, EnvFault | PolicyFault | None]:
        """One attempt, and the fault that ended it."""
        episode_id = f"{request.group_id}/{index}"
        labels = replace(request.labels, attempt=attempt) if attempt else request.labels
        if request.is_greedy(index):
            labels = replace(labels, mode="greedy")
        faults: list[EnvFault | PolicyFault] = []
        try:
            env = await pool.lend()
        except EnvFault as fault:
            return self._never_began(request, episode_id, labels, fault), fault
        well = False
        try:
            if repeated.readable:
                env.unwrapped.make_readable(repeated.readable)  # type: ignore[attr-defined]
            trajectory = await self.play(
                env,
                self.policy,
                request.task,
                request.seed,
                ref=env.unwrapped.ref or request.env or self.ref,  # type: ignore[attr-defined]
                sampling=self._sampling_of(request, index),
                group_id=request.group_id,
                episode_id=episode_id,
                labels=labels,
                on_fault=faults.append,
                earlier=earlier,
                key=key,
                fork=None if request.fork is None else request.fork.origin,
            )
            well = not faults and not repeated.readable
            return trajectory, faults[0] if faults else None
        finally:
            if well:
                pool.give_back(env)
            else:
                await pool.discard(env)

    def _never_began(self, request: GroupRequest, episode_id: str, labels: Labels, fault: EnvFault) -> Trajectory:
        trajectory = Trajectory(
            request.env or self.ref,
            request.task,
            request.seed,
            group_id=request.group_id,
            episode_id=episode_id,
            labels=labels,
            fork=None if request.fork is None else request.fork.origin,
        )
        mark_fault(trajectory, fault)
        return trajectory

    def _sampling_of(self, request: GroupRequest, index: int) -> SamplingParams | None:
        base = self.sampling or getattr(self.policy, "sampling", None)
        if not isinstance(base, SamplingParams):
            return None
        if request.is_greedy(index):
            base = replace(base, temperature=0.0, top_p=1.0)
        elif index < request.branches:
            base = replace(base, temperature=0.0, top_p=1.0, first_rank=index)
        return replace(base, seed=sampling_seed(request, index))


def _taken_again(request: GroupRequest, former: Trajectory | None) -> Trajectory | None:
    """The episode whose actions an attempt takes again: the former attempt, or what it continues if that was longer."""
    if request.fork is None or (former is not None and len(former.turns) >= request.fork.turn):
        return former
    return request.fork.beginning


def _own_env(env: str | EnvRef | Callable[[], Env], env_id: str) -> tuple[EnvRef, Callable[[], Env]]:
    """The reference and the maker of a runner's own environment."""
    if isinstance(env, (str, EnvRef)):
        ref = registry.reference(env)
        return ref, partial(registry.make, ref)
    if not callable(env):
        raise TypeError(f"env must be an id, or a class or function that makes an environment, got {env!r}")
    return EnvRef(env_id or getattr(env, "__name__", "env")), env


async def _stop(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their end, even if the waiting is itself cancelled."""
    pending = {task for task in tasks if not task.done()}
    for task in pending:
        task.cancel()
    cancelled: asyncio.CancelledError | None = None
    while pending:
        try:
            _, pending = await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
            pending = {task for task in pending if not task.done()}
    if cancelled is not None:
        raise cancelled


async def arollout(
    env: str | EnvRef | Callable[[], Env],
    policy: Policy,
    tasks: str | Sequence[Task | str] = "train",
    *,
    seeds: Sequence[int] = (0,),
    group_size: int = 1,
    **options: Any,
) -> list[TrajectoryGroup]:
    """Run every task with every seed.

    Args:
        env: a registered id, a reference, or a function that makes an instance.
        policy: plays; stays open.
        tasks: a split's name, or tasks or their ids.
        seeds: one group per task and seed.
        group_size: episodes per group.
        options: of `Rollouts` (`env_id` where `env` is no id).
    Returns: the groups, task by task.
    Raises: EnvNotFound, TaskError, RolloutError.
    """
    async with Rollouts(env, policy, **options) as rollouts:
        instance = await rollouts.envs.lend()
        table = instance.tasks
        rollouts.envs.give_back(instance)
        named = table.split(tasks) if isinstance(tasks, str) else tasks
        chosen = [table[task] if isinstance(task, str) else task for task in named]
        return await rollouts.run(GroupRequest(task, seed, group_size) for task in chosen for seed in seeds)


def rollout(
    env: str | EnvRef | Callable[[], Env],
    policy: Policy,
    tasks: str | Sequence[Task | str] = "train",
    *,
    seeds: Sequence[int] = (0,),
    group_size: int = 1,
    **options: Any,
) -> list[TrajectoryGroup]:
    """`arollout` for programs without an event loop.

    Raises: RuntimeError inside a running loop (a notebook): await `arollout` there.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(arollout(env, policy, tasks, seeds=seeds, group_size=group_size, **options))
    raise RuntimeError("an event loop is running here: use `await arollout(...)` with the same arguments")
