"""A policy that has its losing episodes discarded gains nothing where pass rates decide.

Each pass rate is asked about two groups: in one a losing episode is scored, in the other it was discarded after the
model had acted. They must say the same. An episode that was discarded before says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from agentrl.bench.measures.success import PassAt, SuccessOfAttempted, pass_hat_of_attempted
from agentrl.bench.verdicts import signs_of
from agentrl.learning.credit.base import pass_rate
from agentrl.messages import Action
from agentrl.rollout.sources.base import Source
from agentrl.rollout.sources.curriculum import pass_rate_of
from agentrl.rollout.sources.levels import LevelGroups, Levels
from agentrl.training.stages.health import group_kinds
from agentrl.training.stages.playing import rollout_metrics
from agentrl.training.stages.reinforce import Reinforce, _ReinforceStage
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, TrajectoryGroup, Turn, counted_successes

LOST = Ending("fault", "EnvFault: the tool's server is gone", "server")


def episode(reward: float, ending: Ending = Ending("answer"), **more: Any) -> Trajectory:  # noqa: B008 (frozen)
    return Trajectory(EnvRef("x"), Task("a"), 0, [Turn((), Action("so"), reward)], ending, **more)


WON, FAILED = episode(1.0), episode(0.0)
ASKED_ANEW = episode(1.0, labels=Labels(asked_anew=True))
NEVER_BEGAN = replace(FAILED, turns=[], ending=LOST)
GREEDY = episode(0.0, LOST, labels=Labels(mode="greedy"))
DISCARDED = episode(0.0, LOST)


def group(*episodes: Trajectory) -> TrajectoryGroup:
    return TrajectoryGroup("g", list(episodes))


HONEST = group(WON, WON, WON, FAILED)
LOSES = group(WON, WON, WON, DISCARDED)


def test_what_counts_is_what_the_model_acted_in() -> None:
    assert counted_successes([WON, FAILED, DISCARDED, ASKED_ANEW]) == [True, False, False, False]
    assert counted_successes([NEVER_BEGAN, GREEDY, replace(WON, labels=Labels(mode="greedy"))]) == []


def metrics(groups: Sequence[TrajectoryGroup]) -> float:
    return rollout_metrics(groups)["rollout/success_of_attempted"]


def pass_hat(groups: Sequence[TrajectoryGroup]) -> float:
    return pass_hat_of_attempted([t for g in groups for t in g.trajectories], 4).mean


def of_all(measure: Any) -> Callable[[Sequence[TrajectoryGroup]], tuple[float, int]]:
    def found(groups: Sequence[TrajectoryGroup]) -> tuple[float, int]:
        estimate = measure([t for g in groups for t in g.trajectories])
        return estimate.mean, estimate.n

    return found


RATES: dict[str, Callable[[Sequence[TrajectoryGroup]], Any]] = {
    "curriculum, levels and mixtures": lambda groups: [pass_rate_of(g) for g in groups],
    "pass_rate_band": lambda groups: [pass_rate(g) for g in groups],
    "rollout/groups_*": group_kinds,
    "rollout/success_of_attempted": metrics,
    "pass@1": of_all(PassAt(1)),
    "pass@4": of_all(PassAt(4)),
    "pass^4 of attempted": pass_hat,
    "success of attempted": of_all(SuccessOfAttempted()),
}


@pytest.mark.parametrize("name", RATES)
def test_a_discarded_episode_counts_as_the_failure_that_it_hides(name: str) -> None:
    rate = RATES[name]
    assert rate([LOSES]) == rate([HONEST])
    assert name == "pass@4" or rate([LOSES]) != rate([group(WON, WON, WON, WON)]), "the failure is seen at all"


@pytest.mark.parametrize("rate", [lambda groups: [pass_rate_of(g) for g in groups], group_kinds, metrics])
def test_what_was_discarded_before_the_first_action_changes_nothing(rate: Callable[..., Any]) -> None:
    assert rate([group(WON, WON, NEVER_BEGAN)]) == rate([group(WON, WON)])


def test_the_band_of_a_stage_sees_what_was_discarded_and_trains_on_what_was_not() -> None:
    stage = object.__new__(_ReinforceStage)
    stage._settings = Reinforce(pass_rate_band=(0.5, 0.8))
    (kept,) = stage._shaped([LOSES, group(WON, WON, WON, WON)])
    assert kept.trajectories == [WON, WON, WON]


class Same(Source):
    """The same group, over and over."""

    def __init__(self, given: TrajectoryGroup) -> None:
        self.given = given

    def take(self, n: int) -> Any:
        async def groups() -> list[TrajectoryGroup]:
            return [self.given] * n

        return groups()

    def state_dict(self) -> Any:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass


async def test_a_level_is_not_passed_by_losing_the_others() -> None:
    for given, level in ((LOSES, 0), (group(WON, WON, WON, WON), 1)):
        source = LevelGroups([Same(given), Same(given)], Levels((1, 2), pass_rate=0.9, groups=2))
        for _ in range(3):
            await source.take(1)
        assert source.state_dict()["level"] == level


def test_what_is_said_of_a_run_reads_the_rate_of_all_attempted() -> None:
    lines = [{"stage": "rl", "rollout/success": 1.0, "rollout/success_of_attempted": 0.25}]
    after = {"mean": 1.0, "ci95": [0.9, 1.0], "success_of_attempted": {"mean": 0.5, "ci95": [0.4, 0.6]}}
    signs = signs_of(lines, {"after": {"sampled": after}})
    assert (signs.trained, signs.held_out, signs.held_out_high) == (0.25, 0.5, 0.6)
    assert signs_of([{"stage": "rl", "rollout/success": 0.75}], {}).trained == 0.75, "of an older run"
