"""What stages that play training episodes share: their source of groups and the metrics of a step's episodes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from agentrl.config import Count, OneOf, Positive, Whole
from agentrl.env import registry
from agentrl.env.base import Env
from agentrl.errors import ConfigError
from agentrl.learning.credit.base import differs
from agentrl.rollout.sources.base import Source
from agentrl.rollout.sources.curriculum import Curriculum, CurriculumGroups
from agentrl.rollout.sources.demonstrations import check_demonstrators
from agentrl.rollout.sources.few_shot import FewShot, FewShotRollouts
from agentrl.rollout.sources.forked import Forked, Forks
from agentrl.rollout.sources.levels import LevelGroups, Levels
from agentrl.rollout.sources.mixed.mixture import Mixture
from agentrl.rollout.sources.mixed.weighting import WEIGHTINGS, Fixed, Weighting
from agentrl.rollout.sources.prefetch import Prefetch
from agentrl.rollout.sources.tasks import TaskGroups
from agentrl.training.stages.base import Context, check_split
from agentrl.training.stages.environments import OWN, PlayedEnv, trained
from agentrl.training.stages.health import discards, endings, group_kinds, prompt_information
from agentrl.trajectory import EnvRef, Labels, Task, TrajectoryGroup, counted_successes


@dataclass(frozen=True)
class GrowingTurns:
    """A limit on turns that grows as training goes on, up to the environment's own.

    Source: Xi et al. 2025, arXiv:2509.08755, section 4 (ScalingInter-RL).

    Attributes:
        start: most turns of an episode in the first steps.
        add: turns that are added each time.
        every: steps after which they are added.
    """

    start: Count = 2
    add: Count = 2
    every: Count = 10

    def limit(self, step: int) -> int:
        """Most turns of an episode in a step, counted from 0."""
        return self.start + self.add * (step // self.every)


@dataclass(frozen=True)
class Playing:
    """How a stage plays training episodes.

    Attributes:
        prompts_per_step: tasks of one step.
        group_size: episodes of each task.
        max_lag: batches that are begun before they are needed; at 0 the run samples and learns in turn.
        mixture: relative weight of each environment, by id; groups come from their splits `train`. `own` is the run's
            environment. An empty mixture plays the run's environment alone.
        weighting: what makes shares of the weights of several environments.
        curriculum: draw tasks by their pass rate so far, not in a shuffled order; of each environment its own.
        levels: play the run's environment at one level after another; each begins the other settings anew.
        few_shot: show demonstrations before the task, fewer and fewer.
        growing_turns: a limit on turns that grows; a step is `prompts_per_step` groups, under dynamic sampling too.
        forks: turns of these episodes from which further ones are played, for `credit = "forked"` and for preferences;
            the environments must be functions of task, seed and actions.
        branches: how many episodes of each group begin with the most likely first token, the next one, and so on, and
            go on greedily; the others are sampled. For preferences alone.
    """

    prompts_per_step: Count = 16
    group_size: Count = 8
    max_lag: Whole = 0
    mixture: Mapping[str, Positive] = field(default_factory=dict)
    weighting: Annotated[Weighting, OneOf(WEIGHTINGS)] = Fixed()
    curriculum: Curriculum | None = None
    levels: Levels | None = None
    few_shot: FewShot | None = None
    growing_turns: GrowingTurns | None = None
    forks: Forks | None = None
    branches: Whole = 0

    @property
    def others(self) -> list[str]:
        """Ids of the environments that are not the run's own."""
        return [name for name in self.mixture if name != OWN]

    def check(self, key: str, probe: Env, train_split: str) -> None:
        """Refuse settings that cannot be played.

        Args:
            key: of these settings in the TOML, for messages.
            probe: an instance of the run's environment.
            train_split: name of its split to train on.
        Raises: ConfigError if an environment has no tasks to train on; EnvNotFound.
        """
        adapts = {"curriculum": self.curriculum, "levels": self.levels, "weighting": self.weighting.remembers}
        for name, chooses in adapts.items():
            if self.max_lag and chooses:
                raise ConfigError(
                    f"{key}.{name} chooses by the results of the step before, and with max_lag = {self.max_lag} "
                    f"episodes are chosen earlier: set max_lag = 0, or leave out {name}"
                )
        if self.forks and self.few_shot:
            raise ConfigError(
                f"{key}.few_shot and {key}.forks: continuations would be played without the demonstrations that their "
                "episode began with; leave out one of them"
            )
        if self.branches > self.group_size:
            raise ConfigError(
                f"{key}.branches = {self.branches} is more than group_size = {self.group_size}: raise group_size"
            )
        self._check_levels(f"{key}.levels", probe)
        if OWN in (self.mixture or {OWN: 1.0}):
            check_split(probe, "train_split", train_split, "to train on")
            self._check_few_shot(f"{key}.few_shot.demonstrator", probe)
        for name in self.others:
            if not _tasks_of(name)[1]:
                raise ConfigError(f"{key}.mixture: {name} has no tasks in its split 'train'")
            with contextlib.closing(registry.make(name)) as env:
                self._check_few_shot(f"{key}.few_shot.demonstrator", env)

    def check_several(self, key: str) -> None:
        """Refuse settings for a run's one environment in a run over several. Raises: ConfigError."""
        if self.mixture:
            raise ConfigError(f"{key}.mixture: a run over [envs.NAME] takes the weights from there; leave it out")
        if self.levels:
            raise ConfigError(
                f"{key}.levels changes the one environment of [env]; leave it out of a run over [envs.NAME]"
            )

    def _check_levels(self, key: str, probe: Env) -> None:
        ref: EnvRef | None = getattr(probe.unwrapped, "ref", None)
        if self.levels is None or ref is None:
            return
        for value in self.levels.values:
            try:
                tasks = _tasks_of(_at_level(ref, self.levels, value))[1]
            except (ValueError, TypeError, ConfigError) as error:
                raise ConfigError(f"{key}: {ref.id} has no {self.levels.argument} = {value!r}: {error}") from error
            if not tasks:
                raise ConfigError(f"{key}: {self.levels.argument} = {value!r} has no tasks in its split 'train'")

    def _check_few_shot(self, key: str, env: Env) -> None:
        if self.few_shot:
            check_demonstrators(env, {self.few_shot.demonstrator: 1.0}, key)

    def source(self, context: Context, stage: str, *, greedy: bool = False) -> Source:
        """The groups of a stage.

        Args: greedy: play one further episode of each group greedily, as a baseline.
        """
        weights = self._weights(context)
        parts = [self._part(context, stage, name, greedy) for name in weights]
        source = parts[0] if _is_alone(weights) else self._mixed(context, parts, weights)
        if self.forks is not None:
            source = Forked(source, context.rollouts, self.forks)
        return Prefetch(source, self.max_lag) if self.max_lag else source

    def _mixed(self, context: Context, parts: Sequence[Source], weights: Mapping[str, float]) -> Mixture:
        own = {name: env.train for name, env in context.environments.items()}
        counts = [len(own[name] if name in own else _tasks_of(name)[1]) for name in weights]
        return Mixture(parts, list(weights.values()), context.seed, weighting=self.weighting, num_tasks=counts)

    def _weights(self, context: Context) -> Mapping[str, float]:
        """Relative weight of each environment that is played, by name or id."""
        return self.mixture or {env.name: env.weight for env in trained(context.environments)}

    def _part(self, context: Context, stage: str, name: str, greedy: bool) -> Source:
        prefix = "" if _is_alone(self._weights(context)) else f"{name}-"
        own = context.environments.get(name)
        if own is None:
            return self._groups(context, stage, _tasks_of(name), name, prefix, greedy)
        levels = self.levels
        if levels is None:
            return self._groups(context, stage, (own.ref, own.train), name, prefix, greedy)
        parts = []
        for value in levels.values:
            played = _tasks_of(_at_level(context.env, levels, value))
            parts.append(self._groups(context, stage, played, name, f"{prefix}{levels.argument}-{value}-", greedy))
        return LevelGroups(parts, levels)

    def _groups(
        self, context: Context, stage: str, played: tuple[EnvRef, Sequence[Task]], name: str, prefix: str, greedy: bool
    ) -> Source:
        ref, tasks = played
        groups_per_step = self._groups_per_step(self._weights(context), name)
        env = self._limited(ref, groups_per_step) if self.growing_turns else ref
        more: dict[str, Any] = {
            "group_size": self.group_size,
            "seed": context.seed,
            "labels": Labels(stage),
            "name": prefix,
            "greedy": greedy,
            "owns": self.few_shot is not None,
            "branches": self.branches,
        }
        plays = self._shown(context, ref, tasks, groups_per_step) if self.few_shot else context.rollouts
        if self.curriculum is None:
            return TaskGroups(plays, env, tasks, **more)
        return CurriculumGroups(plays, env, tasks, curriculum=self.curriculum, **more)

    def _shown(self, context: Context, ref: EnvRef, tasks: Sequence[Task], groups_per_step: float) -> FewShotRollouts:
        """What plays the episodes of an environment behind demonstrations."""
        return FewShotRollouts(
            context.rollouts,
            ref,
            tasks,
            self.few_shot or FewShot(),
            seed=context.seed,
            groups_per_step=groups_per_step,
        )

    def _groups_per_step(self, weights: Mapping[str, float], name: str) -> float:
        """Groups of an environment in a step, on average."""
        return self.prompts_per_step * weights[name] / sum(weights.values())

    def _limited(self, ref: EnvRef, groups_per_step: float) -> Callable[[int], EnvRef]:
        """The environment of a group's number, with the limit of its step."""
        growing = self.growing_turns or GrowingTurns()
        own = _turn_limit(ref)

        def limited(number: int) -> EnvRef:
            limit = growing.limit(int(number / groups_per_step))
            return ref if own is not None and limit >= own else replace(ref, limits={**ref.limits, "max_turns": limit})

        return limited


