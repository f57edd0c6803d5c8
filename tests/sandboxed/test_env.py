"""Sandboxes of episodes: lent when needed, emptied when given back, saved and forked exactly; and their faults."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import tempfile
from pathlib import Path

import pytest

from agentrl.env.registry import make
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.environments.bug_fix import BugFix
from agentrl.environments.data_analysis import DataAnalysis
from agentrl.environments.function_synthesis import FunctionSynthesis
from agentrl.environments.terminal import Terminal
from agentrl.errors import EnvFault
from agentrl.messages import Action
from agentrl.sandbox import pool as pools
from agentrl.sandbox.base import SandboxFault, SandboxSpec
from agentrl.sandbox.pool import Pool, clear_pools
from agentrl.sandboxed import env as sandbox_env
from agentrl.sandboxed.env import SandboxEnv
from agentrl.tool_schema import Tool

IDS = ("FunctionSynthesis", "Terminal", "BugFix", "DataAnalysis")


async def tell(env, command):
    """What a shell command prints."""
    return (await env.astep(call("shell", command=command)))[0][0].content


async def test_a_fork_has_the_files_and_goes_its_own_way():
    env = Terminal()
    await env.areset(options={"task": "eval-0"})
    await tell(env, "echo one > a.txt; mkdir -p d; chmod 700 d; ln -s a.txt d/link; printf '\\xff' > raw")
    twin = await env.afork()
    await tell(twin, "echo two > a.txt; rm raw")
    await tell(env, "echo three >> a.txt")
    here, there = [await tell(e, "cat a.txt; readlink d/link; stat -c %a d; ls") for e in (env, twin)]
    await env.aclose()
    await twin.aclose()
    assert here.startswith("one\nthree\na.txt\n700\n")
    assert "raw" in here.splitlines()
    assert there.startswith("two\na.txt\n700\n")
    assert "raw" not in there.splitlines()


async def test_a_class_names_folders_that_its_programs_may_read():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        Path(folder, "packaged.py").write_text("VALUE = 'seen'\n")

        class WithPackages(Terminal):
            sandbox_read_only = (folder,)

        env = WithPackages(backend="bubblewrap")
        await env.areset(options={"task": "eval-0"})
        found = await tell(env, f"PYTHONPATH={folder} python3 -c 'import packaged; print(packaged.VALUE)'")
        refused = await tell(env, f"touch {folder}/x")
        await env.aclose()
    await clear_pools()
    assert found.strip() == "seen"
    assert "Read-only file system" in refused


async def test_a_state_outlives_its_environment_and_may_be_used_twice():
    env = Terminal()
    await env.areset(options={"task": "eval-0"})
    await tell(env, "echo kept > a.txt")
    state = pickle.loads(pickle.dumps(await env.aget_state()))
    await env.aclose()
    told = []
    for _ in range(2):
        other = Terminal()
        await other.aset_state(state)
        told.append(await tell(other, "cat a.txt; echo more >> a.txt"))
        await other.aclose()
    assert told == ["kept", "kept"]


async def test_a_fork_of_a_notebook_has_its_variables():
    env = DataAnalysis()
    await env.areset(options={"task": "eval-0"})
    for code in ("x = [1]", "x.append(2)"):
        await env.astep(call("python", code=code))
    twin = await env.afork()
    await env.astep(call("python", code="x.append(3)"))
    told = [(await e.astep(call("python", code="x")))[0][0].content for e in (env, twin)]
    await env.aclose()
    await twin.aclose()
    assert told == ["[1, 2, 3]", "[1, 2]"]


async def test_a_session_that_was_lost_is_not_run_again():
    env = DataAnalysis()
    await env.areset(options={"task": "eval-0"})
    await env.astep(call("python", code="x = 1"))
    (lost,), *_ = await env.astep(call("python", code="import os; os._exit(3)"))
    twin = await env.afork()
    here, there = [(await e.astep(call("python", code="x")))[0][0].content for e in (env, twin)]
    await env.aclose()
    await twin.aclose()
    assert "[" in lost.content
    assert "NameError" in here
    assert here == there


def test_the_synchronous_face_forks_too():
    env = Terminal()
    env.reset(options={"task": "eval-0"})
    env.step(call("shell", command="echo a > a.txt"))
    twin = env.fork()
    env.step(call("shell", command="rm a.txt"))
    assert twin.step(call("shell", command="cat a.txt"))[0][0].content == "a"
    env.close()
    twin.close()


async def test_inside_a_loop_the_synchronous_face_says_what_to_await():
    env = Terminal()
    await env.areset(options={"task": "eval-0"})
    with pytest.raises(RuntimeError, match=r"await env\.afork\(\)"):
        env.fork()
    await env.aclose()


class Counting:
    """A pool's backend that counts."""

    name = "counting"

    def __init__(self, broken=False):
        self.started, self.closed, self.resets, self.broken = 0, 0, 0, broken

    async def reap(self):
        return 0

    async def start(self, spec):
        self.started += 1
        return Stub(self)


class Stub:
    lost = False

    def __init__(self, backend):
        self.backend = backend

    async def reset(self):
        self.backend.resets += 1
        if self.backend.broken:
            raise SandboxFault("gone")

    async def healthy(self):
        return not self.backend.broken

    async def close(self):
        self.backend.closed += 1


