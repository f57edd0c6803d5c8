"""What adapters share: a missing package is told with its pip command, tools of a JSON schema, splits."""

from __future__ import annotations

import errno
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from agentrl.adapters.suite import Seeded, from_package, seeded_tasks, splits_of, suite_tool
from agentrl.cli.checks.doctor import look_at_environments
from agentrl.cli.envs import describe
from agentrl.env import registry
from agentrl.env.base import Env
from agentrl.errors import PackageMissing, ToolError

ROOT = Path(__file__).parents[2]
ENTRIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["agentrl.environments"]
SUITES = {name: place for name, place in ENTRIES.items() if name.startswith("suites/")}


def test_a_missing_package_is_told_with_the_command_that_installs_it():
    with pytest.raises(PackageMissing, match=r"'no_such_suite'.*not installed: pip install no-such-suite"):
        from_package("no_such_suite", "pip install no-such-suite")


def test_a_missing_dependency_of_a_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "half_a_suite.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PackageMissing, match=r"'half_a_suite', which needs the module 'no_such_dependency'"):
        from_package("half_a_suite", "pip install half-a-suite")


@pytest.mark.parametrize("id", sorted(SUITES))
def test_every_suite_of_the_package_is_registered_under_its_id_and_imports_nothing_of_the_suite(id):
    module, name = SUITES[id].split(":")
    env_class = getattr(import_module(module), name)
    assert issubclass(env_class, Env)
    assert registry.spec(SUITES[id]).env_class is env_class
    assert registry.spec(id).env_class is env_class, "its @register has another id"
    assert env_class.third_party or id == "suites/Harbor-v1", "only Harbor's is a format, which needs no package"
    assert registry.spec(id).description.endswith(".")


def test_the_version_of_an_environment_names_the_package_that_it_plays():
    assert "gymnasium 1." in registry.version_of(registry.spec(SUITES["suites/Gymnasium-v0"]))


def test_listing_environments_says_how_to_install_a_suite_and_what_is_known_to_be_wrong(monkeypatch):
    def lacks(self, **kwargs):
        raise PackageMissing("this environment needs 'bfcl_eval', which is not installed: pip install bfcl-eval")

    found = registry.spec(SUITES["suites/BFCL-v4"])
    monkeypatch.setattr(found.env_class, "__init__", lacks)
    row = describe("suites/BFCL-v4")
    assert row["error"].endswith("pip install bfcl-eval")
    assert row["description"]
    assert any("7 of the 2,351" in flaw for flaw in row["known_flaws"])
    monkeypatch.setattr(registry, "env_ids", lambda: ["suites/BFCL-v4", "agentrl/Shop-v0"])
    (finding,) = look_at_environments()
    assert (finding.status, "1 suites are not installed" in finding.detail) == ("ok", True)


def test_a_tool_of_a_suite_shows_its_schema_and_answers_what_the_suite_raises():
    def run(env, name, given):
        if given.get("bad"):
            raise KeyError("no such file")
        if given.get("full"):
            raise OSError(errno.ENOSPC, "no space left")
        return {"name": name, **given}

    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    tool = suite_tool("move", "Move.", schema, run)
    assert tool.schema["function"] == {"name": "move", "description": "Move.", "parameters": schema}
    tool = tool.bound_to("env")
    assert tool.function(**tool.validate({"x": "five", "odd key": 1})) == '{"name": "move", "x": "five", "odd key": 1}'
    with pytest.raises(ToolError, match="KeyError: 'no such file'"):
        tool.function(**tool.validate({"bad": True}))
    with pytest.raises(ToolError, match="must be an object"):
        tool.validate(["x"])
    with pytest.raises(OSError, match="no space left"):  # this machine's, which no model reads or is scored for
        tool.function(**tool.validate({"full": True}))


def test_tasks_go_to_a_training_split_by_their_id_alone():
    items = [(f"task-{i}", {"i": i}) for i in range(200)]
    assert splits_of(items).splits == ("eval",)
    tasks = splits_of(items, 0.5)
    train = {task.id for task in tasks.split("train")}
    assert 60 < len(train) < 140
    assert {task.id for task in splits_of(items[:20], 0.5).split("train")} == train & {id for id, _ in items[:20]}
    with pytest.raises(ValueError, match="train_share must be from 0 up to below 1, got 1"):
        splits_of(items, 1.0)


def counted(kinds):
    """A generator with that many contents, which come again and again."""

    def one(split, index):
        number = (index + (1_000 if split == "eval" else 0)) % kinds
        return f"{split}-{index}", {"number": number}, str(number)

    return one


@pytest.mark.parametrize(
    ("kinds", "train", "held_out", "sizes"),
    [(100, 5, 3, (5, 3)), (6, 5, 3, (3, 3)), (6, 5, 10, (4, 2)), (1, 5, 3, (0, 1)), (6, 0, 10, (0, 6))],
)
def test_splits_share_no_content_and_a_generator_of_few_keeps_a_fifth_of_them_for_eval(kinds, train, held_out, sizes):
    tasks = seeded_tasks([Seeded(counted(kinds))], train, held_out)
    found = {
        split: [task.data["number"] for task in tasks.split(split)]
        for split in ("train", "eval")
        if sizes[split == "eval"]
    }
    assert tuple(len(found.get(split, [])) for split in ("train", "eval")) == sizes
    everything = [number for numbers in found.values() for number in numbers]
    assert len(set(everything)) == len(everything)


def test_no_more_indices_are_tried_than_a_generator_has():
    tried = []

    def one(split, index):
        tried.append(index)
        return f"{split}-{index}", {}, "the same"

    assert len(Seeded(one, most=7).splits(0, 5)["eval"]) == 1
    assert max(tried) == 6
