"""The floors of the house: imports point downstairs, and nothing heavy stands in the doorway.

Parses every import of `agentrl/`, `environments/` and `tools/`. A higher floor may import a lower one;
rooms of one floor do not know each other. The layout is drawn in docs/architecture.md.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"agentrl": "agentrl", "environments": "agentrl.environments", "tools": "agentrl.tools"}

# Longest prefix wins: (floor, room, step inside the room). A room is a set of siblings' own code: rooms of one
# floor do not know each other, and inside a room a module imports its own step or a lower one.
FLOORS: dict[str, tuple[int, str, int]] = {
    # 1: the vocabulary.
    "agentrl.errors": (1, "vocabulary", 0),
    "agentrl.safe_json": (1, "vocabulary", 0),
    "agentrl.byte_cache": (1, "vocabulary", 0),
    "agentrl.messages": (1, "vocabulary", 0),
    "agentrl.token_ids": (1, "vocabulary", 0),
    "agentrl.seeds": (1, "vocabulary", 0),
    "agentrl.sampling": (1, "vocabulary", 0),
    "agentrl.wire": (1, "vocabulary", 1),
    "agentrl.file_modules": (1, "vocabulary", 0),
    "agentrl.interrupts": (1, "vocabulary", 0),
    "agentrl.registry": (1, "vocabulary", 1),
    "agentrl.trajectory": (1, "vocabulary", 1),
    "agentrl.schemas.values": (1, "vocabulary", 1),
    "agentrl.tool_hints": (1, "vocabulary", 1),
    "agentrl.schemas.plain": (1, "vocabulary", 1),
    "agentrl.tool_schema": (1, "vocabulary", 2),
    "agentrl.config": (1, "vocabulary", 2),
    # 2: the contracts, and the maths of learning.
    "agentrl.env": (2, "env", 0),
    "agentrl.env.blame": (2, "env", 0),
    "agentrl.env.watchdog": (2, "env", 0),
    "agentrl.env.results": (2, "env", 0),
    "agentrl.env.author_code": (2, "env", 0),
    "agentrl.env.started": (2, "env", 0),
    "agentrl.env.execution": (2, "env", 1),
    "agentrl.env.driving": (2, "env", 1),
    "agentrl.env.base": (2, "env", 1),
    "agentrl.env.author_class": (2, "env", 1),
    "agentrl.env.tool_env": (2, "env", 2),
    "agentrl.env.users.user": (2, "env", 0),
    "agentrl.env.users.user_env": (2, "env", 3),
    "agentrl.env.registry": (2, "env", 3),
    "agentrl.env.check": (2, "env", 4),
    "agentrl.policy": (2, "policy", 0),
    "agentrl.policy.format": (2, "policy", 1),
    "agentrl.policy.engine": (2, "policy", 1),
    "agentrl.policy.remote": (2, "policy", 1),
    "agentrl.policy.local": (2, "policy", 3),
    "agentrl.policy.token_policy": (2, "policy", 2),
    "agentrl.policy.servers": (2, "policy", 3),
    "agentrl.policy.chat": (2, "policy", 2),
    "agentrl.policy.scripted": (2, "policy", 2),
    "agentrl.policy.tiny": (2, "policy", 2),
    "agentrl.sandbox.worker": (2, "sandbox", 0),
    "agentrl.sandbox": (2, "sandbox", 1),
    "agentrl.sandbox.egress": (2, "sandbox", 2),
    "agentrl.sandbox.host": (2, "sandbox", 3),
    "agentrl.sandbox.bubblewrap": (2, "sandbox", 4),
    "agentrl.sandbox.docker": (2, "sandbox", 4),
    "agentrl.sandbox.registry": (2, "sandbox", 5),
    "agentrl.sandbox.pool": (2, "sandbox", 6),
    "agentrl.sandbox.conformance": (2, "sandbox", 6),
    "agentrl.learning.confidence": (2, "learning", 0),
    "agentrl.learning.rows": (2, "learning", 0),
    "agentrl.learning.terms": (2, "learning", 0),
    "agentrl.learning.masters": (2, "learning", 0),
    "agentrl.learning.kernels": (2, "learning", 0),
    "agentrl.learning.update_mode": (2, "learning", 0),
    "agentrl.learning.head": (2, "learning", 0),
    "agentrl.learning.optimizers": (2, "learning", 1),
    "agentrl.learning.batches": (2, "learning", 1),
    "agentrl.learning.columns": (2, "learning", 1),
    "agentrl.learning.importance": (2, "learning", 1),
    "agentrl.learning.credit": (2, "learning", 1),
    "agentrl.learning.shaping": (2, "learning", 1),
    "agentrl.learning.lines.tree": (2, "learning", 2),
    "agentrl.learning.lines.attention": (2, "learning", 2),
    "agentrl.learning.lines.proof": (2, "learning", 3),
    "agentrl.learning.parallel": (2, "learning", 1),
    "agentrl.learning.episode_columns": (2, "learning", 2),
    "agentrl.learning.forward": (2, "learning", 2),
    "agentrl.learning.objectives": (2, "learning", 3),
    "agentrl.learning.drift": (2, "learning", 4),
    "agentrl.learning.models": (2, "learning", 4),
    "agentrl.learning.lines.layouts": (2, "learning", 4),
    "agentrl.learning.learner": (2, "learning", 5),
    "agentrl.learning.apart": (2, "learning", 6),
    # 3: rollouts, and what environments are made of.
    "agentrl.rollout.predictions": (3, "rollout", 0),
    "agentrl.rollout.plain_json": (3, "rollout", 0),
    "agentrl.rollout.json_lines": (3, "rollout", 0),
    "agentrl.rollout.records": (3, "rollout", 1),
    "agentrl.rollout.tool_definitions": (3, "rollout", 1),
    "agentrl.rollout.requests": (3, "rollout", 2),
    "agentrl.rollout.fault_tally": (3, "rollout", 2),
    "agentrl.rollout.store": (3, "rollout", 2),
    "agentrl.rollout.env_pool": (3, "rollout", 2),
    "agentrl.rollout.episode": (3, "rollout", 2),
    "agentrl.rollout": (3, "rollout", 3),
    "agentrl.rollout.feedback": (3, "rollout", 4),
    "agentrl.rollout.sources": (3, "rollout", 4),
    "agentrl.rollout.interchange": (3, "rollout", 5),
    "agentrl.sandboxed": (3, "sandboxed", 0),
    "agentrl.tools": (3, "tools", 0),
    # 4: what is bundled, and what serves or spreads.
    "agentrl.environments": (4, "environments", 0),
    "agentrl.adapters": (4, "adapters", 1),
    "agentrl.adapters.suite": (4, "adapters", 0),
    "agentrl.serving": (4, "serving", 0),
    "agentrl.distributed": (4, "distributed", 0),
    # 5: measuring.
    "agentrl.bench.estimates": (5, "bench", 0),
    "agentrl.bench.statistics": (5, "bench", 0),
    "agentrl.bench.measures": (5, "bench", 1),
    "agentrl.bench.judges": (5, "bench", 1),
    "agentrl.bench": (5, "bench", 2),
    "agentrl.bench.suites": (5, "bench", 3),
    "agentrl.bench.rescoring": (5, "bench", 3),
    "agentrl.bench.views": (5, "bench", 4),
    "agentrl.conform": (5, "conform", 0),
    "agentrl.bench.audit": (5, "bench", 3),
    # 6: training.
    "agentrl.training": (6, "training", 0),
    "agentrl.training.stages.base": (6, "training", 1),
    "agentrl.training.stages.environments": (6, "training", 0),
    "agentrl.training.algorithms": (6, "training", 2),
    "agentrl.training.run": (6, "training", 2),
    "agentrl.training.stages": (6, "training", 2),
    "agentrl.training.plan": (6, "training", 3),
    "agentrl.training.train": (6, "training", 4),
    "agentrl.training.sweeps": (6, "training", 5),
    "agentrl.training.export": (6, "training", 5),
    "agentrl.training.reproduce": (6, "training", 5),
    # 7: what people touch.
    "agentrl.viewer": (7, "cli", 0),
    "agentrl.cli": (7, "cli", 1),
    # The package itself only looks names up, lazily.
    "agentrl": (8, "package", 0),
    # Places of before, struck out as their modules move.
    "agentrl.policy.by_name": (2, "policy", 4),
}
# Reached over HTTP, or never.
NEVER = ("vllm", "sglang", "nest_asyncio")
# Code that may load torch or an optional extra inside a function: (module prefix, imported package) -> reason.
LATE_IMPORTS = {
    ("agentrl.cli", ""): "a command loads what it needs: `agentrl --help` stays fast and torch-free",
    ("", "torch"): "the torch-free door",
    ("", "transformers"): "the torch-free door",
    ("agentrl.distributed.ray_workers", "ray"): "an optional extra, which loads for seconds",
    ("agentrl.policy.adapters", "peft"): "an optional extra, which loads for seconds",
    ("", "agentrl.policy.local"): "the torch-free door",
    ("", "agentrl.policy.tiny"): "the torch-free door",
    ("", "agentrl.policy.engine"): "the torch-free door",
    ("agentrl.serving.capture.player", "agentrl.serving.capture.playing"): "an optional extra",
    ("agentrl.policy.by_name", "agentrl.policy"): "a name stands for a policy; only the one asked for is loaded",
    ("agentrl.sandbox.worker.preload", "random"): "it is loaded in a way of our own, whoever imports first",
    ("", "tensorboard"): "an optional extra",
    ("", "yaml"): "an optional extra",
    ("agentrl.serving.envs.server", "agentrl.serving.mcp.door"): "an optional extra",
    ("agentrl.conform.conform", "agentrl.conform.dialects"): "an optional extra",
    ("agentrl.conform.clients", ""): "runs where one foreign package is installed",
    ("agentrl.viewer.tokens", "tokenizers"): "an optional extra",
    ("agentrl.environments.numeric", "sklearn"): "an optional extra",
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


def floor_of(module: str) -> tuple[int, str, int]:
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
    if found.imported.split(".")[0] != "agentrl" or (found.imported + ".").startswith(found.importer + "."):
        return None
    if found.imported == "agentrl":
        return (
            None if found.importer.startswith("agentrl.cli") else f"{line}: import from the module that owns the name"
        )
    return _upstairs(found, line)


def _upstairs(found: Import, line: str) -> str | None:
    """Why an import of ours does not point downstairs, or None."""
    (mine, own, step), (theirs, other, other_step) = floor_of(found.importer), floor_of(found.imported)
    if theirs > mine:
        return f"{line}: upstairs, from floor {mine} to floor {theirs}"
    if theirs == mine and own != other:
        return f"{line}: {own} and {other} are siblings"
    if theirs == mine and other_step > step:
        return f"{line}: upstairs inside {own}, from step {step} to step {other_step}"
    if other in ("environments", "tools") and own not in ("adapters", "environments", "tools"):
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
        ("agentrl.learning.terms", "from agentrl.env.base import Env", "learning and env are siblings"),
        ("agentrl.rollout.env_pool", "from agentrl.tools.sql import x", "rollout and tools are siblings"),
        ("agentrl.sandboxed.env", "from agentrl.tools.sql import x", "sandboxed and tools are siblings"),
        ("agentrl.training.run", "import agentrl.environments.shop", "come through entry points alone"),
        ("agentrl.training.run", "import agentrl.training.plan", "upstairs inside training"),
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
        ("agentrl.cli.train", "def f():\n    from agentrl.training.train import train"),
        ("agentrl.training.run", "from agentrl.rollout.runner import x\nfrom agentrl.learning.rows import y"),
        ("agentrl.environments.shop", "from agentrl.sandboxed.env import SandboxEnv"),
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


def test_bundled_folders_have_wings_of_one_level_at_most():
    files = [path for folder in ("environments", "tools") for path in (ROOT / folder).rglob("*.py")]
    assert [path for path in files if len(path.relative_to(ROOT).parts) > 3] == []


def test_importing_the_package_loads_nothing_heavy():
    heavy = ("torch", "transformers", "numpy", "gymnasium", "pydantic", "httpx", "rich", "click")
    code = f"import sys, agentrl; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_making_an_environment_loads_no_torch():
    code = "import sys, agentrl; agentrl.make('agentrl/Shop-v0').reset(seed=1); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "False"


def test_reading_a_training_configuration_loads_no_transformers():
    code = "import sys, agentrl.training.plan; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "False", "a mistake in a TOML file is then told seconds later"


# Folders whose root holds more Python files than a reader keeps in mind, each with its reason.
FULL_ROOTS: dict[str, str] = {}
MOST_FILES = 15
MOST_LINES = 60


@pytest.mark.parametrize(
    "folder",
    sorted({path.parent for path in our_files()}),
    ids=lambda folder: str(folder.relative_to(ROOT)),
)
def test_no_folder_is_a_hall(folder):
    files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    name = str(folder.relative_to(ROOT))
    assert (len(files) > MOST_FILES) == (name in FULL_ROOTS), f"{len(files)} files at the root of {name}"


def test_no_function_is_long():
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in our_files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno >= MOST_LINES
    ]
    assert long == []


def test_imports_have_no_circle():
    graph: dict[str, set[str]] = {}
    for path in our_files():
        module, is_package = module_name(path), path.name == "__init__.py"
        found = imports_of(path.read_text(encoding="utf-8"), module, "", is_package=is_package)
        graph[module] = {item.imported for item in found if not item.late and item.imported.startswith("agentrl.")}
    # A package's face imports what it shows; what it shows never imports the face.
    TopologicalSorter(graph).prepare()
