"""`agentrl envs`: the list, and an environment that does not load beside others that do."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from agentrl.cli import main
from agentrl.cli.envs import describe
from agentrl.env import registry


def test_lists_the_bundled_environments() -> None:
    rows = {row["id"]: row for row in json.loads(CliRunner().invoke(main, ["envs", "--json"]).stdout)}
    shop = rows["agentrl/Shop-v0"]
    assert (shop["error"], shop["max_turns"]) == (None, 8)
    assert "search" in shop["tools"]
    text = CliRunner().invoke(main, ["envs"]).stdout
    assert ["agentrl/Shop-v0", shop["description"]] in [line.split(maxsplit=1) for line in text.splitlines()]


def test_one_that_does_not_load_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(env_id: str) -> None:
        raise RuntimeError("no database")

    monkeypatch.setattr(registry, "make", broken)
    assert describe("agentrl/Shop-v0")["error"] == "does not load: RuntimeError: no database"
