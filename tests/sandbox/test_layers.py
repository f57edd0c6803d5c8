"""What the files of `agentrl/sandbox` may import of each other, beyond the floors of tests/test_architecture.py."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SANDBOX = ROOT / "agentrl" / "sandbox"


def imports(path: Path) -> Iterator[str]:
    """Every dotted name that a file imports, at the top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_contract_imports_no_wing_but_the_form_of_plain_values():
    wings = tuple(f"agentrl.sandbox.{found.parent.name}." for found in SANDBOX.glob("*/__init__.py"))
    assert len(wings) == 6
    for path in SANDBOX.glob("*.py"):
        deep = {name for name in imports(path) if f"{name}.".startswith(wings)}
        assert [name for name in deep if not name.startswith("agentrl.sandbox.worker.plain.")] == [], path


def test_the_worker_imports_the_standard_library_and_itself():
    """It runs as a zip file, by the sandbox's own Python, where nothing else of ours is."""
    for path in (SANDBOX / "worker").glob("*.py"):
        foreign = {
            name
            for name in imports(path)
            if name.split(".")[0] not in sys.stdlib_module_names and not name.startswith("agentrl.sandbox.worker.")
        }
        assert foreign == set(), path