def _is_alone(weights: Mapping[str, float]) -> bool:
    """Whether one environment of the run is played alone; an environment that only a mixture names has a prefix."""
    return len(weights) == 1 and "/" not in next(iter(weights)) and ":" not in next(iter(weights))


def _turn_limit(ref: EnvRef) -> int | None:
    """Most turns of an episode by the environment itself; None if it has no limit."""
    env = registry.make(ref)
    try:
        return env.limits.max_turns
    finally:
        env.close()


def _at_level(ref: EnvRef, levels: Levels, value: int | str) -> EnvRef:
    return replace(ref, kwargs={**ref.kwargs, levels.argument: value})


def _tasks_of(name: str | EnvRef) -> tuple[EnvRef, Sequence[Task]]:
    """The reference of an environment, with its version, and its tasks to train on; none if it has no such split."""
    env = registry.make(name)
    try:
        return env.ref or registry.reference(name), env.tasks.split("train") if "train" in env.tasks.splits else ()
    finally:
        env.close()


def rollout_metrics(
    groups: Sequence[TrajectoryGroup], environments: Mapping[str, PlayedEnv] | None = None
) -> dict[str, float]:
    """Means over the sampled episodes of a step, faults counted apart; of several environments also each one's.

    Args: environments: of the run, by the names that their metrics get; others are named by their id.

    Greedy episodes, which are baselines, are left out, and so are continuations of other episodes, but for their number
    and their tokens.
    """
    continued = [t for group in groups for t in group.trajectories if t.fork is not None]
    groups = [replace(group, trajectories=[t for t in group.trajectories if t.fork is None]) for group in groups]
    metrics = _means(groups)
    if continued:
        metrics["rollout/continuations"] = float(len(continued))
        metrics["rollout/continuation_faults"] = float(sum(t.status == "fault" for t in continued))
        metrics["rollout/tokens"] += float(sum(t.num_sampled_tokens for t in continued))
    names = {env.ref.key: name for name, env in (environments or {}).items() if name != OWN}
    of_each: dict[str, list[TrajectoryGroup]] = {}
    for group in groups:
        for ref in [t.env for t in group.trajectories][:1]:
            of_each.setdefault(names.get(ref.key, ref.id.rsplit("/", 1)[-1]), []).append(group)
    for name in sorted(of_each) if len(of_each) > 1 else []:
        metrics |= {f"rollout/{key}@{name}": value for key, value in _scores(of_each[name]).items()}
    return metrics


