"""Whatever a model writes, a bundled environment without a sandbox answers it and goes on, or scores it as wrong."""

from __future__ import annotations

from fractions import Fraction

import pytest

from agentrl import call, make
from agentrl.environments.data_analysis import right
from agentrl.errors import EnvFault, ToolError
from agentrl.messages import Action

JUNK = [
    *(
        "\ud800",
        "a\ud83d",
        "\x00",
        "\x1b[2J",
        "\u202e",
        "\ufeff",
        "\u0661\u0662",
        "²",
        "₃",
        "①",
        "９",
        "Ⅷ",
        "İ",
        "ﬁ",
        "🫖",
    ),
    *("", " ", "'", '"', "\\", "\n\r", "%s", "{}", "../..", "NEAR(", "*", "AND", '"tea', "(" * 5000, "[" * 5000),
    *(
        "x" * 10**6,
        "9" * 5000,
        "9**9**9",
        "9**9**9**9",
        "(" * 150 + "1" + ")" * 150,
        "-" * 199 + "1",
        "1e999",
        "0x" + "f" * 198,
    ),
    *(
        "1.0e308*10",
        "10**-400",
        "0**-1",
        "(-8)**0.5",
        "2**2048",
        "lcm(" + "9" * 150 + ")",
        "round(1e308,-50)",
        "1 if 1 else 2",
    ),
    *(
        "__import__('os')",
        "lambda: 1",
        "nan",
        "inf",
        "1//0",
        "1%0",
        "log(0)",
        "log(-1)",
        "sqrt(-1)",
        "gcd(1.5)",
        "''*9**9",
    ),
    *(2**63, -(2**63) - 1, 2**70, -(2**200), 10**4000, 1e308, -0.0, float("nan"), float("inf")),
    *(True, False, None, [], {}, [["\ud800"]], {"\ud800": 1}),
]
NAMES = ("Shop", "Search", "Calculator", "Guess", "FrozenLake", "LoanDesk", "Instructions")


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def test_no_argument_ends_an_episode(name):
    with make(f"agentrl/{name}-v0", max_turns=10**6) as env:
        env.reset(seed=1)
        for schema in env.tool_schemas:
            function = schema["function"]
            for value in JUNK:
                arguments = dict.fromkeys(function["parameters"]["properties"], value)
                (message,), _, terminated, truncated, _ = env.step(call(function["name"], **arguments))
                assert not terminated
                assert not truncated
                assert len(message.content) < 2_000


def test_no_answer_is_a_fault(name):
    with make(f"agentrl/{name}-v0") as env:
        for answer in JUNK:
            if isinstance(answer, str):
                env.reset(seed=1)
                _, reward, *_ = env.step(Action(text=answer))
                assert reward == 0.0


def test_no_answer_about_a_table_is_a_fault():
    for answer in JUNK:
        if isinstance(answer, str):
            assert not right(answer, Fraction(1, 3))
            assert not right(answer, "ada")


@pytest.mark.parametrize(
    ("name", "tool", "arguments"),
    [
        ("Shop", "search", {"kind": "\ud800"}),
        ("Shop", "search", {"kind": "x" * 10**6}),
        ("Shop", "stock", {"seller": "a\ud83d"}),
        ("Shop", "buy", {"seller": "\ud800", "quantity": 1}),
        ("Shop", "buy", {"seller": "ada", "quantity": -(10**5000)}),
        ("Search", "find", {"q": "\ud800"}),
        ("Search", "read", {"id": 10**5000}),
        ("Search", "read", {"id": -1}),
        ("Calculator", "calc", {"expr": "\ud800"}),
        ("Calculator", "calc", {"expr": "9**9**9"}),
        ("LoanDesk", "member", {"member": 10**5000}),
        ("LoanDesk", "books", {"page": -(10**5000)}),
        ("LoanDesk", "copies", {"isbn": 10**5000}),
        ("LoanDesk", "lend", {"member": 1, "copy_id": -1, "period": "week"}),
    ],
    ids=map(str, range(14)),
)
def test_tools_are_safe_without_the_check_of_arguments(name, tool, arguments):
    with make(f"agentrl/{name}-v0") as env:
        env.reset(seed=1)
        with pytest.raises(ToolError) as caught:
            getattr(env.unwrapped, tool)(**arguments)
        assert len(str(caught.value).encode()) < 1_000
        assert not isinstance(caught.value, EnvFault)


def test_buying_more_than_there_can_be_sells_what_there_is():
    with make("agentrl/Shop-v0") as env:
        env.reset(seed=1)
        seller = env.unwrapped.task.data["offers"][0][0]
        assert env.unwrapped.buy(seller, 10**5000).startswith("order ")
        assert env.unwrapped.stock(seller) == "0 left"
