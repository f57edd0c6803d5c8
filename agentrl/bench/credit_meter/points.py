"""What an estimator says of single turns, on groups that are put together from played episodes again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from agentrl.bench.credit_meter.samples import MeterSettings, Sample, Truth, as_own
from agentrl.learning.credit.base import Credit, Floats
from agentrl.trajectory import Trajectory, TrajectoryGroup

_CONTEXT = 7  # other groups of the step, for estimators that normalise over it


@dataclass(frozen=True)
class Point:
    """A measured turn, and an estimator's advantages of it. Its folds are independent of each other.

    Attributes:
        task: number of the task, within which points depend on each other.
        truth: (2 folds,) the true advantage, measured twice.
        estimates: (2, draws) advantages of the same action in groups that are otherwise drawn anew.
        of_state: (2, draws) advantages of actions that the policy drew anew in the same state.
        tokens: sampled tokens that the estimator needs for each turn of an episode that it judges.
    """

    task: int
    truth: Floats
    estimates: Floats
    of_state: Floats
    tokens: float


def points_of(
    credit: Credit, samples: Sequence[Sample], settings: MeterSettings, *, seed: int, truth: Truth | None = None
) -> list[Point]:
    """The measured turns with the estimator's advantages.

    Args:
        credit: one that needs no predicted returns.
        seed: of the draws; the same for each estimator, so that they judge the same groups.
        truth: exact advantages, in place of measured ones.
    Raises: ValueError if the estimator needs predicted returns.
    """
    if credit.needs_values:
        raise ValueError(f"{type(credit).__name__} needs a value head, which a policy alone does not have")
    points = []
    for number, sample in enumerate(samples):
        steps = [_Step(credit, samples, number, settings, fold) for fold in (0, 1)]
        for turn in sample.turns:
            rng = np.random.default_rng((seed, number, turn))
            draws = range(settings.draws // 2)
            estimates = np.array([[step.of_action(turn, rng) for _ in draws] for step in steps])
            of_state = np.array([[step.of_state(turn, rng) for _ in draws] for step in steps])
            true = [sample.advantage(turn, fold) if truth is None else truth(sample.episode, turn) for fold in (0, 1)]
            points.append(Point(number, np.array(true), estimates, of_state, steps[0].tokens()))
    return points


class _Step:
    """Steps of an estimator around one sample: its group, put together from a fold, and groups of other tasks."""

    def __init__(
        self, credit: Credit, samples: Sequence[Sample], number: int, settings: MeterSettings, fold: int
    ) -> None:
        self._credit, self._sample, self._settings, self._fold = credit, samples[number], settings, fold
        self._others = samples[number].others(fold)
        around = [samples[(number + offset) % len(samples)] for offset in range(1, min(_CONTEXT + 1, len(samples)))]
        local = credit.compares or credit.reads_forks
        self._context = [] if local else [self._group(s, list(s.others(fold)[: settings.group_size])) for s in around]

    def of_action(self, turn: int, rng: np.random.Generator) -> float:
        """The advantage of the measured turn: what comes after it, and the rest of the group, are drawn."""
        after = self._sample.states[turn + 1]
        drawn = _some(after.chances[self._fold], 1, rng)
        episode = as_own(drawn[0]) if drawn else self._sample.episode
        forks: list[Trajectory] = []
        if self._credit.reads_forks:
            for state in (self._sample.states[turn], after):
                if 0 < state.turn < len(self._sample.episode.turns):
                    free = [t for t in state.chances[self._fold] if not any(t is one for one in drawn)]
                    own = _some(free, self._settings.forks, rng)
                    forks += [replace(t, fork=(episode.episode_id, state.turn)) for t in own]
        return self._judged(episode, turn, _some(self._others, self._settings.group_size - 1, rng), forks)

    def of_state(self, turn: int, rng: np.random.Generator) -> float:
        """The advantage of an action that the policy drew in the state before the measured turn."""
        before = self._sample.states[turn].chances[self._fold]
        if turn == 0:
            episode, *others = _some(self._others, self._settings.group_size, rng)
            return self._judged(episode, turn, others, [])
        drawn, *own = _some(before, 1 + self._settings.forks, rng)
        episode = as_own(drawn)
        forks = [replace(t, fork=(episode.episode_id, turn)) for t in own] if self._credit.reads_forks else []
        return self._judged(episode, turn, _some(self._others, self._settings.group_size - 1, rng), forks)

    def tokens(self) -> float:
        """Sampled tokens for each turn of an episode of the group.

        Forked credit forks every turn here; that its continuations train too is not counted in its favour.
        """
        sample, size = self._sample, self._settings.group_size
        own = float(sample.episode.num_sampled_tokens)
        if self._credit.needs_greedy:
            own += sample.greedy.num_sampled_tokens / size
        if self._credit.reads_forks:
            inner = [s for s in sample.states.values() if 0 < s.turn < len(sample.episode.turns)]
            mean = [float(np.mean([t.num_sampled_tokens for t in s.chances[self._fold]])) for s in inner]
            own += self._settings.forks * float(np.mean(mean or [0.0])) * (len(sample.episode.turns) - 1)
        return own / len(sample.episode.turns)

    def _judged(
        self, episode: Trajectory, turn: int, others: Sequence[Trajectory], forks: Sequence[Trajectory]
    ) -> float:
        group = self._group(self._sample, [episode, *others, *forks])
        return float(self._credit([group, *self._context], None).advantages[0][0][turn])

    def _group(self, sample: Sample, members: list[Trajectory]) -> TrajectoryGroup:
        greedy = [sample.greedy] if self._credit.needs_greedy else []
        return TrajectoryGroup(sample.episode.group_id, [*members, *greedy])


def _some(episodes: Sequence[Trajectory], count: int, rng: np.random.Generator) -> list[Trajectory]:
    """Up to `count` episodes, none twice."""
    if not episodes:
        return []
    return [episodes[int(i)] for i in rng.choice(len(episodes), min(count, len(episodes)), replace=False)]
