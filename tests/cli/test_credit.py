"""`agentrl credit`: the table, JSON, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentrl.cli import main

FILE = Path(__file__).parents[2] / "benchmarks" / "credit_chain.py"
FEW = ("--tasks", "2", "--group-size", "2", "--continuations", "8", "--forks", "1", "--draws", "4")


def credit(*arguments: str, policy: str = f"{FILE}:Coin") -> Result:
    return CliRunner().invoke(main, ["credit", f"{FILE}:Chain", "--policy", policy, *FEW, *arguments])


def test_the_table() -> None:
    result = credit("--estimators", "rloo, forked")
    assert result.exit_code == 0, result.output
    rows = [line.split(" | ")[0] for line in result.stdout.splitlines() if line.startswith("| ")]
    assert sorted(rows) == ["| estimator", "| forked", "| rloo"]
    assert "2 tasks, 10 turns" in result.stdout
    assert "Playing" in result.stderr


def test_the_json_form() -> None:
    found = json.loads(credit("--json", "--estimators", "rloo").stdout)
    assert found["estimators"][0]["name"] == "rloo"
    assert found["settings"] == {"group_size": 2, "continuations": 8, "draws": 4, "forks": 1, "most_turns": 8}
    assert found["policy"] == f"{FILE}:Coin"
    assert json.loads(credit("--json", "--estimators", "rloo").stdout)["estimators"] == found["estimators"]


@pytest.mark.parametrize(
    ("arguments", "policy", "said"),
    [
        ((), "oracle", "always does the same"),
        (("--estimators", "gropo"), f"{FILE}:Coin", "Did you mean"),
        (("--estimators", "turn_gae"), f"{FILE}:Coin", "needs a value head"),
        (("--continuations", "7"), f"{FILE}:Coin", "at least 8"),
        (("--split", "trian"), f"{FILE}:Coin", "trian"),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], policy: str, said: str) -> None:
    result = credit(*arguments, policy=policy)
    assert result.exit_code == 1, result.output
    assert said in result.stderr
