"""The table of cases names tests that exist, and says of each what became of it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS / "CASES.md"
VERDICTS = ("held", "told", "refused", "chosen")


def rows() -> list[tuple[str, str, list[str]]]:
    """Case, verdict and names of tests of each row."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [(case, verdict, re.findall(r"`([^`]+)`", tests)) for case, verdict, tests in cells if case != "case"]


@cache
def functions_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))


def missing(name: str) -> bool:
    path, _, function = name.partition("::")
    return not (TESTS / path).is_file() or function not in functions_of(TESTS / path)


def test_every_test_of_the_table_exists():
    assert len(rows()) > 100
    assert [name for _, _, tests in rows() for name in tests if missing(name)] == []


def test_every_case_has_a_verdict_and_a_test():
    assert [case for case, verdict, tests in rows() if not tests or not verdict.startswith(VERDICTS)] == []


def test_a_test_that_is_not_there_is_noticed():
    assert missing("test_cases.py::test_that_nobody_wrote")
    assert missing("no_file.py::test_x")
    assert not missing("test_cases.py::test_every_case_has_a_verdict_and_a_test")
