"""Groups that are there already: what belongs together, the order, resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentrl.errors import ConfigError
from agentrl.messages import Action, Message
from agentrl.rollout.sources.recorded import Recorded
from agentrl.rollout.sources.stored import Listed, Stored
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, TrajectoryGroup, Turn
from tests.rollout.sources.players import ids_of


def episode(task: str, reward: float, text: str = "hi", step: int = 1) -> Trajectory:
    turn = Turn(
        (Message("user", text),), Action("x", prompt_ids=(1,), token_ids=(2, 3), logprobs=(-0.5, -0.25)), reward
    )
    return Trajectory(
        EnvRef("e"), Task(task), 0, [turn], Ending("answer"), task, f"{task}/{reward}", Labels("rl", step)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Episodes of three tasks that ended interleaved, over two steps; one began with another message."""
    with TrajectoryStore(tmp_path / "trajectories.jsonl") as store:
        for found in (
            episode("1", 1.0),
            episode("0", 2.0),
            episode("0", 3.0),
            episode("1", 4.0, step=2),
            episode("1", 5.0, "ho"),
            episode("2", 6.0),
        ):
            store.append(found)
    return tmp_path


def stored(path: Path) -> Stored:
    return Stored([Recorded(str(path))])


async def test_episodes_that_began_alike_are_a_group_whatever_their_step(path: Path) -> None:
    groups = await stored(path).take(4)
    assert [(g.group_id, g.rewards) for g in groups] == [
        ("1", [1.0, 4.0]),
        ("0", [2.0, 3.0]),
        ("1", [5.0]),
        ("2", [6.0]),
    ]
    assert groups[0].trajectories[0].turns[0].action.logprobs == (-0.5, -0.25)


async def test_they_come_over_and_over(path: Path) -> None:
    assert await ids_of(stored(path), [2, 5]) == ["1", "0", "1", "2", "1", "0", "1"]


async def test_calls_may_overlap_and_a_saved_state_goes_on(path: Path) -> None:
    source = stored(path)
    first, second = source.take(2), source.take(2)
    assert [g.rewards for g in await second] == [[5.0], [6.0]]
    assert [g.rewards for g in await first] == [[1.0, 4.0], [2.0, 3.0]]
    source.take(1).close()  # type: ignore[attr-defined]
    resumed = stored(path)
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
    assert [g.rewards for g in await resumed.take(1)] == [[2.0, 3.0]]


async def test_a_place_in_other_data_is_refused(path: Path) -> None:
    place = stored(path).state_dict()
    with TrajectoryStore(path / "trajectories.jsonl") as store:
        store.append(episode("3", 7.0))
    with pytest.raises(ConfigError, match="has changed"):
        stored(path).load_state_dict(place)


async def test_a_seed_gives_a_new_order_each_time_and_a_place_goes_on_in_it() -> None:
    groups = [TrajectoryGroup(str(number), []) for number in range(6)]
    source = Listed(groups, seed=3)
    first, second = await ids_of(source, [6]), await ids_of(source, [6])
    assert sorted(first) == sorted(second) == list("012345")
    assert len({tuple(first), tuple(second), tuple("012345")}) == 3
    resumed = Listed(groups, seed=3)
    resumed.load_state_dict({"next": 4, "data": ""})
    assert await ids_of(resumed, [8]) == [*first, *second][4:12]
