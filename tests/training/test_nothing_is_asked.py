"""A run never asks on standard input, and runs no code out of a model folder."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest

import agentrl
from agentrl.errors import ModelError
from agentrl.training.model_setup import ModelConfig
from agentrl.training.train import train
from tests.training.test_preflight import CONFIG, rl

ASKING = {"input", "confirm", "getpass", "breakpoint", "set_trace"}


def calls(tree: ast.Module) -> list[tuple[str, ast.Call]]:
    """The calls of a module, by the last part of the called name."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [(getattr(call.func, "attr", getattr(call.func, "id", "")), call) for call in found]


def test_no_module_asks_and_no_model_is_loaded_with_its_own_code() -> None:
    root = Path(agentrl.__file__).parent
    loads = 0
    for path in root.rglob("*.py"):
        for name, call in calls(ast.parse(path.read_text())):
            where = f"{path.relative_to(root)}:{call.lineno}"
            assert name not in ASKING, where
            owner = getattr(getattr(call.func, "value", None), "attr", "")
            if name in ("from_pretrained", "from_config") and owner != "PeftConfig":  # which is JSON alone
                loads += 1
                given = {k.arg: k.value for k in call.keywords}
                assert isinstance(given.get("trust_remote_code"), ast.Constant), where
                assert given["trust_remote_code"].value is False, where
    assert loads >= 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("first") / "run"
    train(replace(CONFIG, **rl(steps=0)), run)
    return run / "model"


@pytest.mark.parametrize("known", [True, False], ids=["class of transformers", "class of its own"])
def test_a_model_that_brings_code_is_trained_without_it_or_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda prompt="": asked.append(prompt) or "y")
    mark = folder / "ran"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass C: ...\n")
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    own = {} if known else {"model_type": "nobody_knows_it", "architectures": ["Evil"]}
    path.write_text(
        json.dumps({**settings, **own, "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}})
    )
    config = replace(CONFIG, model=ModelConfig(path=str(folder)), **rl(steps=0))
    try:
        if known:
            assert train(config, tmp_path / "run")["after"]["n_tasks"] == 3
        else:
            with pytest.raises(ModelError, match="cannot be loaded"):
                train(config, tmp_path / "run")
    finally:
        path.write_text(json.dumps(settings))
    assert (asked, mark.exists()) == ([], False)
