"""Author code that waits too long, that hangs, and that calls `sys.exit`, in every hook and kind of tool."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from pathlib import Path
from threading import get_ident
from unittest.mock import Mock

import pytest

from agentrl.env.driving.without_loop import run_without_loop
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call, in_thread, tools_of
from agentrl.env.watchdog import Watchdog, running, start
from agentrl.errors import EnvFault
from agentrl.messages import Action, ToolCall
from agentrl.tool_schema import tool


class Quiet(ToolEnv):
    """Does nothing wrong."""

    tasks = Tasks.of(train=[{}], eval=[{"n": 1}])

    def start(self, task):
        return "go"

    def score(self, answer):
        return 1.0


async def forever():
    await asyncio.Event().wait()


class WaitsInStart(Quiet):
    async def start(self, task):
        await forever()


class WaitsInRespond(Quiet):
    async def respond(self, text):
        await forever()


class WaitsInScore(Quiet):
    async def score(self, answer):
        await forever()


class WaitsOnWrapped(Quiet):
    """Returns an awaitable, without `async def`."""

    async def areset(self, **given):
        return await super().areset(**given)

    def score(self, answer):
        return asyncio.ensure_future(forever())


class Server(Quiet):
    """A server that does one thing at a time, for 30 seconds."""

    tool_timeout_s = 45.0

    async def start(self, task):
        self.busy = asyncio.Lock()
        return "go"

    @tool
    async def sleep(self, seconds: float) -> str:
        """Sleep."""
        async with self.busy:
            await asyncio.sleep(seconds)
        return "slept"


async def play(env: ToolEnv) -> None:
    await env.areset(seed=0)
    await env.astep("x")


@pytest.mark.parametrize(
    ("kind", "hook"),
    [(WaitsInStart, "start"), (WaitsInRespond, "respond"), (WaitsInScore, "score"), (WaitsOnWrapped, "score")],
)
def test_a_hook_that_waits_has_a_deadline(kind, hook, in_no_time):
    with pytest.raises(EnvFault, match=f"^{hook} did not return within 300.0 s$") as caught:
        in_no_time(play(kind()))
    assert caught.value.at == "author"


def test_the_deadline_of_hooks_is_the_authors_to_choose(in_no_time):
    class Patient(WaitsInScore):
        hook_timeout_s = 7200.0

    with pytest.raises(EnvFault, match=r"score did not return within 7200.0 s"):
        in_no_time(play(Patient()))


def test_the_timeout_of_a_call_begins_when_the_call_does(in_no_time):
    async def eight_calls():
        env = Server()
        await env.areset(seed=0)
        asked = tuple(ToolCall("sleep", {"seconds": 30}, f"c{n}") for n in range(8))
        observation, *_ = await env.astep(Action(tool_calls=asked))
        return [message.content for message in observation]

    assert in_no_time(eight_calls()) == ["slept"] * 8


def test_a_tool_that_waits_too_long_is_the_authors(in_no_time):
    async def one_call():
        env = Server()
        await env.areset(seed=0)
        await env.astep(call("sleep", seconds=60))

    with pytest.raises(EnvFault, match=r"tool 'sleep' did not return within 45.0 s") as caught:
        in_no_time(one_call())
    assert caught.value.at == "author"


async def test_cancelling_a_hook_is_no_fault():
    waits = asyncio.Event()

    class Waits(Quiet):
        async def score(self, answer):
            waits.set()
            await forever()

    episode = asyncio.create_task(play(Waits()))
    await waits.wait()
    episode.cancel()
    with pytest.raises(asyncio.CancelledError):
        await episode
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_hooks_that_never_wait_need_no_loop():
    class Plain(Quiet):
        async def start(self, task):
            return "go"

        async def score(self, answer):
            return 1.0

    env = Plain()
    run_without_loop(env.areset(seed=0))
    assert run_without_loop(env.astep("x"))[1] == 1.0


# sys.exit, and other exceptions that are no `Exception`.


class Leaves(Quiet):
    """Ends the program, wherever `place` says."""

    place = ""

    def leave(self, place):
        if place == self.place:
            sys.exit(0)

    def start(self, task):
        self.leave("start")
        return "go"

    def respond(self, text):
        self.leave("respond")
        return None

    async def score(self, answer):
        await asyncio.sleep(0)
        self.leave("score")
        return 1.0

    @tool
    def plain(self) -> None:
        """Leave."""
        self.leave("plain")

    @tool
    async def waiting(self) -> None:
        """Leave."""
        await asyncio.sleep(0)
        self.leave("waiting")

    @tool(parallel=True)
    async def parallel(self) -> None:
        """Leave."""
        self.leave("parallel")

    @tool(blocking=True)
    def blocking(self) -> None:
        """Leave."""
        self.leave("blocking")


@pytest.mark.parametrize("place", ["start", "respond", "score", "plain", "waiting", "parallel", "blocking"])
async def test_sys_exit_is_a_fault_of_the_author(place):
    async def episode():
        await env.areset(seed=0)
        if place in tools_of(env):
            await env.astep(Action(tool_calls=(ToolCall(place, {}, "a"), ToolCall(place, {}, "b"))))
        await env.astep("x")

    env = Leaves()
    env.place = place
    with pytest.raises(EnvFault, match="raised SystemExit: 0") as caught:
        await episode()
    assert caught.value.at == "author"
    assert isinstance(caught.value.__cause__, SystemExit)


async def test_nothing_that_a_thread_raises_stops_the_loop():
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(EnvFault, match="interrupt in a thread raised KeyboardInterrupt"):
        await in_thread(interrupt, {})


async def test_what_a_tool_awaited_had_been_cancelled():
    class Cancelled(Quiet):
        @tool
        async def look(self) -> None:
            """Look."""
            inner = asyncio.ensure_future(forever())
            inner.cancel()
            await inner

    env = Cancelled()
    await env.areset(seed=0)
    with pytest.raises(EnvFault, match="tool 'look' awaited something that had been cancelled"):
        await env.astep(call("look"))


async def test_network_trouble_in_a_tool_is_the_networks():
    class Online(Quiet):
        @tool
        async def fetch(self) -> None:
            """Fetch."""
            await asyncio.open_connection("127.0.0.1", 1)

    env = Online()
    await env.areset(seed=0)
    with pytest.raises(EnvFault, match="tool 'fetch' raised ConnectionRefusedError") as caught:
        await env.astep(call("fetch"))
    assert caught.value.at == "network"


# Code that nothing can interrupt.


class Stuck(Quiet):
    """Each hook and tool calls `stop`, which a test replaces."""

    hook_timeout_s = 2.0
    stop = staticmethod(lambda: None)

    def start(self, task):
        self.stop()
        return "go"

    async def respond(self, text):
        await asyncio.sleep(0)
        self.stop()

    def score(self, answer):
        self.stop()
        return 1.0

    @tool
    def look(self) -> None:
        """Look."""
        self.stop()

    @tool
    async def listen(self) -> None:
        """Listen."""
        await asyncio.sleep(0)
        self.stop()


@pytest.mark.parametrize(
    ("actions", "name"),
    [
        ([], "start of Stuck"),
        (["x"], "respond of Stuck"),
        (["x"], "score of Stuck"),
        ([call("look")], "tool 'look' of Stuck"),
        ([call("listen")], "tool 'listen' of Stuck"),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
async def test_code_that_hangs_is_named_with_its_line(actions, name, monkeypatch):
    watchdog, names = Watchdog(look_s=1.0, interrupt=Mock()), []

    def look_often() -> None:
        for _ in range(40):
            watchdog.look()
        names.append(running[get_ident()])

    monkeypatch.setattr(Stuck, "stop", staticmethod(look_often))
    monkeypatch.setattr(Stuck, "tool_timeout_s", 2.0)
    log = Mock()
    monkeypatch.setattr("agentrl.env.watchdog.logger", log)
    env = Stuck()
    await env.areset(seed=0)
    for action in actions:
        await env.astep(action)
    said = [given.args[1] for given in log.error.call_args_list if given.args[1].startswith(name)]
    assert len(said) == 1
    assert said[0].startswith(f"{name} has not returned within 2 s; it is at {__file__}:")
    assert said[0].endswith("in look_often")
    assert names
    assert running[get_ident()] is None


async def test_calls_that_return_are_never_taken_for_one_that_hangs(caplog):
    watchdog = Watchdog(look_s=1.0, interrupt=Mock())
    env = type("Quick", (Stuck,), {})()
    with caplog.at_level(logging.ERROR, "agentrl.env.watchdog"):
        await env.areset(seed=0)
        for _ in range(100):
            running[-1] = (env, "score", 2.0)  # another thread, which begins anew before each look
            watchdog.look()
        running.pop(-1)
    assert "Quick" not in caplog.text


def test_one_thread_looks_in_each_process():
    start()
    start()
    assert [thread.name for thread in threading.enumerate()].count("watchdog") == 1


HUNG = '''
import hashlib
from agentrl import Tasks, ToolEnv

class Hung(ToolEnv):
    """Hangs in score, in one call into C."""

    tasks = Tasks.of(train=[{}], eval=[{"n": 1}])
    hook_timeout_s = 1.0

    def start(self, task):
        return "go"

    def score(self, answer):
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", 2**31 - 1)  # the line
'''


def test_a_command_ends_when_author_code_hangs_and_cannot_be_interrupted(tmp_path: Path):
    (tmp_path / "hung.py").write_text(HUNG)
    command = [sys.executable, "-m", "agentrl", "bench", "./hung.py:Hung", "--policy", "null", "--json", "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 4, done.stderr
    assert "score of Hung has not returned within 1 s; it is at " in done.stderr
    assert f"hung.py:{HUNG[: HUNG.index('# the line')].count(chr(10)) + 1} in score" in done.stderr
    assert '"type": "Hung"' in done.stdout
