"""Which answers may reach a verifier that runs them as Python."""

from __future__ import annotations

import pytest

from agentrl.adapters.answers import is_arithmetic, is_literal


@pytest.mark.parametrize(
    "text", ["(75 - 3) / 4 + 2", "-3*x**4 + 2.5*x", "exp(2*x)/2 + C", "(x + 1)**(3/2)", "x**x", "-x**-3", " sqrt(x)\n"]
)
def test_arithmetic_passes(text: str):
    assert is_arithmetic(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "__import__('os').getcwd()",
            "open('/etc/passwd')",
            "x.__class__",
            "oracle_answer",
            "(lambda: 1)()",
            "'x'",
            "[1]",
        ),
        *("9**9**9", "((9**99)**99)", "9**(99*99)", "2**x**x", "9**101", "(9**99 * 9**99)**99", "E**" * 3000 + "x"),
        *("", "2x", "-" * 1999 + "1", "(" * 1000, "\x00", "exp(x, evaluate=open)", "f'{x}'", "x if x else y"),
    ],
)
def test_anything_else_and_what_never_ends_does_not(text: str):
    assert not is_arithmetic(text)


@pytest.mark.parametrize("text", ["['A', 'B']", "[[1, -2], [3, 4]]", "1 2 3", "_ Q\nQ _", "the answer is 3", ""])
def test_a_literal_and_what_is_no_python_pass(text: str):
    assert is_literal(text)


@pytest.mark.parametrize("text", ["oracle_answer", " [oracle_answer]", "[x for x in y]", "open('f')", "9**9**9"])
def test_a_name_or_a_call_does_not(text: str):
    assert not is_literal(text)
