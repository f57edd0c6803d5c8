"""`agentrl replay`: stores that replay, that differ, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentrl.cli import main
from agentrl.env import registry
from agentrl.env.registry import register
from agentrl.environments.guess import Guess
from agentrl.policy.scripted import OraclePolicy, ScriptedPolicy
from agentrl.registry import load_reference
from agentrl.rollout.runner import rollout
from agentrl.rollout.store import TrajectoryStore
from agentrl.sandboxed.env import SandboxEnv

ENV = "agentrl/Guess-v0"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    tasks = registry.make(ENV).tasks.split("train")[:3]
    with TrajectoryStore(folder / "trajectories.jsonl") as store:
        rollout(ENV, OraclePolicy(), tasks, store=store)
    return folder


def replay(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["replay", *arguments])


def test_a_folder_and_a_file_replay(recorded: Path) -> None:
    for target in (recorded, recorded / "trajectories.jsonl"):
        result = replay(str(target), "--json")
        assert result.exit_code == 0, result.output
        counts = {"ok": True, "same": 3, "differs": 0, "skipped": 0}
        assert json.loads(result.stdout) == {**counts, "versions": [], "tasks": [], "differing": []}
    assert "2 same" in replay(str(recorded), "--limit", "2").stdout


def test_a_changed_record_is_named(recorded: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (recorded / "trajectories.jsonl").read_text().splitlines()]
    lines[1]["turns"][0]["reward"] = 0.5
    store = tmp_path / "changed.jsonl"
    store.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = replay(str(store), "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["same"], report["differs"]) == (2, 1)
    (difference,) = report["differing"]
    assert (difference["turn"], difference["part"], difference["recorded"]) == (0, "reward", "0.5")
    assert "turn 0: reward differs" in replay(str(store)).stdout


def test_what_cannot_be_replayed(recorded: Path, tmp_path: Path) -> None:
    result = replay(str(tmp_path))
    assert result.exit_code == 1
    assert "give a run folder or a trajectories.jsonl" in result.stderr
    assert replay(str(recorded), "--stage", "eval").exit_code == 1
    assert "Did you mean" in replay(str(recorded), "--env", "agentrl/Gess-v0").stderr


EVIL = """
from pathlib import Path
Path({mark!r}).write_text("imported")
from agentrl.environments.guess import Guess as E
class B:
    isolates = True
def score(*args):
    return 1.0
"""


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file and a module that leave a mark when they are imported; the mark's path."""
    mark = tmp_path / "mark"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("evil.py", "evil_module.py"):
        (tmp_path / name).write_text(EVIL.format(mark=str(mark)))
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)
    return mark


def rewritten(recorded: Path, target: Path, **env: object) -> str:
    """A store whose first episode names another environment or other arguments. Returns: its path."""
    line = json.loads((recorded / "trajectories.jsonl").read_text().splitlines()[0])
    line["env"] |= env
    target.write_text(json.dumps(line) + "\n")
    return str(target)


@pytest.mark.parametrize(
    "name", ["./evil.py:E", "evil.py:E", "../x/evil.py:E", "/absent/evil.py:E", "evil_module:E", "evil.py", "os:system"]
)
def test_a_record_does_not_choose_the_environments_code(recorded: Path, tmp_path: Path, evil: Path, name: str) -> None:
    for named in (name, str(evil.with_name("evil.py")) + ":E"):
        result = replay(rewritten(recorded, tmp_path / "t.jsonl", id=named))
        assert result.exit_code == 1
        assert f"the record names {named!r}, which is not registered here" in result.stderr
        assert not evil.exists()


def test_code_that_the_caller_names_is_replayed(recorded: Path, tmp_path: Path, evil: Path) -> None:
    store = rewritten(recorded, tmp_path / "t.jsonl", id="./evil.py:E", version="")
    assert "1 same" in replay(store, "--env", "./evil.py:E").stdout
    assert evil.read_text() == "imported"
    assert "1 same" in replay(store, "--trust-record").stdout


@register("test/Referring-v0", own="tests.cli.test_replay:guess_size")
class Referring(Guess):
    """A guessing game whose size is a function that an argument names."""

    def __init__(self, *, size_of: str = "", nested: object = None, own: str = "", **options: object) -> None:
        found = [load_reference(name)() for name in (size_of, own) if name]
        if isinstance(nested, dict):
            registry.make(nested["env"][0])
        super().__init__(size=found[0] if found else 100)


def guess_size() -> int:
    return 100


same_size = guess_size


