"""The public names of the package: each is there, is what its module says, and is known to type checkers."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import agentrl


@pytest.mark.parametrize("name", sorted(agentrl._MODULE_OF))
def test_a_public_name_is_its_modules_object(name):
    module = importlib.import_module(agentrl._MODULE_OF[name])
    value = getattr(agentrl, name)
    assert value is getattr(module, name)
    assert name in dir(agentrl)


def test_type_checkers_see_the_same_names_from_the_same_modules():
    tree = ast.parse(Path(agentrl.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == agentrl._MODULE_OF


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'agentrl' has no attribute 'Enviroment'"):
        agentrl.Enviroment  # noqa: B018
