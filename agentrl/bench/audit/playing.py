"""Plays the panel, and the environment's oracle, on the tasks of a split. Judges nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from agentrl.bench.audit.probes import Probe, Situation
from agentrl.bench.evaluate import env_maker, env_ref, episode_seed
from agentrl.env.base import Env
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy, SamplingParams
from agentrl.policy.scripted import OraclePolicy
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.trajectory import EnvRef, Task, Trajectory

ORACLE = "oracle"
AS_SHIPPED = "as_shipped"
Played = dict[str, list[Trajectory]]
"""Episodes by the name of what played them, in the order of the tasks."""


@dataclass
class Subject:
    """The benchmark under audit.

    Attributes:
        env: an id, a reference, or a function that makes one instance.
        split: whose tasks are played.
        tasks: those that are played.
        others: the other splits' tasks, by split.
        has_oracle: whether the environment can show a solution.
        tools: names of the tools that an agent is shown.
        max_concurrency: episodes alive at the same time.
        seed: of the episodes.
        has_shipped: whether it can show the suite's own solution where its oracle corrects it (`as_shipped`).
        played: what has been played so far.
        on_progress: called with the number of finished episodes.
    """

    env: str | EnvRef | Callable[[], Env]
    split: str
    tasks: Sequence[Task]
    others: Mapping[str, Sequence[Task]]
    has_oracle: bool
    tools: tuple[str, ...]
    max_concurrency: int = 16
    seed: int = 0
    has_shipped: bool = False
    played: Played = field(default_factory=dict)
    on_progress: Callable[[int], None] | None = None
    count: int = 0

    @property
    def ref(self) -> EnvRef:
        return env_ref(self.env)

    @property
    def oracle(self) -> list[Trajectory]:
        """The oracle's episodes; empty where there is none."""
        return self.played.get(ORACLE, [])

    def make(self) -> Env:
        """One instance. The caller closes it."""
        return env_maker(self.env)()

    async def play(self, probes: Sequence[Probe], tasks: Sequence[Task] | None = None) -> Played:
        """One episode of each member and task. What was played on all tasks is kept in `played`."""
        chosen = self.tasks if tasks is None else tasks
        names = [probe.name for probe in probes]
        found = await self._run(_Panel({probe.name: probe for probe in probes}, self.seed), names, chosen)
        if tasks is None:
            self.played |= found
        return found

    async def play_oracle(self) -> list[Trajectory]:
        """One episode of the oracle on each task."""
        return (await self._run(OraclePolicy(), [ORACLE], self.tasks))[ORACLE]

    async def replay(self, episodes: Sequence[Trajectory]) -> list[Trajectory]:
        """The actions of an episode of each task a second time, one episode after another.

        An oracle is not asked again: some draw one of several solutions.
        """
        recorded = _Recorded({t.task.id: t for t in episodes})
        return (await self._run(recorded, [ORACLE], self.tasks, 1))[ORACLE]

    async def play_shipped(self) -> list[Trajectory]:
        """One episode on each task, by the suite's own solution as it stands."""
        return (await self._run(OraclePolicy({AS_SHIPPED: 1.0}), [AS_SHIPPED], self.tasks))[AS_SHIPPED]

    async def solutions(self, tasks: Sequence[Task]) -> dict[str, list[Any]]:
        """What the oracle does on each task, turn by turn, all from one seed."""
        episodes = (await self._run(OraclePolicy(), [ORACLE], tasks, seed=self.seed))[ORACLE]
        return {t.task.id: [_done(turn.action) for turn in t.turns] for t in episodes}

    async def side_by_side(self, probes: Sequence[Probe], tasks: Sequence[Task]) -> dict[str, list[Any]]:
        """What the oracle and some members do and see on each task, all from one seed: equal where tasks are."""
        names = [probe.name for probe in probes]
        played = await self._run(_Panel({p.name: p for p in probes}, self.seed), names, tasks, seed=self.seed)
        if self.has_oracle:
            played |= await self._run(OraclePolicy(), [ORACLE], tasks, seed=self.seed)
        seen: dict[str, list[Any]] = {task.id: [] for task in tasks}
        for episodes in played.values():
            for t in episodes:
                seen[t.task.id] += [[message.to_openai() for message in t.messages()], t.reward]
        return seen

    async def again(self, probe: Probe) -> list[Trajectory]:
        """The same episodes a second time, one after another."""
        return (await self._run(_Panel({probe.name: probe}, self.seed), [probe.name], self.tasks, 1))[probe.name]

    async def _run(
        self,
        policy: Policy,
        names: Iterable[str],
        tasks: Sequence[Task],
        concurrency: int | None = None,
        seed: int | None = None,
    ) -> Played:
        requests = [
            GroupRequest(task, self._seed_of(task) if seed is None else seed, 1, f"{name}{_BETWEEN}{task.id}")
            for name in names
            for task in tasks
        ]
        rollouts = Rollouts(
            self.env,
            policy,
            max_concurrency=concurrency or self.max_concurrency,
            max_attempts=2,
            backoff_s=0.0,
            on_trajectory=self._count,
        )
        async with rollouts:
            groups = await rollouts.run(requests, judged=False)
        played: Played = {}
        for group in groups:
            played.setdefault(group.group_id.split(_BETWEEN)[0], []).append(group.trajectories[0])
        return played

    def _seed_of(self, task: Task) -> int:
        return episode_seed(self.seed, task.id, 0)

    def _count(self, _: Trajectory) -> None:
        self.count += 1
        if self.on_progress is not None:
            self.on_progress(self.count)

    async def opened(self, tasks: Sequence[Task]) -> list[tuple[Task, list[Message], str]]:
        """Each task's first messages, and the tools that go with them as text."""
        found = []
        async with aclosing(self.make()) as env:
            for task in tasks:
                messages, _ = await env.areset(seed=self._seed_of(task), options={"task": task})
                found.append((task, list(messages), str(list(env.tool_schemas))))
        return found


class _Recorded(Policy):
    """Does in each episode what was done in one of the same task."""

    name = "recorded"
    sampling = SamplingParams()

    def __init__(self, episodes: Mapping[str, Trajectory]) -> None:
        self._episodes = episodes

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        task = episode_id.split(_BETWEEN)[1].rpartition("/")[0]  # after it stand the trial and the attempt
        turns = self._episodes[task].turns
        said = sum(message.role == "assistant" for message in messages)
        shown = sum(message.role == "assistant" for turn in turns[:1] for message in turn.observation)
        done = said - shown
        return turns[done].action if done < len(turns) else Action()


def _done(action: Action) -> tuple[str, list[tuple[str, Any]]]:
    return action.text, [(call.name, call.arguments) for call in action.tool_calls]


_BETWEEN = "\x1f"  # between a member's name and a task's id in an episode's name


class _Panel(Policy):
    """All members as one policy: an episode's name says whose it is."""

    name = "panel"
    sampling = SamplingParams()

    def __init__(self, probes: Mapping[str, Probe], seed: int) -> None:
        self._probes, self._seed = probes, seed

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        probe = self._probes[episode_id.split(_BETWEEN)[0]]
        seed = self._seed if sampling is None or sampling.seed is None else sampling.seed
        return probe.act(Situation(messages, list(map(dict, tools)), seed))
