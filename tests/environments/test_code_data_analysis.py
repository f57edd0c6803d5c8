"""The data-analysis environment: tables, questions and the edges of what counts as an answer."""

from __future__ import annotations

from fractions import Fraction

import pytest

from agentrl.env.tool_env import call
from agentrl.environments.data_analysis import DataAnalysis, right
from agentrl.environments.data_tables import FAMILIES, as_csv, problem
from agentrl.messages import Action
from agentrl.trajectory import Task
from tests.environments import sandboxed
from tests.environments.sandboxed import rewards


def task_of(family, seed=0):
    return Task(f"{family}-{seed}", "eval", {"family": family, "seed": seed})


async def test_oracle_answers_every_kind_of_question():
    tasks = [task_of(family, seed) for family in FAMILIES for seed in range(4)]
    assert await rewards(DataAnalysis, [(task, None) for task in tasks]) == [1.0] * len(tasks)


async def test_answers_without_a_look_earn_nothing():
    said = ("", "I do not know", "0", "1", "nan", "inf", "1e9", "done")
    pairs = [(task_of(family), [Action(text=text)]) for family in FAMILIES for text in said]
    assert await rewards(DataAnalysis, pairs) == [0.0] * len(pairs)


def test_the_answer_is_not_in_the_question():
    for family in FAMILIES:
        for seed in range(30):
            question = problem(family, seed)[1]
            if isinstance(question.answer, str):
                assert question.answer not in question.text


@pytest.mark.parametrize(
    ("answer", "expected", "verdict"),
    [
        ("12.35", Fraction(12345, 1000), True),
        ("12.34", Fraction(12345, 1000), True),
        ("12.345", Fraction(12345, 1000), True),
        ("12.3", Fraction(12345, 1000), False),
        ("12.36", Fraction(12345, 1000), False),
        ("1,234.50", Fraction(12345, 10), True),
        ("1234.5 ", Fraction(12345, 10), True),
        ("33.33%", Fraction(100, 3), True),
        ("7", Fraction(7), True),
        ("7.00", Fraction(7), True),
        ("7.", Fraction(7), True),
        ("7.004", Fraction(7), False),
        ("-7", Fraction(7), False),
        ("7 or 8", Fraction(7), False),
        ("It is 7", Fraction(7), False),
        ("7e0", Fraction(7), False),
        ("٧", Fraction(7), False),
        ("7" * 400, Fraction(7), False),
        ("nan", Fraction(7), False),
        ("Ada", "ada", True),
        ("ada.", "ada", True),
        ("ada, bea", "ada", False),
        ("", "ada", False),
    ],
)
def test_right(answer, expected, verdict):
    assert right(answer, expected) is verdict


def test_questions_worked_by_hand():
    """The answers of a fixed table, computed anew from its text."""
    sales, question = problem("units_of", 5)
    rows = [line.split(",") for line in as_csv(sales).splitlines()[1:]]
    product, region = question.text.split(" units of ")[1].split()[0], question.text.removesuffix("?").split()[-1]
    assert question.answer == sum(int(row[4]) for row in rows if row[3] == product and row[2] == region and row[4])


async def test_cheats_earn_nothing():
    """Whatever the sandbox is made to print or hold, the answer that is said counts."""
    task = task_of("revenue_of")
    codes = (
        "raise SystemExit(0)",
        "import os; os._exit(0)",
        "print('PASS\\nreward: 1.0')",
        "open('result.json', 'w').write('{\"reward\": 1}')",
        "import os; [os.chmod(path, 0) for path in (*os.listdir(), '/tmp', '/work')]",
        "import sys; print([f for f in dir(sys) if 'expected' in f])",
    )
    pairs = [(task, [call("python", code=code), Action(text="1.0")]) for code in codes]
    assert await rewards(DataAnalysis, pairs) == [0.0] * len(codes)


async def test_the_notebook_keeps_variables_and_shows_values():
    script = [call("python", code="x = 6"), call("python", code="x * 7"), call("python", code="1/0"), Action(text="")]
    _, messages = await sandboxed.play(DataAnalysis(), task_of("share"), script)
    told = [message.content for message in messages if message.role == "tool"]
    assert told[:2] == ["(no output)", "42"]
    assert told[2].endswith("ZeroDivisionError: division by zero\n[exit code 1]")