@pytest.mark.parametrize(
    "kwargs",
    [
        {"size_of": "./evil.py:score"},
        {"size_of": "evil_module:score"},
        {"nested": {"env": ["./evil.py:E"]}},
        {"nested": {"env": ["evil_module:E"]}},
        {"nested": {"env": ["evil.py"]}},
    ],
)
@pytest.mark.parametrize("option", [(), ("--env", "test/Referring-v0")])
def test_an_argument_of_a_record_does_not_choose_code(
    recorded: Path, tmp_path: Path, evil: Path, kwargs: dict[str, object], option: tuple[str, ...]
) -> None:
    result = replay(rewritten(recorded, tmp_path / "t.jsonl", id="test/Referring-v0", kwargs=kwargs), *option)
    assert result.exit_code == 1
    assert "names code" in result.stderr or "names the code" in result.stderr
    assert "--trust-record" in result.stderr
    assert not evil.exists()


def test_a_registration_may_name_code_and_so_may_a_record_that_is_trusted(recorded: Path, tmp_path: Path) -> None:
    store = rewritten(recorded, tmp_path / "t.jsonl", id="test/Referring-v0", version="")
    assert replay(store).exit_code == 0
    kwargs = {"size_of": "tests.cli.test_replay:same_size"}
    store = rewritten(recorded, tmp_path / "t.jsonl", id="test/Referring-v0", kwargs=kwargs, version="")
    assert replay(store).exit_code == 1
    assert replay(store, "--trust-record").exit_code == 0


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"backend": "./evil.py:B"}, "'./evil.py:B'"),
        ({"backend": "evil_module:B"}, "'evil_module:B'"),
        ({"backend": "subprocess", "backend_options": {"unsafe": True}}, "'subprocess' with options ['unsafe']"),
        ({"backend": "bubblewrap", "backend_options": {"python": "/tmp/evil"}}, "options ['python']"),
        ({"backend": "docker", "backend_options": {"base_url": "tcp://evil:1"}}, "options ['base_url']"),
        ({"backend": ["bubblewrap"]}, "['bubblewrap']"),
    ],
)
@pytest.mark.parametrize("env_id", ["agentrl/DataAnalysis-v0", "test/Own-v0"])
def test_a_record_does_not_choose_where_a_models_code_runs(
    recorded: Path, tmp_path: Path, evil: Path, kwargs: dict[str, object], named: str, env_id: str
) -> None:
    store = rewritten(recorded, tmp_path / "t.jsonl", id=env_id, kwargs=kwargs)
    for option in ((), ("--env", env_id)):
        result = replay(store, *option)
        assert result.exit_code == 1
        assert named in result.stderr
        assert "--trust-record" in result.stderr
        assert not evil.exists()


@register("test/Own-v0")
class Own(SandboxEnv):
    """A sandbox of one's own."""


def test_another_version_and_another_task_are_named_beside_the_result(recorded: Path, tmp_path: Path) -> None:
    here = registry.make(ENV).ref
    assert here is not None
    lines = [json.loads(line) for line in (recorded / "trajectories.jsonl").read_text().splitlines()]
    assert lines[0]["env"]["version"] == here.version
    lines[0]["env"]["version"] = "agentrl 0.0.9"
    lines[1]["task"]["data"]["low"] += 1
    store = tmp_path / "t.jsonl"
    store.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = json.loads(replay(str(store), "--json").stdout)
    assert report["versions"] == [{"env_id": ENV, "recorded": "agentrl 0.0.9", "here": here.version, "episodes": 1}]
    assert report["tasks"] == [lines[1]["task"]["id"]]
    shown = replay(str(store)).stdout.splitlines()
    assert shown[0] == "2 same, 1 differs, 0 skipped"
    assert shown[1] == f"{ENV} was recorded with version 'agentrl 0.0.9', here it is {here.version!r} (1 episodes)"
    assert shown[2].startswith(f"1 tasks have another content here ({lines[1]['task']['id']})")


def test_half_a_character_of_a_model_is_shown(tmp_path: Path) -> None:
    @register("test/Half-v0")
    class Half(Guess):
        """Says half a character when it fails."""

        async def respond(self, text: str) -> str | None:
            if fail:
                raise ValueError(f"\ud800 {fail}")
            return None

    fail = ""
    with TrajectoryStore(tmp_path / "t.jsonl") as store:
        rollout("test/Half-v0", ScriptedPolicy(["\ud800"]), ["train-0"], store=store)
    assert replay(str(tmp_path / "t.jsonl")).exit_code == 0
    fail = "now"
    result = replay(str(tmp_path / "t.jsonl"))
    assert result.exit_code == 1
    assert "turn 0: error differs" in result.stdout
    assert replay(str(tmp_path / "t.jsonl"), "--json").exit_code == 1
