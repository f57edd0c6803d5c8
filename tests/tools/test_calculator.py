from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.errors import ToolError
from agentrl.tools.calculator import calculator_tool, evaluate, format_number


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("1+2*3", 7),
        ("(1+2)*3", 9),
        ("-2**2", -4),
        ("2**-1", 0.5),
        ("7/2", 3.5),
        ("-7//2", -4),
        ("-7%3", 2),
        ("178377/3", 59459),
        ("123456789123456789/9", 13717421013717421),
        ("sqrt(144)", 12),
        ("sqrt(2)", math.sqrt(2)),
        ("round(2.567, 2)", 2.57),
        ("max(1, 2, 3) + min(4, 5)", 7),
        ("gcd(12, 18) * lcm(4, 6)", 72),
        ("floor(2.7) + ceil(2.1)", 5),
        (" 4821 * 37 ", 178377),
        ("2**2048 // 2**2040", None),
    ],
)
def test_values(expression, result):
    if result is None:
        with pytest.raises(ToolError, match="too large"):
            evaluate(expression)
    else:
        assert evaluate(expression) == result


@given(
    st.recursive(
        st.integers(0, 999).map(str),
        lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "//", "%"]), inner).map(
            lambda parts: f"({parts[0]}{parts[1]}{parts[2]})"
        ),
        max_leaves=8,
    )
)
def test_agrees_with_python(expression):
    try:
        expected = eval(expression)
    except ZeroDivisionError:
        with pytest.raises(ToolError, match="zero"):
            evaluate(expression)
    else:
        assert evaluate(expression) == expected


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("9**9**9", "too large"),
        ("9" * 198 + "*9", None),
        ("(2**2000)*(2**2000)", "too large"),
        ("(-2)**3000", "too large"),
        ("round(5, -1000000000)", "digits"),
        ("1/0", "zero"),
        ("0**-1", "zero"),
        ("5 % 0.0", "zero"),
        ("(-8)**0.5", "not a real"),
        ("1e308*10", "finite"),
        ("1e999", "finite"),
        ("2.0**5000", "too large"),
        ("2**1000 * 1.0 * 2**1000", "finite|large"),
        ("log(0)", "cannot compute"),
        ("gcd(1.5, 2)", "cannot compute"),
        ("1" + "+1" * 100, "characters"),
        ("-" * 100 + "1", "nested"),
        ("(" * 99 + "1" + ")" * 99, None),
        ("", "not an arithmetic"),
        ("2 +", "not an arithmetic"),
        ("1\x00", "not an arithmetic|cannot"),
        ("2^3", r"\*\*"),
        ("True + 1", "not arithmetic"),
        ("1j", "not arithmetic"),
        ("'a' * 100", "not arithmetic"),
        ("[1] * 100", "not arithmetic"),
        ("x", "not arithmetic"),
        ("(1).__class__", "not arithmetic"),
        ("__import__('os').system('true')", "not arithmetic"),
        ("pow(2, 3)", "no function"),
        ("abs(1, 2)", "takes 1"),
        ("max(*[1, 2])", "not arithmetic"),
        ("round(number=2)", "not arithmetic"),
        ("(lambda: 1)()", "not arithmetic"),
        ("1 if 1 else 2", "not arithmetic"),
        ("1 << 5", "operator"),
        ("1 < 2", "not arithmetic"),
    ],
)
def test_what_is_refused(expression, message):
    if message is None:
        assert isinstance(evaluate(expression), int)
        return
    with pytest.raises(ToolError, match=message):
        evaluate(expression)


@given(st.text(max_size=60))
def test_any_text_gives_a_number_or_a_tool_error(text):
    try:
        value = evaluate(text)
    except ToolError:
        return
    assert isinstance(value, (int, float))
    assert math.isfinite(value)


def test_how_results_read():
    assert format_number(3.0) == "3"
    assert format_number(1 / 3) == "0.333333333333"
    assert format_number(10**30) == "1" + "0" * 30
    assert format_number(1e30) == "1e+30"


def test_as_a_tool():
    made = calculator_tool("c")
    assert made.name == "c"
    assert made.function(**made.validate({"expr": "2*3"})) == "6"
