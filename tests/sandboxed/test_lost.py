"""Episodes whose sandbox is lost or cannot be graded go on or fail; those whose sandbox really fails are discarded."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace

import pytest

from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import call
from agentrl.environments.bug_fix import BugFix
from agentrl.environments.data_analysis import DataAnalysis
from agentrl.environments.terminal import Terminal
from agentrl.errors import EnvFault
from agentrl.messages import Action
from agentrl.policy.scripted import OraclePolicy, ScriptedPolicy
from agentrl.rollout.episode import run_episode
from agentrl.sandbox import SandboxFault, SandboxLimits, SandboxSpec
from agentrl.sandbox.host import ending as ending_module
from agentrl.sandbox.host import sandbox as sandbox_module
from agentrl.sandbox.host.channel import until_readable
from agentrl.sandbox.pool import Pool, clear_pools
from agentrl.sandboxed.env import SandboxEnv
from agentrl.tool_schema import tool
from agentrl.tools.shell import shell_tool
from tests.sandboxed.attacks import FOLDERS

QUICK = SandboxLimits(wall_s=0.3)


class QuickTerminal(Terminal):
    sandbox_limits = replace(Terminal.sandbox_limits, wall_s=0.5)


class QuickNotebook(DataAnalysis):
    sandbox_limits = replace(DataAnalysis.sandbox_limits, wall_s=0.5)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(ending_module, "_PAUSES_S", (0.0,))
    monkeypatch.setattr(sandbox_module, "_GRACE_S", 0.1)


def send_worker(env, number):
    signal.pidfd_send_signal(env._SandboxEnv__lent._process._worker_fd, number)


async def say(env, action):
    """What the environment answers."""
    return (await env.astep(action))[0][0].content


async def lose(env, action):
    """Run a tool while the worker is too slow to answer, as a program can make it; returns what the model reads."""
    await env.sandbox()
    send_worker(env, signal.SIGSTOP)
    return await say(env, action)


def shell(command):
    return call("shell", command=command)


def cell(code):
    return call("python", code=code)


async def test_the_model_reads_that_all_is_gone_and_goes_on_from_the_beginning():
    env = QuickTerminal()
    await env.areset(options={"task": "eval-0"})
    begun = await say(env, shell("find . -type f | sort | xargs cat"))
    await say(env, shell("rm -rf *; echo mine > a.txt"))
    assert (await lose(env, shell("true"))).startswith("[the sandbox is lost with all that was changed in it")
    assert await say(env, shell("ls a.txt 2>/dev/null; find . -type f | sort | xargs cat")) == begun
    assert (await env.astep(Action(text="done")))[1] == 0.0
    await env.aclose()


async def test_what_was_solved_before_is_lost_too():
    env = QuickTerminal()
    messages, _ = await env.areset(options={"task": "eval-0"})
    await env.astep(env.oracle(messages))
    await lose(env, shell("true"))
    observation, reward, terminated, *_ = await env.astep(Action(text="done"))
    await env.aclose()
    assert (observation, reward, terminated) == ((), 0.0, True)


@pytest.mark.parametrize("read", [call("read_file", path="run_tests.py"), call("write_file", path="a", text="b")])
async def test_file_tools_say_it_too(read):
    env = BugFix()
    await env.areset(options={"task": "eval-0"})
    await say(env, shell("true"))
    sandbox = await env.sandbox()
    send_worker(env, signal.SIGSTOP)
    await sandbox.run_python("1", limits=QUICK)
    assert (await say(env, read)).split()[0] in ("import", "written")  # in the new one
    await env.aclose()


async def test_a_notebook_begins_anew_and_so_does_its_fork():
    env = QuickNotebook()
    await env.areset(options={"task": "eval-0"})
    await say(env, cell("x = 1; open('mine', 'w').close()"))
    await lose(env, cell(f"#{'x' * 5000}"))
    twin = await env.afork()
    for each in (env, twin):
        assert "NameError" in await say(each, cell("x"))
        assert await say(each, cell("import os; os.listdir()")) == "['sales.csv']"
        await each.aclose()


async def test_a_fork_that_loses_its_sandbox_has_the_files_of_the_beginning():
    env = QuickTerminal()
    await env.areset(options={"task": "eval-0"})
    begun = await say(env, shell("find . | sort"))
    await say(env, shell("rm -rf *; echo mine > a.txt"))
    twin = await env.afork()
    assert await say(twin, shell("ls")) == "a.txt"
    await lose(twin, shell("true"))
    assert await say(twin, shell("find . | sort")) == begun
    assert await say(env, shell("ls")) == "a.txt"
    await env.aclose()
    await twin.aclose()


async def test_grading_can_start_over_after_a_loss():
    env = BugFix()
    await env.areset(options={"task": "eval-0"})
    sandbox = await env.sandbox()
    await sandbox.exec(["true"])
    send_worker(env, signal.SIGSTOP)
    assert (await sandbox.run_python("1", limits=QUICK)).status == "lost"
    empty = await env.start_over()
    assert await empty.entries() == []
    await env.aclose()


class Author(SandboxEnv):
    """Written without a thought of what a model can do: nothing is caught."""

    tasks = Tasks.of(train=[{"n": 1}], eval=[{"n": 2}])
    extra_tools = (shell_tool(),)

    def start(self, task):
        self.put_files({"a.txt": b"a"})
        return "go"

    @tool
    async def size(self, path: str) -> int:
        """The size of a file."""
        return len(await (await self.sandbox()).read(path))

    async def respond(self, text):
        if text.startswith("read "):
            return (await (await self.sandbox()).read(text.removeprefix("read "))).decode()
        return None

    async def score(self, answer):
        self.add_reward("reward", 5.0)
        return float(len(await (await self.sandbox()).entries()))


async def play(*actions):
    env = Author()
    try:
        return await run_episode(env, ScriptedPolicy([*actions, Action(text="done")]), env.tasks.split("eval")[0], 1)
    finally:
        await env.aclose()


async def test_a_folder_that_cannot_be_graded_is_a_failure_that_says_why():
    trajectory = await play(shell(f"python3 - <<'E'\n{FOLDERS}\nE"))
    assert (trajectory.ending.kind, trajectory.reward, trajectory.success) == ("error", 0.0, False)
    assert "nested deeper than 128 levels" in trajectory.ending.detail
    assert trajectory.info["tool_stats"] == {"shell": {"calls": 1, "errors": 0}}
    assert (await play()).reward == 6.0  # an ordinary one


async def test_what_the_sandbox_refuses_to_an_authors_tool_is_text_for_the_model():
    trajectory = await play(call("size", path="../x"), call("size", path="\ud800"), call("size", path="a.txt"))
    told = [message.content for message in trajectory.messages() if message.role == "tool"]
    assert [text.split(":")[0] for text in told] == ["Error", "Error", "1"]
    assert trajectory.ending.kind == "answer"


async def test_what_the_sandbox_refuses_to_respond_is_a_failure():
    assert (await play(Action(text="read a.txt"))).ending.kind == "answer"
    trajectory = await play(Action(text="read nothing"))
    assert (trajectory.ending.kind, trajectory.success) == ("error", False)


async def test_an_episode_that_failed_so_is_over():
    env = Author()
    await env.areset(seed=1)
    *_, terminated, truncated, info = await env.astep(Action(text="read nothing"))
    assert (terminated, truncated, info["success"], env._SandboxEnv__lent) == (True, False, False, None)
    with pytest.raises(RuntimeError, match="the episode is over"):
        await env.astep(Action(text="done"))
    await env.areset(seed=1)
    assert (await env.astep(Action(text="done")))[1] == 6.0
    await env.aclose()


async def test_a_backend_that_does_not_exist_is_the_authors_mistake():
    env = Author(backend="bubblewarp")
    await env.areset(seed=1)
    with pytest.raises(EnvFault, match="bubblewrap") as caught:
        await env.astep(shell("true"))
    assert caught.value.at == "author"


def test_the_tools_leave_time_limits_to_the_sandbox():
    for made in (Terminal, BugFix, DataAnalysis):
        assert all(math.isinf(each.timeout_s) for each in made.extra_tools)


# What really fails is a fault, and works again on the retry.


async def test_a_worker_that_ends_between_two_tools_is_a_fault():
    env = Author()
    await env.areset(seed=1)
    await say(env, shell("true"))
    worker = os.dup(env._SandboxEnv__lent._process._worker_fd)
    send_worker(env, signal.SIGKILL)
    await until_readable(worker)
    os.close(worker)
    with pytest.raises(SandboxFault):
        await env.astep(shell("true"))
    await env.areset(seed=1)
    assert await say(env, shell("cat a.txt")) == "a"
    await env.aclose()


class WithoutBackend(ScriptedPolicy):
    """Solves the task, but bubblewrap is gone and the worker hangs while its first program runs, `times` times."""

    def __init__(self, monkeypatch, times):
        super().__init__([Action()])
        self.monkeypatch, self.times = monkeypatch, times

    def bind(self, env):
        self.env, self.oracle = env, OraclePolicy().bind(env)
        return self

    async def act(self, messages, tools, **more):
        if self.times > 0:
            self.times -= 1
            await self.env.sandbox()
            send_worker(self.env, signal.SIGSTOP)
            self.monkeypatch.setenv("PATH", "/nowhere")
        return await self.oracle.act(messages, tools, **more)


async def test_a_backend_that_is_gone_discards_and_works_again_on_the_retry(monkeypatch):
    env, path = QuickTerminal(), os.environ["PATH"]
    policy, task = WithoutBackend(monkeypatch, 1), env.tasks.split("eval")[0]
    first = await run_episode(env, policy, task, 1)
    assert (first.status, first.ending.who) == ("fault", "sandbox")
    monkeypatch.setenv("PATH", path)
    second = await run_episode(env, policy, task, 1)
    await env.aclose()
    assert (second.status, second.reward) == ("terminated", 1.0)


async def test_a_sandbox_that_cannot_be_closed_fails_no_episode(caplog):
    class Stuck:
        lost, closes = True, 0

        async def close(self):
            self.closes += 1
            if self.closes == 1:
                raise TimeoutError("its programs take long to die")

    class Backend:
        async def reap(self):
            return 0

        async def start(self, spec):
            return Stuck()

    pool = Pool(Backend(), SandboxSpec())
    stuck = await pool.lend()
    await pool.take_back(stuck)
    assert "cannot be closed yet" in caplog.text
    await pool.lend()
    assert stuck.closes == 2  # tried again


# The same actions read the same in another sandbox.


@pytest.mark.parametrize(
    ("made", "actions"),
    [
        (QuickTerminal, [shell("sleep 9"), shell("python3 -c 'print({str(n) for n in range(9)})'; echo $$; ls -R")]),
        (
            QuickNotebook,
            [
                cell("import time; time.sleep(9)"),
                cell("{str(n) for n in range(9)}, hash('a')"),
                cell("import os; os.getpid(), sorted(os.environ)"),
                cell("1 / 0"),
                cell("os._exit(3)"),
            ],
        ),
    ],
)
async def test_a_replay_reads_the_same(made, actions):
    told = []
    for _ in range(2):
        await clear_pools()
        env = made()
        await env.areset(options={"task": "eval-0"})
        told.append([await say(env, action) for action in actions])
        await env.aclose()
    assert told[0] == told[1]
    assert "more than 0.5 s" in told[0][0]
