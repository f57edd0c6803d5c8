"""Answers that a suite's verifier runs as Python, with `eval` or by sympy. Owns which of them may reach it.

Such a verifier runs in this process: a text of a model could read the right answer, open files, or never end. What
passes here is literals, arithmetic and known functions of mathematics, with small exponents. It does not bound the time
that sympy takes for them.
"""

from __future__ import annotations

import ast
import math

_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.USub, ast.UAdd)
_FUNCTIONS = frozenset(
    (
        *("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "exp", "log", "ln", "sqrt"),
        *("asin", "acos", "atan", "acot", "asec", "acsc", "asinh", "acosh", "atanh", "abs", "Abs", "erf", "pi"),
    )
)
_MOST_CHARS = 2000
_MOST_EXPONENT = 100


def is_arithmetic(text: str) -> bool:
    """Whether a text is arithmetic, so that running it does nothing else. One letter is a variable."""
    if len(text) > _MOST_CHARS:
        return False
    try:
        return _is_arithmetic(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False


def is_literal(text: str) -> bool:
    """Whether a text is no Python, which nothing runs, or a literal without names."""
    if len(text) > _MOST_CHARS:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return True
    except (MemoryError, RecursionError):
        return False
    allowed = (ast.Expression, ast.List, ast.Tuple, ast.Constant, ast.UnaryOp, ast.USub, ast.Load)
    return all(isinstance(node, allowed) for node in ast.walk(tree))


def _is_arithmetic(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=value):
            return type(value) in (int, float)
        case ast.Name(id=name):
            return len(name) == 1 or name in _FUNCTIONS
        case ast.UnaryOp(op=op, operand=operand):
            return isinstance(op, _OPERATORS) and _is_arithmetic(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _is_arithmetic(left) and _is_arithmetic(right) and _exponent(node) <= _MOST_EXPONENT
        case ast.BinOp(left=left, op=op, right=right):
            return isinstance(op, _OPERATORS) and _is_arithmetic(left) and _is_arithmetic(right)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
            return name in _FUNCTIONS and _is_arithmetic(argument)
    return False


def _exponent(node: ast.expr) -> float:
    """How often a power multiplies its base at most, with the powers in it; infinity for one of a power."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return _exponent(node.left) * max(1.0, _size(node.right))
    return max((_exponent(child) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)), default=1.0)


def _size(node: ast.expr) -> float:
    """A bound of the absolute value of an exponent: of numbers, signs and quotients; infinity for anything else."""
    match node:
        case ast.Constant(value=int(value) | float(value)):
            return float(value) if value <= _MOST_EXPONENT else math.inf
        case ast.UnaryOp(operand=operand):
            return _size(operand)
        case ast.BinOp(left=left, op=ast.Div(), right=ast.Constant(value=int(divisor))) if divisor:
            return _size(left)
        case ast.Name(id=name):
            return 1.0 if len(name) == 1 else math.inf
    return math.inf
