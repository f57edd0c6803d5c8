"""Our sandbox as Harbor's environment, over a stand-in for the two modules of Harbor that it imports."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest

from agentrl.adapters.harbor import in_our_sandbox
from agentrl.adapters.harbor.dockerfile import TaskRefused
from tests.adapters import fakes
from tests.adapters.harbor_tasks import write_task

BASE = """
    from dataclasses import dataclass

    class BaseEnvironment:
        default_user = None

        def __init__(self, environment_dir):
            self.environment_dir = environment_dir
            self._validate_definition()

        def _resolve_user(self, user):
            return self.default_user if user is None else user

        def _merge_env(self, env):
            return env or None

    @dataclass
    class ExecResult:
        stdout: str
        stderr: str
        return_code: int
"""
CAPABILITIES = "from types import SimpleNamespace as EnvironmentCapabilities\n"


@pytest.fixture
def harbor(tmp_path, monkeypatch):
    """The module, as it is where Harbor is installed."""
    files = {"environments/base.py": BASE, "environments/capabilities.py": CAPABILITIES}
    fakes.install(tmp_path, monkeypatch, "harbor", files)
    yield importlib.reload(in_our_sandbox)
    fakes.forget("harbor")
    monkeypatch.undo()
    importlib.reload(in_our_sandbox)


@pytest.fixture
async def env(harbor, tmp_path):
    made = harbor.OurSandbox(write_task(tmp_path / "hello") / "environment")
    await made.start(force_build=False)
    yield made
    await made.stop(delete=True)


async def test_harbor_s_steps_of_a_trial_pay_the_solution(env, tmp_path):
    assert env.capabilities == SimpleNamespace(disable_internet=True)
    await env.upload_dir(source_dir=tmp_path / "hello" / "solution", target_dir="/solution")
    await env.exec("chmod +x /solution/solve.sh", user="root")
    solved = await env.exec("(/solution/solve.sh) > /logs/agent/oracle.txt 2>&1", timeout_sec=20)
    assert (solved.return_code, solved.stdout) == (0, "")
    await env.upload_dir(tmp_path / "hello" / "tests", "/tests")
    await env.exec(
        "chmod +x /tests/test.sh && /tests/test.sh; echo more > /logs/verifier/sub && mkdir /logs/verifier/d"
    )
    await env.download_dir("/logs/verifier", tmp_path / "got" / "verifier")
    got = {path.name: path.read_text() for path in (tmp_path / "got" / "verifier").iterdir()}
    assert got == {"reward.txt": "1\n", "sub": "more\n"}
    await env.download_file("/app/out/sum.txt", tmp_path / "new" / "sum.txt")
    assert (tmp_path / "new" / "sum.txt").read_text() == "42 apples\n"


async def test_commands_have_folder_variables_input_and_time(env, tmp_path):
    (tmp_path / "one").write_text("1")
    await env.upload_file(tmp_path / "one", "/app/new/one")
    told = await env.exec(
        "pwd; echo $UNIT $MORE; cat /app/new/one; echo bad >&2; exit 3", cwd="/app/out", env={"MORE": "x"}
    )
    assert (told.stdout, told.stderr, told.return_code) == ("/app/out\napples x\n1", "bad\n", 3)
    assert (await env.exec("sleep 9", timeout_sec=1)).return_code == 124
    assert (await env.exec("true", cwd="/missing")).return_code == 1
    with pytest.raises(ValueError, match="one user, and the command is for 'agent'"):
        await env.exec("true", user="agent")


async def test_a_task_that_needs_an_image_fails_when_its_trial_starts(harbor, tmp_path):
    folder = write_task(tmp_path / "heavy", task_toml='[environment]\ndocker_image = "x/y"\n')
    env = harbor.OurSandbox(folder / "environment")
    with pytest.raises(TaskRefused, match="it needs the image x/y"):
        await env.start(force_build=False)
    with pytest.raises(RuntimeError, match="has not been started"):
        await env.exec("true")
    await env.stop(delete=True)
