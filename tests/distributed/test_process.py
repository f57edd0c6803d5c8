"""What a sampling process sends home, whatever an author's code has put into it."""

from __future__ import annotations

import pickle

from agentrl.distributed.child import portable
from agentrl.distributed.process import packed_group
from agentrl.errors import EnvFault, RolloutError
from agentrl.messages import Action
from agentrl.trajectory import EnvRef, Task, Trajectory, TrajectoryGroup, Turn


def group(info: dict[str, object]) -> TrajectoryGroup:
    turns = [Turn((), Action("x", token_ids=(1, 2), logprobs=(-0.25, float("-inf")), versions=(3, 4)))]
    return TrajectoryGroup("g", [Trajectory(EnvRef("e"), Task("t"), 0, turns, info=info)])


def test_a_group_comes_home_as_it_is() -> None:
    given = group({"success": True, "score": float("inf")})
    assert pickle.loads(packed_group(given)) == given


def test_info_that_cannot_be_pickled_comes_home_as_a_record_holds_it() -> None:
    found = pickle.loads(packed_group(group({"success": True, "callback": lambda: None})))
    assert found.trajectories[0].success
    assert "function" in str(found.trajectories[0].info["callback"])


def test_an_error_comes_home_with_its_class_and_says_where_it_was_raised() -> None:
    try:
        raise EnvFault("the server is gone", who="network")
    except EnvFault as error:
        found = pickle.loads(pickle.dumps(portable(error)))
    assert isinstance(found, EnvFault)
    assert found.at == "network"
    assert "test_process.py" in found.__notes__[0]


def test_an_error_that_cannot_be_pickled_comes_home_in_words() -> None:
    class Odd(Exception):
        pass

    found = portable(Odd("strange"))
    assert isinstance(found, RolloutError)
    assert str(found) == "Odd: strange"
