"""What the credit meter plays: episodes whose every state is continued many times. Owns the true advantages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agentrl.config import Count
from agentrl.errors import RolloutError
from agentrl.learning.credit.base import Floats
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.sources.forked import request_of
from agentrl.seeds import Purpose, integer
from agentrl.trajectory import Task, Trajectory, TrajectoryGroup

Truth = Callable[[Trajectory, int], float]
"""The exact advantage of a turn of an episode, where it is known in closed form."""


@dataclass(frozen=True)
class MeterSettings:
    """How much the credit meter plays.

    Attributes:
        group_size: episodes of a group, as the estimators see them.
        continuations: episodes that are played on from each state, a quarter for each use: twice to measure its value,
            and twice to draw estimators' groups from.
        draws: groups that are put together anew for each turn, half of them from each quarter.
        forks: continuations of each state that forked credit gets.
        most_turns: turns that are measured of an episode, spread over it.
    """

    group_size: Count = 8
    continuations: Count = 32
    draws: Count = 16
    forks: Count = 2
    most_turns: Count = 8

    def __post_init__(self) -> None:
        if self.quarter < self.forks + 1:
            raise ValueError(
                f"continuations must be at least {4 * (self.forks + 1)}, got {self.continuations}: forked credit draws "
                f"{self.forks} and an episode from a quarter of them"
            )
        if self.draws < 4:
            raise ValueError(f"draws must be 4 or more, got {self.draws}: their spread is measured")
        if self.group_size < 2:
            raise ValueError(f"group_size must be 2 or more, got {self.group_size}: most estimators compare episodes")

    @property
    def quarter(self) -> int:
        """Continuations of a state for one of their four uses."""
        return self.continuations // 4


Folds = tuple[Sequence[Trajectory], Sequence[Trajectory]]
"""Two sets of episodes that are independent of each other given where they begin."""


@dataclass(frozen=True)
class State:
    """Episodes that pass through the state before a turn; all of them are independent given the state.

    Attributes:
        turn: number of the turn; that of the last turn plus one is the end, whose value is 0.
        truth: they measure its value, twice.
        chances: estimators draw from them, from one fold at a time.
    """

    turn: int
    truth: Folds = ((), ())
    chances: Folds = ((), ())

    def value(self, fold: int) -> float:
        """The mean return from the state on, as one fold measures it."""
        return float(returns_from(self.truth[fold], self.turn).mean()) if self.truth[fold] else 0.0


@dataclass(frozen=True)
class Sample:
    """An episode, what became of others of its task, and the states that it went through.

    Attributes:
        episode: whose turns are judged.
        greedy: an episode at temperature 0.
        turns: which are measured.
        states: by turn, those before and after each measured turn.
    """

    episode: Trajectory
    greedy: Trajectory
    turns: Sequence[int]
    states: dict[int, State]

    def others(self, fold: int) -> Sequence[Trajectory]:
        """Episodes of the same task from the beginning, from which groups are put together."""
        return self.states[0].chances[fold]

    def advantage(self, turn: int, fold: int) -> float:
        """The reward of a turn, plus the value after it, minus the value before it, as one fold measures them."""
        return self.episode.turns[turn].reward + self.states[turn + 1].value(fold) - self.states[turn].value(fold)


def returns_from(episodes: Sequence[Trajectory], turn: int) -> Floats:
    """(episodes,) what each earned from a turn on."""
    return np.array([sum(t.reward for t in episode.turns[turn:]) for episode in episodes], np.float64)


async def play(rollouts: Rollouts, tasks: Sequence[Task], settings: MeterSettings, seed: int) -> list[Sample]:
    """Play one measured episode of each task, and the continuations of its states.

    A task is left out where faults leave too few episodes.

    Raises: RolloutError if no task is left; as `Rollouts.run`.
    """
    size = 1 + 2 * settings.quarter + 2 * max(settings.quarter, settings.group_size)
    requests = [
        GroupRequest(task, integer(seed, Purpose.GROUPS, n), size, f"{n}", greedy=True) for n, task in enumerate(tasks)
    ]
    samples = [made for group in await rollouts.run(requests) if (made := _begun(group, settings)) is not None]
    wanted = [(sample, turn) for sample in samples for turn in _forked(sample)]
    played = await rollouts.run([request_of(sample.episode, turn, 4 * settings.quarter) for sample, turn in wanted])
    for (sample, turn), group in zip(wanted, played, strict=True):
        sample.states[turn] = _state(turn, [t for t in group.trajectories if t.trains], settings.quarter)
    whole = [sample for sample in samples if _is_whole(sample, settings)]
    if not whole:
        raise RolloutError(f"none of {len(tasks)} tasks can be measured: too many of their episodes were discarded")
    return whole


def _begun(group: TrajectoryGroup, settings: MeterSettings) -> Sample | None:
    """The sample of a task with its first state and its end; None if an episode or the greedy one is missing."""
    trained = [t for t in group.trajectories if t.trains and t.turns]
    greedy = next((t for t in group.trajectories if t.labels.mode == "greedy" and t.status != "fault"), None)
    if not trained or greedy is None:
        return None
    episode, *others = trained
    end = len(episode.turns)
    turns = sorted({round(place) for place in np.linspace(0, end - 1, min(end, settings.most_turns))})
    return Sample(episode, greedy, turns, {0: _state(0, others, settings.quarter), end: State(end)})


def _forked(sample: Sample) -> list[int]:
    """The turns in whose states measured turns begin or end; without the first state and the end."""
    return sorted({t + after for t in sample.turns for after in (0, 1)} - sample.states.keys())


def _state(turn: int, episodes: Sequence[Trajectory], quarter: int) -> State:
    """Episodes dealt out to the folds; the estimators' get what is left over."""
    left = episodes[2 * quarter :]
    return State(turn, (episodes[:quarter], episodes[quarter : 2 * quarter]), (left[::2], left[1::2]))


def _is_whole(sample: Sample, settings: MeterSettings) -> bool:
    """Whether each state has enough episodes in every fold."""
    end = len(sample.episode.turns)
    inner = [state for turn, state in sample.states.items() if turn < end]
    measured = all(len(fold) > 0 for state in inner for fold in state.truth)
    drawn = all(len(fold) > settings.forks for state in inner for fold in state.chances)
    return measured and drawn and all(len(sample.others(fold)) >= settings.group_size for fold in (0, 1))


def as_own(trajectory: Trajectory) -> Trajectory:
    """A continuation as an episode of its own, which estimators that know no forks can judge."""
    return replace(trajectory, fork=None)
