"""Recorded groups: what belongs together, what is left out, resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentrl.errors import ConfigError, StoreError
from agentrl.messages import Action
from agentrl.rollout.sources.stored import Stored, check_stored
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import EnvRef, Labels, Task, Trajectory, Turn
from tests.rollout.sources.players import ids_of


def episode(group: str, number: int, reward: float, labels: Labels) -> Trajectory:
    turn = Turn((), Action("x", prompt_ids=(1,), token_ids=(2, 3), logprobs=(-0.5, -0.25)), reward)
    return Trajectory(EnvRef("e"), Task("t"), 0, [turn], group_id=group, episode_id=f"{group}/{number}", labels=labels)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two steps of `rl` with groups that ended interleaved, a superseded attempt, and an evaluation."""
    rl, again = Labels("rl", 1), Labels("rl", 1, superseded=True)
    with TrajectoryStore(tmp_path / "trajectories.jsonl") as store:
        store.append(episode("1", 0, 1.0, rl))
        store.append(episode("0", 0, 2.0, rl))
        store.append(episode("0", 1, 99.0, again))
        store.append(episode("0", 1, 3.0, Labels("rl", 1, attempt=1)))
        store.append(episode("1", 1, 4.0, rl))
        store.append(episode("0", 0, 5.0, Labels("rl", 2)))
        store.append(episode("0", 0, 6.0, Labels("eval", 1, "greedy")))
    return tmp_path / "trajectories.jsonl"


async def test_groups_of_a_step_come_in_the_order_of_their_first_episodes(path: Path) -> None:
    groups = await Stored(path, "rl").take(3)
    assert [(g.group_id, g.rewards) for g in groups] == [("1", [1.0, 4.0]), ("0", [2.0, 3.0]), ("0", [5.0])]
    assert groups[0].trajectories[0].turns[0].action.logprobs == (-0.5, -0.25)


async def test_without_a_stage_every_stage_is_read(path: Path) -> None:
    assert [g.rewards for g in await Stored(path).take(4)] == [[1.0, 4.0], [2.0, 3.0], [5.0], [6.0]]


async def test_they_come_over_and_over(path: Path) -> None:
    assert await ids_of(Stored(path, "rl"), [2, 5]) == ["1", "0", "0", "1", "0", "0", "1"]


async def test_calls_may_overlap_and_a_saved_state_goes_on(path: Path) -> None:
    source = Stored(path, "rl")
    first, second = source.take(2), source.take(1)
    assert [g.rewards for g in await second] == [[5.0]]
    assert [g.rewards for g in await first] == [[1.0, 4.0], [2.0, 3.0]]
    resumed = Stored(path, "rl")
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
    assert [g.rewards for g in await resumed.take(1)] == [[1.0, 4.0]]


def test_a_store_without_such_episodes_is_refused(path: Path) -> None:
    with pytest.raises(StoreError, match="holds no episodes of stage 'lr'"):
        Stored(path, "lr")
    with pytest.raises(StoreError, match="there is no store at"):
        Stored(path.with_name("absent.jsonl"))
    with pytest.raises(ConfigError, match=r"stages\.dpo\.store: there is no store at"):
        check_stored(path.with_name("absent.jsonl"), None, "stages.dpo.store")
    check_stored(path, "rl", "stages.dpo.store")
