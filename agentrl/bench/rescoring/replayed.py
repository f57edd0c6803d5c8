"""The actions of recorded episodes taken again in an environment, which then says what they are worth.

Owns instances of environments, and what may not count: an episode that takes another course.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agentrl.bench.rescoring.rubrics import Scorer
from agentrl.env import registry
from agentrl.env.base import Env
from agentrl.errors import EnvFault, PolicyFault, TaskError
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy, SamplingParams
from agentrl.rollout.episode import run_episode
from agentrl.rollout.replay import naming_rule
from agentrl.trajectory import EnvRef, Task, Trajectory


class OtherCourse(Policy):
    """Stands where the model stood; it is asked only where the environment answers otherwise than recorded."""

    name = "recorded"

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        raise EnvFault(
            "the recorded actions were answered differently here, or do not end the episode: the model would have "
            "gone on otherwise, so that there is nothing to score",
            who="author",
        )


@dataclass
class Replayed:
    """Takes recorded actions again, one episode at a time; each environment has one instance.

    Args:
        env: instead of the recorded environment, with the recorded arguments and limits unless it has its own.
        trust_record: the record may name code to import.
        own_tasks: take the content of a task from the environment where it has one of that id.
    """

    env: EnvRef | None = None
    trust_record: bool = False
    own_tasks: bool = False
    other_tasks: dict[str, None] = field(default_factory=dict)
    _envs: dict[str, Env] = field(default_factory=dict)

    async def score(self, episode: Trajectory, scorer: Scorer) -> Trajectory:
        """The episode as it goes here, scored; a fault that says why where it takes another course.

        Raises: ReplayError if the record names code that is not registered; whatever a rubric raises.
        """
        ref = self._ref_of(episode.env)
        with naming_rule(ref, given=self.env is not None, trusts=self.trust_record):
            if ref.key not in self._envs:
                self._envs[ref.key] = registry.make(ref)
            env = self._envs[ref.key]
            played = await self._play(episode, self._task_of(episode.task, env), env)
            readable: set[str] = set()
            while played.fault is not None and played.fault.tool and played.fault.tool not in readable:
                # The model read this fault as an error; see docs/faults.md.
                readable.add(played.fault.tool)
                await env.aclose()
                env = self._envs[ref.key] = registry.make(ref)
                env.unwrapped.make_readable(readable)  # type: ignore[attr-defined]
                played = await self._play(episode, self._task_of(episode.task, env), env)
            if readable:
                del self._envs[ref.key]
            try:
                ended = played.episode.ending.kind in ("fault", "error")
                return played.episode if ended else await scorer.score(played.episode, env)
            finally:
                if readable:
                    await env.aclose()

    def _ref_of(self, recorded: EnvRef) -> EnvRef:
        if self.env is None:
            return recorded
        return replace(
            self.env,
            kwargs={**recorded.kwargs, **self.env.kwargs},
            limits={**recorded.limits, **self.env.limits},
        )

    def _task_of(self, task: Task, env: Env) -> Task:
        try:
            own: Task = env.unwrapped.tasks[task.id]  # type: ignore[attr-defined]
        except (TaskError, KeyError, AttributeError):
            return task
        if own.fingerprint != task.fingerprint:
            self.other_tasks.setdefault(task.id)
        return own if self.own_tasks else task

    async def _play(self, episode: Trajectory, task: Task, env: Env) -> _Played:
        faults: list[EnvFault | PolicyFault] = []
        played = await run_episode(
            env,
            OtherCourse(),
            task,
            episode.seed,
            ref=episode.env,
            group_id=episode.group_id,
            episode_id=episode.episode_id,
            labels=episode.labels,
            on_fault=faults.append,
            earlier=episode,
        )
        same_end = len(played.turns) == len(episode.turns)
        if faults and episode.ending.kind == "error" and same_end:
            # What the model did makes the environment fail again: it stays the failure that it was.
            played.ending, played.info, faults = episode.ending, episode.info, []
        return _Played(played, faults[0] if faults else None)

    async def aclose(self) -> None:
        """Close the environments."""
        for env in self._envs.values():
            await env.aclose()
        self._envs.clear()


@dataclass(frozen=True)
class _Played:
    episode: Trajectory
    fault: EnvFault | PolicyFault | None
