"""The curriculum: which tasks are drawn from which pass rates, and that a resumed source draws the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

import pytest

from agentrl.messages import Action
from agentrl.rollout.sources.curriculum import Curriculum, CurriculumGroups, PassRates
from agentrl.trajectory import Ending, EnvRef, Task, Trajectory, TrajectoryGroup, Turn

TASKS = [Task(f"t{number}", data={}) for number in range(6)]
ODDS = {"t0": 0.0, "t1": 0.25, "t2": 0.5, "t3": 0.75, "t4": 1.0, "t5": 1.0}


class Played:
    """Rollouts whose groups have a fixed pass rate for each task; four episodes a group."""

    def __init__(self, odds: Mapping[str, float | None]) -> None:
        self.odds = dict(odds)

    async def run(self, requests, *, judged):
        return [self._group(request) for request in requests]

    def _group(self, request):
        odds = self.odds[request.task.id]
        kind = "fault" if odds is None else "answer"
        episodes = [
            Trajectory(
                EnvRef("test/T-v0"),
                request.task,
                request.seed,
                [Turn((), Action("x"), float(i < 4 * (odds or 0.0)))],
                Ending(kind),
            )
            for i in range(4)
        ]
        return TrajectoryGroup(request.group_id, episodes)


def source(odds: Mapping[str, float | None] = ODDS, **settings) -> CurriculumGroups:
    more = {"group_size": 4, "seed": 3}
    return CurriculumGroups(Played(odds), EnvRef("test/T-v0"), TASKS, curriculum=Curriculum(**settings), **more)


async def names(of: CurriculumGroups, *counts: int) -> list[list[str]]:
    return [[group.trajectories[0].task.id for group in await of.take(count)] for count in counts]


async def test_without_exploration_only_the_band_is_played_once_it_is_known() -> None:
    made = source(explore=0.0)
    first, *later = await names(made, 6, *[3] * 20)
    assert sorted(first) == [task.id for task in TASKS]
    assert {tuple(sorted(step)) for step in later} == {("t1", "t2", "t3")}


async def test_exploration_plays_what_was_played_longest_ago() -> None:
    made = source(explore=1.0)
    first, second = await names(made, 6, 6)
    assert second == first


async def test_half_of_the_draws_explore() -> None:
    made = source(explore=0.5)
    await made.take(6)
    drawn = Counter(name for (name,) in await names(made, *[1] * 400))
    inside = sum(drawn[name] for name in ("t1", "t2", "t3"))
    assert 0.65 < inside / 400 < 0.85  # a half, and half of what explores
    assert set(drawn) == set(ODDS)


async def test_tasks_that_come_into_the_band_are_played() -> None:
    made = source(explore=0.0, update=1.0)
    await made.take(6)
    made._rollouts.odds |= {"t1": 1.0, "t2": 1.0, "t3": 1.0}
    await made.take(3)  # they leave the band
    assert len(set((await names(made, 6))[0])) == 6  # so that all are tried again
    made._rollouts.odds["t0"] = 0.5
    await made.take(6)
    assert await names(made, 1, 1) == [["t0"], ["t0"]]


def test_a_pass_rate_is_a_running_mean_in_the_order_of_the_draws() -> None:
    """By hand, with weight 1/2: 1, then (1 + 0) / 2, then (1/2 + 1/2) / 2."""
    rates = PassRates(TASKS[:1], Curriculum(update=0.5), seed=0)
    for number in range(3):
        rates.draw(number)
    for number, rate in ((2, 0.5), (0, 1.0), (1, 0.0)):
        rates.ended(number, rate)
    assert rates.state_dict() == {"fresh": 1, "seen": {"t0": [0.5, 2]}}
    rates.draw(3)
    rates.ended(3, None)
    assert rates.state_dict()["seen"] == {"t0": [0.5, 3]}


async def test_a_group_of_faults_is_no_pass_rate() -> None:
    made = source({**ODDS, "t2": None}, explore=0.0)
    (first,) = await names(made, 6)
    assert "t2" in first
    assert {name for step in await names(made, *[2] * 20) for name in step} == {"t1", "t3"}


async def test_a_resumed_source_draws_the_same_tasks() -> None:
    made = source()
    await made.take(4)
    await made.take(4)
    state = json.loads(json.dumps(made.state_dict()))
    again = source()
    again.load_state_dict(state)
    expected = await names(made, *[3] * 15)
    assert await names(again, *[3] * 15) == expected
    forgetful = source()
    forgetful.load_state_dict({**state, "rates": {"fresh": 0, "seen": {}}})
    assert await names(forgetful, *[3] * 15) != expected


def test_a_band_upside_down_is_refused() -> None:
    with pytest.raises(ValueError, match="lowest, highest"):
        Curriculum(band=(0.8, 0.2))
