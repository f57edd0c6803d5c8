"""The public names of the package: each is there, is what its module says, and is known to type checkers."""

from __future__ import annotations

import ast
import importlib
import tomllib
from pathlib import Path

import pytest

import agentrl

ROOT = Path(__file__).resolve().parent.parent
STUB = ROOT / "agentrl" / "__init__.pyi"
IMPORTS = [node for node in ast.parse(STUB.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
MODULE_OF = {alias.name: f"agentrl.{node.module}" for node in IMPORTS for alias in node.names}


@pytest.mark.parametrize("name", sorted(MODULE_OF))
def test_a_public_name_is_its_modules_object(name):
    module = importlib.import_module(MODULE_OF[name])
    assert getattr(agentrl, name) is getattr(module, name)
    assert name in dir(agentrl)


def test_the_stub_is_the_one_list_of_public_names():
    assert sorted(agentrl.__all__) == sorted(MODULE_OF)
    # `import X as X`: without the `as`, type checkers take a name of a stub for a private one.
    assert [alias.name for node in IMPORTS for alias in node.names if alias.asname != alias.name] == []


def test_type_information_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    files = settings["package-data"]["agentrl"]
    assert sorted(files) == ["__init__.pyi", "py.typed"]
    assert all((ROOT / "agentrl" / name).exists() for name in files)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="No agentrl attribute Enviroment"):
        agentrl.Enviroment  # noqa: B018
