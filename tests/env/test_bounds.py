"""What bounds an episode and a turn: limits, and the size of results."""

from __future__ import annotations

import pytest

from agentrl.env.base import Limits
from agentrl.env.registry import make
from agentrl.errors import ConfigError, ToolError
from agentrl.messages import ToolCall
from agentrl.tool_schema import tool
from tests.env.test_toolbox import Desk, told


@pytest.mark.parametrize("bad", [0, -1, "5", 2.5, True])
def test_limits_that_are_no_limits_are_refused(bad):
    with pytest.raises(ValueError, match="max_turns must be a whole number from 1 on, or None"):
        Limits(max_turns=bad)
    with pytest.raises(ConfigError, match="max_turns must be a whole number"):
        make("agentrl/Shop-v0", max_turns=bad)
    with pytest.raises(ValueError, match="max_wall_s"):
        Limits(max_wall_s="1" if bad == "5" else -1)


class Loud(Desk):
    """Says much."""

    max_calls_per_turn = 3
    max_result_chars = 10

    @tool
    def say(self, n: int) -> str:
        """Says."""
        return "x" * n

    @tool
    def complain(self) -> str:
        """Complains."""
        raise ToolError("y" * 50)

    @tool
    async def wait(self, n: int) -> str:
        """Says later."""
        return "x" * n


def test_a_result_and_the_results_of_a_turn_are_cut():
    env = Loud()
    env.reset(seed=0)
    assert told(env, ToolCall("say", {"n": 10})) == ["x" * 10]
    assert told(env, ToolCall("say", {"n": 11})) == ["x" * 10 + " [cut off: 10 of 11 characters]"]
    assert told(env, ToolCall("complain")) == ["Error: yyy [cut off: 10 of 57 characters]"]
    calls = [ToolCall("wait", {"n": 99}, f"c{i}") for i in range(5)]
    answers = told(env, *calls)
    assert [text[:10] for text in answers[:3]] == ["x" * 10] * 3
    assert answers[3] == "Error: thi [cut off: 10 of 95 characters]"
    assert len("".join(answers)) < 400
    env.close()


def test_sixteen_results_of_twenty_megabytes_stay_small():
    class Huge(Desk):
        @tool
        def dump(self) -> str:
            """Everything."""
            return "z" * 20_000_000

    env = Huge()
    env.reset(seed=0)
    answers = told(env, *[ToolCall("dump", {}, f"c{i}") for i in range(16)])
    assert sum(map(len, answers)) < 410_000
