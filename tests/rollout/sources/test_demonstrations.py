"""Demonstrations: a function of the seed, and resumed by state."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from agentrl.env import registry
from agentrl.errors import ConfigError
from agentrl.rollout.sources.demonstrations import Demonstrations, check_demonstrators
from agentrl.trajectory import EnvRef, Labels, TrajectoryGroup

REF = EnvRef("agentrl/Calculator-v0")
SHARES = {"oracle": 0.5, "hasty": 0.5}
TASKS = registry.make(REF).tasks.split("train")[:4]


def demonstrations(seed: int = 1, max_concurrency: int = 64) -> Demonstrations:
    return Demonstrations(
        REF,
        TASKS,
        SHARES,
        seed=np.random.SeedSequence(seed),
        labels=Labels("copy"),
        max_concurrency=max_concurrency,
    )


def played(groups: list[TrajectoryGroup]) -> list[Any]:
    return [(g.group_id, t.task.id, t.seed, t.messages()) for g in groups for t in g.trajectories]


async def test_the_same_seed_gives_the_same_episodes_whatever_runs_at_once() -> None:
    groups = await demonstrations().take(10)
    assert played(await demonstrations(max_concurrency=1).take(10)) == played(groups)
    assert played(await demonstrations(seed=2).take(10)) != played(groups)


async def test_tasks_repeat_with_other_seeds_and_both_demonstrators_play() -> None:
    groups = await demonstrations().take(8)
    episodes = [t for group in groups for t in group.trajectories]
    assert Counter(t.task.id for t in episodes) == dict.fromkeys((task.id for task in TASKS), 2)
    assert len({t.seed for t in episodes}) == 8
    assert {(t.labels.stage, t.labels.mode, t.env.id) for t in episodes} == {("copy", "demonstration", REF.id)}
    assert [g.group_id for g in groups] == [f"demo-{number}" for number in range(8)]
    assert {t.success for t in episodes} == {True, False}


async def test_a_saved_state_goes_on_with_the_same_episodes() -> None:
    source = demonstrations()
    first, second = source.take(3), source.take(6)
    state = json.loads(json.dumps(source.state_dict()))
    await second, await first
    later = played(await source.take(4))
    for resumed in (demonstrations(), source):  # a source that was in use goes back to the place, too
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert played(await resumed.take(4)) == later


@pytest.mark.parametrize(
    ("shares", "message"),
    [({"oracel": 1.0}, r"key: Calculator has no method 'oracel'.*oracle"), ({"oracle": 0.0}, r"key\.oracle must be")],
)
def test_what_no_demonstrator_can_play_is_refused(shares: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_demonstrators(registry.make(REF), shares, "key")