def _scores(groups: Sequence[TrajectoryGroup]) -> dict[str, float]:
    scored = [t for group in groups for t in group.trajectories if t.trains]
    count = max(len(scored), 1)
    counted = counted_successes(t for group in groups for t in group.trajectories)
    return {
        "reward_mean": sum(t.reward for t in scored) / count,
        "success": sum(t.success for t in scored) / count,
        "success_of_attempted": sum(counted) / max(len(counted), 1),
    }


def sampled_tokens(groups: Sequence[TrajectoryGroup]) -> int:
    """Tokens that were sampled for the groups: of every episode, greedy and discarded ones included.

    The turns that a fork repeats from the episode that it continues count once, in that episode.
    """
    return sum(t.num_sampled_tokens for group in groups for t in group.trajectories)


def _means(groups: Sequence[TrajectoryGroup]) -> dict[str, float]:
    episodes = [t for group in groups for t in group.trajectories if t.labels.mode != "greedy"]
    scored = [t for t in episodes if t.trains]
    count = max(len(scored), 1)
    return {
        **{f"rollout/{name}": value for name, value in _scores(groups).items()},
        "rollout/turns_mean": sum(len(t.turns) for t in scored) / count,
        "rollout/tokens_mean": sum(t.num_sampled_tokens for t in scored) / count,
        "rollout/truncated": sum(t.status == "truncated" for t in scored) / count,
        "rollout/faults": float(len(episodes) - len(scored)),
        "rollout/episodes": float(len(episodes)),
        "rollout/tokens": float(sampled_tokens(groups)),
        "rollout/groups_equal": float(sum(not differs(g) for g in groups)) / max(len(groups), 1),
        "rollout/prompt_information": prompt_information(groups),
        **group_kinds(groups),
        **endings(episodes),
        **discards(episodes),
    }
