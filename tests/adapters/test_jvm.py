"""Games in Java machines, over a stand-in for a machine: how they are lent, shared, lost and solved."""

from __future__ import annotations

import asyncio
import threading
from typing import ClassVar

import pytest

from agentrl.adapters import jvm
from agentrl.adapters.jvm import JavaGame, Played, java_machines
from agentrl.adapters.lent import Machines
from agentrl.bench.evaluate import aevaluate
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import call
from agentrl.errors import EnvFault, PackageMissing, ToolError
from agentrl.policy.scripted import NullPolicy, OraclePolicy


class Py4JJavaError(Exception):
    """Named as the one that Java's code raises."""


class Machine:
    """Counts to a number; it holds one game at a time, as the real ones do."""

    made: ClassVar[list[Machine]] = []

    def __init__(self):
        self.closed = False
        Machine.made.append(self)

    def close(self):
        self.closed = True


class Count(JavaGame):
    """Count up to a number."""

    tasks = Tasks.of(train=[{"to": 3, "level": "train"}], eval=[{"to": n} for n in range(1, 10)])

    def opened(self, machine, task):
        machine.at, machine.to = 0, task.data["to"]
        return f"Count to {machine.to}."

    def played(self, machine, command):
        if command == "crash":
            raise ConnectionError("the machine is gone")
        if command == "odd":
            raise Py4JJavaError("scala.MatchError: odd\n at Game.scala")
        machine.at += command == str(machine.at + 1)
        won = machine.at == machine.to
        return Played(f"at {machine.at}", machine.at / machine.to, won or command == "lose", won)

    def solution(self, machine, task):
        machine.at = 99  # the game is somewhere else afterwards
        return [str(n + 1) for n in range(task.data["to"])]


@pytest.fixture(autouse=True)
def machines(monkeypatch):
    monkeypatch.setattr(Machine, "made", [])
    monkeypatch.setattr(jvm.shutil, "which", lambda name: "/usr/bin/java")
    monkeypatch.setattr(Count, "machines", java_machines(Machine, most=2), raising=False)
    yield Count.machines
    Count.machines.close()
    assert all(machine.closed for machine in Machine.made)


async def test_many_episodes_share_few_machines_and_are_all_won(machines):
    tasks = Count.tasks.split("eval")
    played = await aevaluate(OraclePolicy(), Count, tasks, max_concurrency=8)
    assert (played.mean, played.n_faults, len(Machine.made)) == (1.0, 0, 2)
    assert (await aevaluate(NullPolicy(), Count, tasks, max_concurrency=8)).mean == 0.0
    assert len(Machine.made) == 2, "machines are used again"


async def test_a_lost_game_pays_what_was_reached_and_is_no_success():
    env = Count()
    await env.areset(options={"split": "train"})
    await env.astep(call("act", command=" 1\n"))
    _, reward, terminated, _, info = await env.astep(call("act", command="lose"))
    assert (reward, terminated, info["success"]) == (pytest.approx(1 / 3), True, False)


async def test_what_the_games_code_raises_is_read_and_a_broken_machine_is_a_fault_and_replaced(machines):
    env = Count()
    await env.areset(options={"split": "train"})
    observation, *_ = await env.astep(call("act", command="odd"))
    assert observation[0].content == "Error: this cannot be done here: scala.MatchError: odd"
    observation, *_ = await env.astep(call("act", command=" "))
    assert "1 to 500 characters" in observation[0].content
    with pytest.raises(EnvFault, match="machine of this episode failed: ConnectionError") as caught:
        await env.astep(call("act", command="crash"))
    assert caught.value.at == "host"
    assert Machine.made[0].closed
    await env.areset(options={"split": "train"})
    assert len(Machine.made) == 2
    await env.aclose()


async def test_the_oracle_can_take_over_in_the_middle():
    env = Count()
    await env.areset(options={"split": "train"})
    await env.astep(call("act", command="1"))
    assert await env.oracle(()) == call("act", command="2")
    assert (await env.astep(call("act", command="2")))[0][0].content == "at 2"
    await env.aclose()


async def test_a_machine_without_java_is_told_and_not_counted(monkeypatch, machines):
    for _ in range(3):
        monkeypatch.setattr(jvm.shutil, "which", lambda name: None)
        with pytest.raises(PackageMissing, match="needs `java`, which is not on PATH"):
            await machines.borrow()
        with pytest.raises(PackageMissing):
            machines.use(lambda machine: None)
    monkeypatch.setattr(jvm.shutil, "which", lambda name: "/usr/bin/java")
    machines.give_back(await machines.borrow())


async def test_a_machine_that_starts_for_an_episode_that_was_cancelled_serves_the_next_one():
    ready, broken = threading.Event(), threading.Event()

    def start() -> Machine:
        ready.wait(10)
        if broken.is_set():
            raise OSError("it does not start")
        return Machine()

    machines = Machines(start, most=1)
    for starts in (False, True):
        ready.clear()
        waiting = asyncio.create_task(machines.borrow())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        (broken.clear if starts else broken.set)()
        ready.set()
        if not starts:
            await asyncio.sleep(0.05)
    machine = await machines.borrow()
    assert Machine.made == [machine]
    machines.give_back(machine)
    machines.close()
    assert machine.closed


def test_plain_code_may_use_a_machine_for_a_moment(machines):
    assert machines.use(lambda machine: machine.closed) is False
    assert len(Machine.made) == 1
    with pytest.raises(ToolError):
        machines.use(lambda machine: (_ for _ in ()).throw(ToolError("no")))
    assert len(Machine.made) == 1
