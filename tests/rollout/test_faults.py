"""Everything breaks at once: tools raise and hang, and the API server is killed and started again."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections import Counter, defaultdict
from typing import ClassVar
from unittest.mock import Mock

import pytest

from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.messages import Action
from agentrl.policy.base import Policy, SamplingParams
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.store import TrajectoryStore
from agentrl.tool_schema import tool
from agentrl.trajectory import Task

SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(int(self.path[1:]) ** 2).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass

ThreadingHTTPServer.request_queue_size = 256
server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""
NUM_TASKS = 150


class Server:
    """A real process that can be killed and started again on its port."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-c", SERVER, str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def server():
    running = Server()
    yield running
    running.kill()


class Fragile(ToolEnv):
    """Square a number with the API's help, by way of tools that fail now and then."""

    tasks = Tasks.of(train=[{"n": n} for n in range(NUM_TASKS)], broken=[{"n": -n} for n in range(1, 9)])
    tool_timeout_s = 2.0
    port = 0
    # What fails is chance outside the episode: the same episode may succeed when tried again.
    chance = random.Random(4)
    counts: ClassVar[Counter[str]] = Counter()
    alive: ClassVar[set[int]] = set()

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.alive.add(id(self))

    async def start(self, task: Task) -> str:
        self.add_reward("reward", 0.0)
        return f"Square {task.data['n']}. Ticket {self.np_random.integers(10**9)}."

    @tool
    def think(self) -> str:
        """Raises in 5% of calls, and always for some tasks."""
        if self.task.split == "broken":
            raise LookupError("a task that never works")
        if self.chance.random() < 0.05:
            self.counts["raised"] += 1
            raise RuntimeError("the tool broke")
        self.add_reward("reward", 0.25)
        return "ok"

    @tool(timeout_s=0.03)
    async def wait(self) -> str:
        """Never returns in 2% of calls."""
        if self.chance.random() < 0.02:
            self.counts["hung"] += 1
            await asyncio.Event().wait()
        return "ok"

    @tool
    async def square(self, n: int) -> int:
        """Ask the server."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            self.counts["refused"] += 1
            raise
        try:
            writer.write(f"GET /{n} HTTP/1.0\r\n\r\n".encode())
            return int((await reader.read()).rsplit(b"\r\n", 1)[1])
        finally:
            writer.close()

    async def score(self, answer: str | None) -> float:
        return 0.5 * (answer == str(self.task.data["n"] ** 2))

    async def aclose(self) -> None:
        self.alive.discard(id(self))


class Asker(Policy):
    """think, wait, square, think, answer with what the server said."""

    sampling = SamplingParams()

    def __init__(self) -> None:
        self.began: dict[str, list[tuple[int | None, str]]] = defaultdict(list)
        self.alive: set[str] = set()

    async def act(self, messages, tools, *, episode_id, sampling=None):
        self.alive.add(episode_id)
        turn = len(messages) // 2
        if turn == 0:
            self.began[episode_id.rsplit("#", 1)[0]].append((sampling.seed, messages[0].content))
        if turn == 4:
            return Action(messages[-3].content)
        n = int(messages[0].content.split(".")[0].split()[1])
        return (call("think"), call("wait"), call("square", n=n), call("think"))[turn]

    async def release(self, episode_id):
        self.alive.discard(episode_id)


async def test_a_run_through_every_kind_of_failure(server, tmp_path):
    Fragile.port = server.port
    path, policy, finished = tmp_path / "trajectories.jsonl", Asker(), []
    requests = [GroupRequest(task, n, 2) for n, task in enumerate(Fragile.tasks.split("train"))]

    def note(trajectory):
        finished.append(trajectory)
        if len(finished) == 60:
            server.kill()

    async def start_again():
        while Fragile.counts["refused"] < 25:
            await asyncio.sleep(0.005)
        await asyncio.to_thread(server.start)

    options = {"max_concurrency": 32, "max_attempts": 12, "backoff_s": 0.01, "on_trajectory": note}
    with TrajectoryStore(path) as store:
        async with Rollouts(Fragile, policy, env_id="test/Fragile-v0", store=store, **options) as rollouts:
            restarting = asyncio.create_task(start_again())
            groups = await rollouts.run(requests)
            await restarting
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert [group.trajectories[0].task.data["n"] for group in groups] == list(range(NUM_TASKS))
    assert Fragile.counts["refused"] >= 25
    assert Fragile.counts["raised"] > 10
    assert Fragile.counts["hung"] > 2
    assert Fragile.alive == set()
    assert policy.alive == set()
    for group in groups:
        assert [t.status for t in group.trajectories] == ["terminated"] * 2
        assert group.rewards == [1.0, 1.0]
    check_attempts(list(TrajectoryStore(path)), policy)


async def test_tasks_whose_code_always_raises_count_as_failed_and_every_other_episode_finishes(server, monkeypatch):
    Fragile.port = server.port
    monkeypatch.setattr(Fragile, "chance", Mock(random=lambda: 1.0))
    tasks = [*Fragile.tasks.split("broken"), *Fragile.tasks.split("train")[:24]]
    async with Rollouts(Fragile, Asker(), env_id="test/Fragile-v0", max_attempts=6, backoff_s=0) as rollouts:
        groups = await rollouts.run(GroupRequest(task, 1, 2) for task in tasks)
    for group in groups[:8]:
        for trajectory in group.trajectories:
            assert (trajectory.status, trajectory.labels.attempt, trajectory.success) == ("terminated", 5, False)
            assert (trajectory.ending.kind, trajectory.ending.who) == ("error", "author")
            assert "LookupError: a task that never works (test_faults.py:" in trajectory.ending.detail
    assert all(group.rewards == [1.0, 1.0] for group in groups[8:])
    assert Fragile.alive == set()


def check_attempts(stored, policy) -> None:
    """Each attempt of an episode had the same seeds and the same first message; only the last may be scored."""
    episodes = defaultdict(list)
    for trajectory in stored:
        episodes[trajectory.episode_id].append(trajectory)
    assert len(episodes) == 2 * NUM_TASKS
    causes = Counter()
    for episode_id, attempts in episodes.items():
        assert [t.labels.attempt for t in attempts] == list(range(len(attempts)))
        assert len({t.seed for t in attempts}) == 1
        assert len(policy.began[episode_id]) == 1, "an attempt takes the actions of the one before it again"
        assert len({t.turns[0].observation[0].content for t in attempts}) == 1
        assert {t.turns[0].action.tool_calls[0].name for t in attempts} == {"think"}
        assert [t.status for t in attempts[:-1]] == ["fault"] * (len(attempts) - 1)
        assert [t.labels.superseded for t in attempts] == [True] * (len(attempts) - 1) + [False]
        assert not any(t.success for t in attempts[:-1])
        causes.update(kind for t in attempts if t.error for kind in KINDS if kind in t.error)
    assert min(causes[kind] for kind in KINDS) > 2, causes
    assert len({t.episode_id for t in stored if t.labels.attempt > 0}) > 20


KINDS = ("RuntimeError: the tool broke", "did not return within 0.03 s", "Connect")


class OwnCause(ToolEnv):
    """Its tool raises an error from itself."""

    tasks = Tasks.of(train=[{"n": 1}])

    def start(self, task: Task) -> str:
        return "begin"

    @tool
    def use(self) -> str:
        """Use it."""
        error = RuntimeError("round and round")
        raise error from error


async def test_an_error_that_is_its_own_cause_is_a_fault_as_any_other():
    class Uses(Policy):
        async def act(self, messages, tools, *, episode_id=None, sampling=None):
            return call("use")

    async with Rollouts(OwnCause, Uses(), max_attempts=1, max_fault_fraction=1.0) as rollouts:
        (group,) = await rollouts.run([GroupRequest(OwnCause.tasks.split("train")[0], 1)])
    assert "round and round (test_faults.py:" in group.trajectories[0].ending.detail
