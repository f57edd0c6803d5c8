"""What an author returns: numbers of numpy, texts that are none, circular results."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import BeforeValidator

from agentrl.env.rubric import Rubric
from agentrl.env.tool_env import call
from agentrl.errors import EnvFault
from agentrl.messages import Message
from agentrl.tool_schema import tool
from tests.env.desk import Desk, begun


def test_rewards_and_success_may_be_numpys():
    class Counted(Desk):
        @tool
        def add(self, n: int = 1) -> object:
            """Add."""
            self.add_reward("neat", np.bool_(True))
            return np.int64(n)

        def score(self, answer):
            self.success = np.bool_(True)
            return {"right": np.float32(1.0), "neat": np.int64(2)}

    env = begun(Counted)
    observation, reward, *_ = env.step(call("add"))
    assert (observation[0].content, reward) == ("1", 0.25)
    _, reward, _, _, info = env.step("3")
    assert (reward, info["success"], info["reward_components"]) == (1.5, True, {"right": 1.0, "neat": 2.0})
    assert [type(value) for value in (reward, info["success"], *info["reward_components"].values())] == [
        *(float, bool, float, float)
    ]


def test_a_score_may_be_one_number_of_numpys():
    class Scored(Desk):
        rubric = Rubric()

        def score(self, answer):
            return np.float64(0.5)

    assert begun(Scored).step("3")[1] == 0.5


def test_a_start_or_a_reply_that_is_no_text_is_named():
    class Odd(Desk):
        def respond(self, text):
            return 3

    class OddMessage(Desk):
        def start(self, task):
            return Message("user", 3)  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="respond must return text or None, got int"):
        begun(Odd).step("x")
    with pytest.raises(TypeError, match="start returned a message whose content is int, not text"):
        OddMessage().reset(seed=0)


def shut(value: Any) -> Any:
    raise LookupError("closed")


def test_a_validator_of_the_authors_that_raises_is_named():
    class Guarded(Desk):
        @tool
        def look(self, where: Annotated[str, BeforeValidator(shut)]) -> str:
            """Look."""
            return where

    with pytest.raises(EnvFault, match="a validator of tool 'look' raised LookupError: closed"):
        begun(Guarded).step(call("look", where="up"))


def test_a_circular_result_is_a_fault_that_says_so():
    class Round(Desk):
        @tool
        def look(self) -> list[Any]:
            """Look."""
            found: list[Any] = []
            found.append(found)
            return found

    with pytest.raises(EnvFault, match=r"tool 'look' raised ValueError: the result, a list, has .*itself"):
        begun(Round).step(call("look"))
