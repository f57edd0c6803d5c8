"""The floors of the house: imports point downstairs, and nothing heavy stands in the doorway.

Parses every import of `agentrl/`, `environments/` and `tools/`. A higher floor may import a lower one;
contracts on one floor that are siblings do not know each other.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"agentrl": "agentrl", "environments": "agentrl.environments", "tools": "agentrl.tools"}

# Longest prefix wins; the name in brackets keeps siblings of one floor apart.
FLOORS = {
    "agentrl.errors": (1, "vocabulary"),
    "agentrl.frozen": (1, "vocabulary"),
    "agentrl.messages": (1, "vocabulary"),
    "agentrl.tool_schema": (1, "vocabulary"),
    "agentrl.trajectory": (1, "vocabulary"),
    "agentrl.config": (1, "vocabulary"),
    "agentrl.env": (2, "env"),
    "agentrl.policy": (2, "policy"),
    "agentrl.sandbox": (2, "sandbox"),
    "agentrl.training.learner": (2, "training maths"),
    "agentrl.training.batches": (2, "training maths"),
    "agentrl.training.forward": (2, "training maths"),
    "agentrl.training.objectives": (2, "training maths"),
    "agentrl.training.optimizers": (2, "training maths"),
    "agentrl.training.rows": (2, "training maths"),
    "agentrl.training.losses": (2, "training maths"),
    "agentrl.training.advantages": (2, "training maths"),
    "agentrl.training.checkpoint": (2, "training maths"),
    "agentrl.training.preference": (2, "training maths"),
    "agentrl.rollout": (3, "rollout"),
    "agentrl.environments": (3, "environments"),
    "agentrl.tools": (3, "tools"),
    "agentrl.serving": (4, "serving"),
    "agentrl.distributed": (4, "distributed"),
    "agentrl.training": (5, "training"),
    "agentrl.bench": (5, "bench"),
    "agentrl.cli": (6, "cli"),
    "agentrl.viewer": (6, "viewer"),
    # The package itself only looks names up, lazily.
    "agentrl": (7, "package"),
}
# Neighbours of one floor that may know each other, in this direction: bundled environments are made of
# bundled tools; training evaluates on held-out tasks with the benchmark's own code.
MAY_IMPORT_BESIDE = {("environments", "tools"), ("training", "bench")}
# Reached over HTTP, or never.
NEVER = ("vllm", "sglang", "nest_asyncio")
# Code that may load torch or an optional extra inside a function: (module prefix, imported package) -> reason.
LATE_IMPORTS = {
    ("agentrl.cli", ""): "a command loads what it needs: `agentrl --help` stays fast and torch-free",
    ("", "torch"): "the torch-free door",
    ("", "transformers"): "the torch-free door",
    ("", "agentrl.policy.local"): "the torch-free door",
    ("", "agentrl.policy.tiny"): "the torch-free door",
    ("", "agentrl.policy.engine"): "the torch-free door",
    ("", "agentrl.training.learner"): "the torch-free door",
    ("agentrl.policy.spec", "agentrl.policy"): "a name stands for a policy; only the one asked for is loaded",
    ("agentrl.sandbox.worker.preload", "random"): "it is loaded in a way of our own, whoever imports first",
    ("", "tensorboard"): "an optional extra",
    ("", "yaml"): "an optional extra",
}


@dataclass(frozen=True)
class Import:
    """One import: who, what, where, and whether it stands inside a function."""

    importer: str
    imported: str
    place: str
    late: bool


def module_name(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    name = ".".join((FOLDERS[parts[0]], *parts[1:]))
    return name.removesuffix(".__init__")


def imports_of(source: str, module: str, place: str, *, is_package: bool = False) -> Iterator[Import]:
    tree = ast.parse(source)
    typing_only = _type_checking_lines(tree)
    for node, late in _walk(tree, late=False):
        if node.lineno in typing_only:
            continue
        for name in _imported(node, module, is_package):
            yield Import(module, name, f"{place}:{node.lineno}", late)


def _walk(tree: ast.AST, *, late: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, late
        yield from _walk(node, late=late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def _type_checking_lines(tree: ast.AST) -> set[int]:
    """Lines of imports under `if TYPE_CHECKING`, which never run."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            lines |= {child.lineno for item in node.body for child in ast.walk(item) if hasattr(child, "lineno")}
    return lines


def _imported(node: ast.Import | ast.ImportFrom, module: str, is_package: bool) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        steps = module.split(".")[: -node.level + is_package or None]
        base = ".".join([*steps, base]).rstrip(".")
    # `from agentrl.env import base` names a module, `from agentrl.env.base import Env` does not.
    return [f"{base}.{alias.name}" if _is_module(f"{base}.{alias.name}") else base for alias in node.names]


