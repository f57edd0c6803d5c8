"""Processes of agents: their time, their end, and what is left of them."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from agentrl.errors import EnvFault
from agentrl.serving.capture.agents import CommandAgent, Tail, started
from agentrl.serving.capture.settings import AgentConfig


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


async def gone(pid: int) -> bool:
    for _ in range(500):
        if not is_alive(pid):
            return True
        await asyncio.sleep(0.01)
    return False


async def test_an_agent_ends_with_its_status_and_its_last_words() -> None:
    ended = await CommandAgent(AgentConfig("echo $WORD; cat; exit 3")).run({"WORD": "hello"}, lambda: 0.0)
    assert (ended.status, ended.tail) == (3, "hello")  # it has no input
    assert str(ended) == "the agent ended with exit status 3: hello"


async def test_of_what_an_agent_prints_only_the_end_is_kept(tmp_path: Path) -> None:
    """A process that has left its group keeps no episode open, and ends when it goes on printing."""
    away = f"setsid sh -c 'echo $$ > {tmp_path}/pid; while echo more; do :; done' &"
    long = "head -c 3000000 /dev/zero | tr '\\0' x; exit 4"
    ended = await asyncio.wait_for(CommandAgent(AgentConfig(f"({away}); {long}")).run({}, lambda: 0.0), 60)
    assert ended.status == 4
    assert 0 < len(ended.tail) <= 2000
    assert await gone(int((tmp_path / "pid").read_text()))


async def test_an_agent_that_cannot_be_started_is_a_fault() -> None:
    with pytest.raises(EnvFault, match="cannot be started"):
        await CommandAgent(AgentConfig("true")).run({"LONG": "x" * (1 << 22)}, lambda: 0.0)


async def test_what_an_agent_started_ends_with_it(tmp_path: Path) -> None:
    await CommandAgent(AgentConfig(f"sleep 60 & echo $! > {tmp_path}/pid")).run({}, lambda: 0.0)
    assert await gone(int((tmp_path / "pid").read_text()))


AWAY = "setsid sh -c 'sleep 60 & echo $! > {0}/pid' </dev/null >/dev/null 2>&1; cat {0}/pid >/dev/null"
"""Starts a silent process in a session of its own, whose parent then ends."""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere such a process has no tie to the agent")
@pytest.mark.parametrize("end", ["; exit 3", "; sleep 60"])
async def test_a_process_that_left_the_agents_session_ends_with_it(tmp_path: Path, end: str) -> None:
    ended = await CommandAgent(AgentConfig(AWAY.format(tmp_path) + end, timeout_s=0.5)).run({}, lambda: 0.0)
    assert ended.status == (3 if "exit" in end else None)
    assert not is_alive(int((tmp_path / "pid").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere such a process has no tie to the agent")
async def test_a_process_that_left_the_agents_session_ends_if_this_process_is_killed(tmp_path: Path) -> None:
    with Tail() as output:
        process = await started(f"{AWAY.format(tmp_path)}; sleep 60", os.environ, output)
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            await asyncio.sleep(0.01)
        assert process.stdin is not None
        process.stdin.close()  # as the kernel does it
        assert await asyncio.wait_for(process.wait(), 10) == 137
        assert not is_alive(int((tmp_path / "pid").read_text()))


async def test_time_in_which_the_agent_waits_for_the_model_does_not_count() -> None:
    agent = CommandAgent(AgentConfig("sleep 0.6", timeout_s=0.2))
    assert (await agent.run({}, lambda: 0.0)).status is None
    assert (await agent.run({}, lambda: 10.0)).status == 0


async def test_an_agent_ends_if_this_process_is_killed(tmp_path: Path) -> None:
    with Tail() as output:
        process = await started(f"sleep 60 & echo $! > {tmp_path}/pid; wait", os.environ, output)
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            await asyncio.sleep(0.01)
        assert process.stdin is not None
        process.stdin.close()  # as the kernel does it
        assert await asyncio.wait_for(process.wait(), 10) == 137
        assert await gone(int((tmp_path / "pid").read_text()))


async def test_cancelling_ends_the_agent(tmp_path: Path) -> None:
    agent = CommandAgent(AgentConfig(f"echo $$ > {tmp_path}/pid; sleep 60"))
    task = asyncio.create_task(agent.run({}, lambda: 0.0))
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await gone(int((tmp_path / "pid").read_text()))
