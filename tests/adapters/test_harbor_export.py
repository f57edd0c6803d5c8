"""Tasks of ours as Harbor's task folders: read back, they pay what our own environment pays."""

from __future__ import annotations

import json
import tomllib

import pytest
from click.testing import CliRunner

from agentrl.adapters.harbor.environment import Harbor
from agentrl.adapters.harbor.export import export_tasks
from agentrl.cli import main
from agentrl.env import registry
from agentrl.env.registry import reference
from agentrl.errors import ConfigError
from tests.environments.sandboxed import play, shell

TERMINAL, FUNCTIONS = "agentrl/Terminal-v0", "agentrl/FunctionSynthesis-v0"


@pytest.mark.parametrize("id", [TERMINAL, FUNCTIONS])
async def test_a_round_trip_is_solved_by_the_solution_and_by_nothing_else(id, tmp_path):
    export_tasks(reference(id, level=None), tmp_path / "tasks", limit=8)
    env = Harbor(folder=str(tmp_path / "tasks"))
    tasks = env.tasks.split("eval")
    try:
        earned = [((await play(env, task))[0], (await play(env, task, shell("true")))[0]) for task in tasks]
    finally:
        await env.aclose()
    assert earned == [(1.0, 0.0)] * 8


async def test_hasty_work_earns_what_it_earns_in_our_own_environment(tmp_path):
    export_tasks(FUNCTIONS, tmp_path / "tasks", limit=6)
    ours, theirs = registry.make(FUNCTIONS), Harbor(folder=str(tmp_path / "tasks"))
    for task in ours.tasks.split("eval")[:6]:
        messages = (await ours.areset(seed=3, options={"task": task}))[0]
        slip = ours.unwrapped.hasty(messages)
        body = f"cat > solution.py <<'END'\ndef f({argument_of(messages[-1].content)}):\n    {slip.text}\nEND"
        wanted = (await ours.astep(slip))[1]
        assert (await play(theirs, theirs.tasks[task.id], shell(body)))[0] == wanted == 0.0
    await ours.aclose()
    await theirs.aclose()


def argument_of(question):
    return question.partition("(")[2].partition(")")[0]


@pytest.mark.parametrize(
    "module",
    [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "def f(x):\n    return type('int', (int,), {'__eq__': lambda a, b: True})()",
        "def f(*a):\n    return ''.join(open('/tests/cases.txt'))",
        "while True: pass",
    ],
)
async def test_a_module_that_cheats_earns_nothing(module, tmp_path):
    export_tasks(FUNCTIONS, tmp_path / "tasks", limit=1)
    env = Harbor(folder=str(tmp_path / "tasks"))
    (task,) = env.tasks.split("eval")
    assert (await play(env, task, shell(f"cat > solution.py <<'END'\n{module}\nEND")))[0] == 0.0
    await env.aclose()


async def test_a_link_to_the_wanted_file_is_not_that_file(tmp_path):
    export_tasks(TERMINAL, tmp_path / "tasks", limit=12)
    env = Harbor(folder=str(tmp_path / "tasks"))
    for task in env.tasks.split("eval"):
        solve = (tmp_path / "tasks" / task.id / "solution" / "solve.sh").read_text()
        wanted = json.loads((tmp_path / "tasks" / task.id / "tests" / "wanted.json").read_text())["wanted"]
        path = sorted(wanted)[0]
        aside = f"mv '{path}' /work/aside && ln -s /work/aside '{path}'"
        assert (await play(env, task, shell(solve, aside)))[0] == 0.0
    await env.aclose()


def test_the_folder_says_where_the_task_comes_from_and_hides_the_answer_from_the_agent(tmp_path):
    done = export_tasks(TERMINAL, tmp_path / "tasks", limit=1)
    folder = tmp_path / "tasks" / done.folders[0]
    task = registry.make(TERMINAL).tasks.split("eval")[0]
    config = tomllib.loads((folder / "task.toml").read_text())
    assert config["schema_version"] == "1.4"
    assert config["environment"] == {"network_mode": "no-network"}
    told = config["metadata"]
    assert (told["agentrl_env"], told["task_id"], told["fingerprint"]) == (TERMINAL, task.id, task.fingerprint)
    assert {path.name for path in (folder / "environment").iterdir()} == {"Dockerfile", "files"}
    assert (folder / "solution" / "solve.sh").stat().st_mode & 0o100


def test_the_command_exports_and_refuses_what_it_cannot(tmp_path):
    def run(*words):
        return CliRunner().invoke(
            main, ["export-tasks", *words, "--format", "harbor", "--out", str(tmp_path / "tasks")]
        )

    refused = run("agentrl/Shop-v0")
    assert refused.exit_code != 0
    assert "agentrl/Shop-v0 cannot be written as folders: its class has no method task_folder(task)" in refused.output
    assert not (tmp_path / "tasks").exists()
    done = run(FUNCTIONS, "--tasks", "2", "--kwarg", "level=2", "--json")
    assert json.loads(done.stdout)["tasks"] == ["eval-0", "eval-1"]
    again = run(FUNCTIONS)
    assert again.exit_code != 0
    assert "is there already and not an empty folder" in again.output


def test_folders_that_something_is_in_are_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder: name a new one"):
        export_tasks(TERMINAL, tmp_path, limit=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_harbor_itself_reads_the_folders(tmp_path):
    tasks = pytest.importorskip("harbor.models.task.task")
    for id in (TERMINAL, FUNCTIONS):
        for name in export_tasks(id, tmp_path / id, limit=5).folders:
            assert tasks.Task.is_valid_dir(tmp_path / id / name)