def _is_module(name: str) -> bool:
    for folder, package in FOLDERS.items():
        if name.startswith(package + ".") and (
            folder != "agentrl" or not name.startswith(("agentrl.tools.", "agentrl.environments."))
        ):
            path = ROOT / folder / Path(*name.removeprefix(package + ".").split("."))
            return path.with_suffix(".py").exists() or (path / "__init__.py").exists()
    return False


def floor_of(module: str) -> tuple[int, str]:
    prefix = max((p for p in FLOORS if module == p or module.startswith((p + ".", p + "_"))), key=len, default=None)
    assert prefix is not None, f"{module} stands on no floor: add it to FLOORS"
    return FLOORS[prefix]


def wrong(found: Import) -> str | None:
    """Why an import is not allowed, or None."""
    line = f"{found.place}: {found.importer} imports {found.imported}"
    if found.imported.split(".")[0] in NEVER:
        return f"{line}, which is never imported"
    if found.late and not _may_be_late(found):
        return f"{line} inside a function, without a reason in LATE_IMPORTS"
    if found.imported.split(".")[0] != "agentrl" or found.importer == "agentrl":
        return None
    (mine, own), (theirs, other) = floor_of(found.importer), floor_of(found.imported)
    if found.imported == "agentrl":
        return (
            None if found.importer.startswith("agentrl.cli") else f"{line}: import from the module that owns the name"
        )
    if theirs > mine:
        return f"{line}: upstairs, from floor {mine} to floor {theirs}"
    if theirs == mine and own != other and (own, other) not in MAY_IMPORT_BESIDE:
        return f"{line}: {own} and {other} are siblings"
    if other in ("environments", "tools") and own not in ("environments", "tools"):
        return f"{line}: bundled environments and tools come through entry points alone"
    return None


def _may_be_late(found: Import) -> bool:
    return any(
        found.importer.startswith(importer) and (found.imported + ".").startswith(imported + "." if imported else "")
        for importer, imported in LATE_IMPORTS
    )


def our_files() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", our_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downstairs(path):
    source = path.read_text(encoding="utf-8")
    is_package = path.name == "__init__.py"
    found = imports_of(source, module_name(path), str(path.relative_to(ROOT)), is_package=is_package)
    assert [reason for item in found if (reason := wrong(item))] == []


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("agentrl.env.base", "from agentrl.rollout.episode import run_episode", "upstairs, from floor 2 to floor 3"),
        ("agentrl.messages", "import agentrl.env.base", "upstairs, from floor 1 to floor 2"),
        ("agentrl.env.base", "from ..policy import base", "env and policy are siblings"),
        ("agentrl.training.losses", "from agentrl.env.base import Env", "training maths and env are siblings"),
        ("agentrl.rollout.pool", "from agentrl.tools.sql import x", "rollout and tools are siblings"),
        ("agentrl.training.loop", "import agentrl.environments.shop", "come through entry points alone"),
        ("agentrl.environments.shop", "from agentrl.rollout.pool import x", "environments and rollout are siblings"),
        ("agentrl.bench.run", "def f():\n    import json", "inside a function, without a reason"),
        ("agentrl.policy.chat", "import vllm", "never imported"),
        ("agentrl.env.base", "class A:\n    def f(self):\n        from agentrl.cli import main", "inside a function"),
        ("agentrl.env.base", "from agentrl import Env", "import from the module that owns the name"),
    ],
)
def test_a_planted_import_is_caught(module, source, reason):
    reasons = [wrong(found) for found in imports_of(source, module, "planted.py")]
    assert any(reason in (text or "") for text in reasons), reasons


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("agentrl.env.base", "from agentrl.messages import Action"),
        ("agentrl.env.base", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from agentrl.cli import main"),
        ("agentrl.environments.search", "from agentrl.tools.search import x"),
        ("agentrl.cli.train", "def f():\n    from agentrl.training.loop import train"),
        ("agentrl.training.loop", "from agentrl.rollout.pool import x\nfrom agentrl.training.losses import y"),
        ("agentrl.policy.local", "def f():\n    import torch"),
    ],
)
def test_a_proper_import_is_let_through(module, source):
    assert [wrong(found) for found in imports_of(source, module, "fine.py")] == [None] * len(
        list(imports_of(source, module, "fine.py"))
    )


def test_every_package_is_listed_for_installation():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted({module_name(path) for path in our_files() if path.name == "__init__.py"})
    assert [path for path in our_files() if not (path.parent / "__init__.py").exists()] == []


def test_bundled_folders_are_flat():
    assert [
        p for folder in ("environments", "tools") for p in (ROOT / folder).rglob("*.py") if p.parent.name != folder
    ] == []


def test_importing_the_package_loads_nothing_heavy():
    heavy = ("torch", "transformers", "numpy", "gymnasium", "pydantic", "httpx", "rich", "click")
    code = f"import sys, agentrl; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_making_an_environment_loads_no_torch():
    code = "import sys, agentrl; agentrl.make('agentrl/Shop-v0').reset(seed=1); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "False"
