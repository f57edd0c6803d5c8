"""`agentrl play`: reading lines, and whole episodes through a pipe."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from agentrl.cli import main
from agentrl.cli.play import play_episode, read_line, usage
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import ToolError
from agentrl.tool_schema import tool
from agentrl.trajectory import Task


class Till(ToolEnv):
    """Add up what things cost."""

    tasks = Tasks.of(train=[{"price": 3}], eval=[{"price": 5}])

    async def start(self, task: Task) -> str:
        self.price_of_tea = task.data["price"]
        return "What do two teas cost?"

    @tool
    def price(self, item: str, count: int = 1) -> int:
        """Price of an item.

        Args:
            item: what to buy.
            count: how many.
        """
        if item != "green tea":
            raise ToolError(f"no {item}")
        return self.price_of_tea * count

    async def score(self, answer: str | None) -> float:
        return float(answer == str(2 * self.price_of_tea))


def play(*lines: str, **options: Any) -> float | None:
    return play_episode(Till(), lines, seed=0, options={"split": "train", **options})


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ('price {"item": "green tea", "count": 2}', {"item": "green tea", "count": 2}),
        ("price item='green tea' count=2", {"item": "green tea", "count": 2}),
        ("price item=12 count=2", {"item": "12", "count": 2}),
        ("price item=a=b", {"item": "a=b"}),
        ("price item=[a] count=2", {"item": "[a]", "count": 2}),
        ('price of={"kind": "tea", "in": ["cup", 2]} item=x', {"of": {"kind": "tea", "in": ["cup", 2]}, "item": "x"}),
        ("price of=[1, 2]", {"of": [1, 2]}),
        ("price of='{\"a\": 1}'", {"of": {"a": 1}}),
        ("price of=[a", {"of": "[a"}),
        ("price", {}),
    ],
)
def test_a_line_is_a_call(line: str, arguments: dict[str, Any]) -> None:
    action = read_line(line, Till().tool_schemas)
    assert action is not None
    assert [(call.name, dict(call.arguments)) for call in action.tool_calls] == [("price", arguments)]


@pytest.mark.parametrize(
    ("line", "text"), [("6", "6"), ("/say price item=x", "price item=x"), ("prices {}", "prices {}")]
)
def test_a_line_is_an_answer(line: str, text: str) -> None:
    action = read_line(line, Till().tool_schemas)
    assert action is not None
    assert (action.text, action.tool_calls) == (text, ())


@pytest.mark.parametrize("line", ["", "/help", "/tools", "/unknown", "price tea", "price {bad", "price item='x"])
def test_a_line_that_is_no_action_says_why(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_line(line, Till().tool_schemas) is None
    assert bool(capsys.readouterr().out) == bool(line)


def test_usage_tells_required_from_optional() -> None:
    assert usage(Till().tool_schemas[0]["function"]) == "price item=<string> [count=<integer>]"


def test_an_episode_is_won_and_lost(capsys: pytest.CaptureFixture[str]) -> None:
    assert play("price item='green tea' count=2", "6") == 1.0
    said = capsys.readouterr().out
    assert "user: What do two teas cost?" in said
    assert "price: 6" in said
    assert "The episode is over. Reward 1" in said
    assert play("price item=coffee", "7") == 0.0
    assert "Error: no coffee" in capsys.readouterr().out
    assert play("10", split="eval") == 1.0


def test_quit_and_the_end_of_input_leave_no_reward() -> None:
    assert play("price item=x", "/quit", "6") is None
    assert play() is None


def test_through_a_pipe() -> None:
    result = CliRunner().invoke(main, ["play", "agentrl/Guess-v0"], input="/help\nnonsense\n")
    assert result.exit_code == 0, result.output
    assert "/quit" in result.stdout
    assert CliRunner().invoke(main, ["play", "agentrl/Guess-v0"], input="").exit_code == 0
    missing = CliRunner().invoke(main, ["play", "agentrl/Gess-v0"], input="")
    assert missing.exit_code == 1
    assert "Did you mean 'agentrl/Guess-v0'?" in missing.stderr
    assert CliRunner().invoke(main, ["play", "agentrl/Guess-v0", "--task", "train-x"], input="").exit_code == 1