def test_a_pool_lends_the_same_sandbox_again_also_in_another_loop():
    backend = Counting()
    pool = Pool(backend, SandboxSpec())

    async def once():
        await pool.take_back(await pool.lend())

    for _ in range(3):  # about several event loops, so it makes its own
        with asyncio.Runner() as runner:
            runner.run(once())
    assert (backend.started, backend.resets, backend.closed) == (1, 3, 0)


async def test_a_sandbox_that_cannot_be_emptied_is_never_lent_again():
    backend = Counting(broken=True)
    pool = Pool(backend, SandboxSpec())
    first = await pool.lend()
    await pool.take_back(first)
    second = await pool.lend()
    assert first is not second
    assert (backend.started, backend.closed) == (2, 1)


async def test_episodes_wait_for_a_sandbox_and_fail_when_none_comes_back(monkeypatch, caplog):
    monkeypatch.setattr(pools, "MAX_LENT", 1)
    monkeypatch.setattr(pools, "_TELL_S", 0.01)
    monkeypatch.setattr(pools, "_WAIT_S", 0.05)
    pool = Pool(Counting(), SandboxSpec())
    first = await pool.lend()
    with pytest.raises(EnvFault, match="all 1 sandboxes are lent"):
        await pool.lend()
    assert "an episode waits for one" in caplog.text
    waiting = asyncio.ensure_future(pool.lend())
    await asyncio.sleep(0)
    await pool.take_back(first)
    assert await waiting is first


async def test_no_sandbox_is_lent_before_code_runs(monkeypatch):
    asked = []
    monkeypatch.setattr(
        sandbox_env, "pool_of", lambda *args: asked.append(args) or pytest.fail("a sandbox was asked for")
    )
    for make_env, said in ((FunctionSynthesis, "I do not know"), (Terminal, "done"), (BugFix, "done")):
        env = make_env()
        await env.areset(seed=1)
        assert (await env.astep(Action(text=said)))[1] == 0.0
        await env.aclose()
    assert asked == []


@pytest.mark.parametrize(
    ("make_env", "action"),
    [(FunctionSynthesis, Action(text="return 1")), (Terminal, call("shell", command="ls"))],
)
async def test_an_episode_with_a_broken_sandbox_is_a_fault(monkeypatch, make_env, action):
    class Nowhere:
        async def lend(self):
            raise SandboxFault("bubblewrap is not installed")

    monkeypatch.setattr(sandbox_env, "pool_of", lambda *args: Nowhere())
    env = make_env()
    await env.areset(seed=1)
    with pytest.raises(EnvFault, match="bubblewrap is not installed"):
        await env.astep(action)


@pytest.mark.parametrize("name", IDS)
async def test_closing_twice_and_resetting_in_the_middle_leave_nothing_lent(name):
    env = make(f"agentrl/{name}-v0")
    for _ in range(3):
        await env.areset(seed=1)
        if env.tool_schemas:
            tool = env.tool_schemas[0]["function"]["name"]
            await env.astep(call(tool, **{"python": {"code": "1"}, "shell": {"command": "ls"}}[tool]))
            assert env._SandboxEnv__lent is not None
    await env.aclose()
    await env.aclose()
    assert env._SandboxEnv__lent is None


def double(n: int) -> int:
    """Twice a number."""
    return 2 * n


def own_name(self) -> str:
    """The name of the environment."""
    return type(self).__name__


class Rates:
    """Something that holds state of its own, as a client of an API does."""

    rate = 3

    async def convert(self, n: int) -> int:
        """The number in another currency."""
        return self.rate * n


class Till:
    """What is common to the two environments below; none of the tools needs a sandbox."""

    tasks = Tasks.of(train=[{"n": 2}], eval=[{"n": 3}])
    extra_tools = (Tool.of(double), Tool.of(Rates().convert))

    def start(self, task):
        return "go"

    def score(self, answer):
        return 0.0


class PlainTill(Till, ToolEnv):
    """Without a sandbox."""


class SandboxTill(Till, SandboxEnv):
    """With one."""

    extra_tools = (*Till.extra_tools, Tool.of(own_name))


@pytest.mark.parametrize("make_env", [PlainTill, SandboxTill])
def test_tools_that_are_no_methods_stay_unbound(make_env):
    env = make_env()
    env.reset(seed=0)
    assert env.step(call("double", n=2))[0][0].content == "4"
    assert env.step(call("convert", n=2))[0][0].content == "6"


def test_a_tool_that_takes_self_gets_the_environment():
    env = SandboxTill()
    env.reset(seed=0)
    assert env.step(call("own_name"))[0][0].content == "SandboxTill"


def _child(queue):
    queue.put(len(pools._pools))


async def test_a_forked_process_does_not_share_its_parents_sandboxes():
    env = Terminal()
    await env.areset(seed=1)
    await tell(env, "ls")
    await env.aclose()
    assert len(pools._pools) >= 1
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=_child, args=(queue,))
    process.start()
    process.join()
    assert queue.get() == 0
    await clear_pools()


@pytest.mark.parametrize("name", IDS)
def test_prompts_and_schemas_stay_compact(name):
    env = make(f"agentrl/{name}-v0")
    longest = max(len(env.reset(options={"task": task})[0][0].content) for task in env.tasks.split("eval")[:40])
    assert longest <= (75 if name == "FunctionSynthesis" else 340)
    env.close()
