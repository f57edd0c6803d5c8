"""A calculator for agents: it parses, checks and computes an expression, and never calls `eval`.

Owns the grammar and its limits. No expression can run for long or fill the memory.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from agentrl.errors import ToolError
from agentrl.tool_schema import Tool, tool

Number = int | float

MAX_CHARS = 200
MAX_DEPTH = 40
MAX_BITS = 2048  # about 616 digits; Python prints up to 4300
MAX_ROUND_DIGITS = 50


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int):
        _check_power(base, exponent)
    result = base**exponent
    if isinstance(result, complex):
        raise ToolError(f"{base} ** {exponent} is not a real number")
    return result


def _check_power(base: int, exponent: int) -> None:
    if abs(base) > 1 and base.bit_length() * abs(exponent) > MAX_BITS + base.bit_length():
        raise ToolError(f"{_short(base)} ** {_short(exponent)} is too large: results have at most {MAX_BITS} bits")


def _divide(a: Number, b: Number) -> Number:
    """True division; the result is an exact int if both numbers are ints and there is no remainder."""
    if isinstance(a, int) and isinstance(b, int) and b != 0 and a % b == 0:
        return a // b
    return a / b


def _round(value: Number, digits: Number = 0) -> Number:
    if not isinstance(digits, int) or abs(digits) > MAX_ROUND_DIGITS:
        raise ToolError(f"round takes a whole number of digits from -{MAX_ROUND_DIGITS} to {MAX_ROUND_DIGITS}")
    return round(value, digits) if digits else round(value)


def _root(value: Number) -> Number:
    """Square root; the result is an exact int for the square of an int."""
    if isinstance(value, int) and value >= 0 and math.isqrt(value) ** 2 == value:
        return math.isqrt(value)
    return math.sqrt(value)


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: _divide,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "abs": (abs, 1, 1),
    "ceil": (math.ceil, 1, 1),
    "floor": (math.floor, 1, 1),
    "gcd": (math.gcd, 1, 20),
    "lcm": (math.lcm, 1, 20),
    "log": (math.log, 1, 2),
    "max": (max, 2, 20),
    "min": (min, 2, 20),
    "round": (_round, 1, 2),
    "sqrt": (_root, 1, 1),
}
_CONSTANTS = {"pi": math.pi, "e": math.e}


def evaluate(expression: str) -> Number:
    """Compute an arithmetic expression.

    Args:
        expression: numbers, `+ - * / // % **`, parentheses, `pi`, `e`, and the functions abs, ceil,
            floor, gcd, lcm, log, max, min, round, sqrt; at most 200 characters.
    Returns: an int if the result is exact (a division without remainder is), else a float.
    Raises: ToolError that says what is wrong with the expression.
    """
    if len(expression) > MAX_CHARS:
        raise ToolError(f"the expression has {len(expression)} characters; at most {MAX_CHARS} are allowed")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        return _checked(_compute(tree.body, 0))
    except ToolError:
        raise
    except ZeroDivisionError:
        raise ToolError("division by zero") from None
    except OverflowError:
        raise ToolError("the result is too large") from None
    except (TypeError, ValueError) as error:
        raise ToolError(f"cannot compute: {error}") from None
    except (SyntaxError, RecursionError, MemoryError):
        raise ToolError("not an arithmetic expression; write for example (12 + 3) * 4") from None


def format_number(value: Number) -> str:
    """A result as the model reads it: an integer without a decimal point, other numbers with 12 digits."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return str(value) if isinstance(value, int) else f"{value:.12g}"


def calculator_tool(name: str = "calc") -> Tool:
    """The calculator as a tool, for `ToolEnv.extra_tools`."""

    @tool(name=name)
    def calc(expr: str) -> str:
        """Compute an expression.

        Args:
            expr: for example (12 + 3) * 4.
        """
        return format_number(evaluate(expr))

    return Tool.of(calc)


def _compute(node: ast.expr, depth: int) -> Number:
    if depth > MAX_DEPTH:
        raise ToolError(f"the expression is nested deeper than {MAX_DEPTH} levels")
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _checked(value)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_compute(operand, depth + 1))
        case ast.BinOp(left=left, op=op, right=right):
            return _compute_binary(op, left, right, depth)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _call(name, [_compute(argument, depth + 1) for argument in arguments])
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
    raise ToolError(f"{ast.unparse(node)!r} is not arithmetic; known functions: {', '.join(_FUNCTIONS)}")


def _compute_binary(op: ast.operator, left: ast.expr, right: ast.expr, depth: int) -> Number:
    if type(op) not in _BINARY:
        hint = "; a power is written **" if isinstance(op, ast.BitXor) else ""
        raise ToolError(f"the operator is not known: use + - * / // % **{hint}")
    return _checked(_BINARY[type(op)](_compute(left, depth + 1), _compute(right, depth + 1)))


def _call(name: str, values: list[Number]) -> Number:
    if name not in _FUNCTIONS:
        raise ToolError(f"there is no function {name!r}; known: {', '.join(_FUNCTIONS)}")
    function, least, most = _FUNCTIONS[name]
    if not least <= len(values) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise ToolError(f"{name} takes {wanted} numbers, got {len(values)}")
    return _checked(function(*values))


def _checked(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ToolError(f"a number is too large: at most {MAX_BITS} bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ToolError("the result is not a finite number")
    return value


def _short(value: int) -> str:
    text = str(value)
    return text if len(text) <= 12 else f"{text[:6]}... ({len(text)} digits)"
