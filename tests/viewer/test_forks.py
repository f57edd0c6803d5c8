"""Forks: a recorded turn is reached again, a person and policies play on, and the result is saved apart."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentrl.env import registry
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import ConfigError
from agentrl.policy.base import Policy
from agentrl.policy.by_name import PolicySetup
from agentrl.policy.scripted import OraclePolicy
from agentrl.rollout.episode import run_episode
from agentrl.rollout.replay import replay_store
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import Ending, EnvRef, Task, Trajectory
from agentrl.viewer.forks.playing import ForkOptions
from agentrl.viewer.forks.store import check_out
from agentrl.viewer.watch import Watcher
from tests.viewer.conftest import client_of, episode, only_source, write

Watch = Callable[..., Watcher]
SHOP = "agentrl/Shop-v0"


async def played(seed: int = 3) -> Trajectory:
    env = registry.make(SHOP)
    return await run_episode(env, OraclePolicy(), env.tasks.split("eval")[0], seed, ref=env.ref, episode_id="recorded")


class Fork:
    """A fork in the page, as its script asks for it."""

    def __init__(self, client: httpx.AsyncClient, found: dict[str, Any]) -> None:
        self.client, self.now = client, found

    @classmethod
    async def begin(cls, client: httpx.AsyncClient, run: str, turn: int, line: int = 1) -> Fork:
        answer = await client.post("/api/forks", json={"run": run, "line": line, "turn": turn})
        assert answer.status_code == 200, answer.text
        return await cls(client, answer.json()).settled()

    async def settled(self) -> Fork:
        """Wait until a person is asked, or the episode is over."""
        async with asyncio.timeout(30):
            while self.now["state"] in ("restoring", "playing"):
                await asyncio.sleep(0.01)
                self.now = (await self.client.get(f"/api/forks/{self.now['id']}")).json()
        return self

    async def act(self, **form: Any) -> Fork:
        answer = await self.client.post(f"/api/forks/{self.now['id']}/act", json=form)
        assert answer.status_code == 200, answer.text
        self.now = answer.json()
        return await self.settled()

    async def save(self) -> httpx.Response:
        return await self.client.post(f"/api/forks/{self.now['id']}/save", json={})


@pytest.fixture
async def recorded(tmp_path: Path) -> Trajectory:
    one = await played()
    write(tmp_path / "run" / "trajectories.jsonl", one)
    return one


@pytest.fixture
def options(tmp_path: Path) -> ForkOptions:
    return ForkOptions(tmp_path / "forks")


async def test_a_person_takes_a_recorded_turn_another_way(
    recorded: Trajectory, options: ForkOptions, tmp_path: Path, watch: Watch
) -> None:
    watcher = watch(tmp_path / "run")
    async with client_of(watcher, options) as client:
        fork = await Fork.begin(client, only_source(watcher), turn=1)
        assert fork.now["state"] == "waiting"
        assert [m["role"] for m in fork.now["messages"]][-2:] == ["assistant", "tool"]
        assert [m["content"] for m in fork.now["messages"]] == [
            m.content
            for m in (
                *recorded.turns[0].observation,
                recorded.turns[0].action.to_message(),
                *recorded.turns[1].observation,
            )
        ]
        assert {tool["name"] for tool in fork.now["tools"]} == {t["function"]["name"] for t in recorded.tools}
        await fork.act(calls=[{"name": "nothing", "arguments": {}}])
        assert fork.now["state"] == "waiting", "an unknown tool is an error that is read"
        await fork.act(text="I give up.")
        assert (fork.now["state"], fork.now["result"]["success"]) == ("ended", False)
        assert [turn["own"] for turn in fork.now["result"]["turns"]] == [False, True, True]
        assert (await fork.save()).json()["saved"] == str(tmp_path / "forks" / "trajectories.jsonl")
        assert (await fork.save()).status_code == 200
    (saved,) = TrajectoryStore(tmp_path / "forks" / "trajectories.jsonl")
    assert (saved.fork, saved.labels.stage, saved.labels.mode) == (("recorded", 1), "fork", "demonstration")
    assert saved.turns[0].action == recorded.turns[0].action
    assert saved.turns[-1].action.text == "I give up."
    assert saved.env == recorded.env


async def test_a_policy_plays_on_and_the_result_replays(
    recorded: Trajectory, options: ForkOptions, tmp_path: Path, watch: Watch
) -> None:
    watcher, store = watch(tmp_path / "run"), tmp_path / "run" / "trajectories.jsonl"
    before = store.read_bytes()
    async with client_of(watcher, options) as client:
        for turn in range(len(recorded.turns)):
            fork = await Fork.begin(client, only_source(watcher), turn=turn)
            await fork.act(policy="oracle")
            assert (fork.now["state"], fork.now["result"]["success"]) == ("ended", True), fork.now["problem"]
            assert (await fork.save()).status_code == 200
    assert store.read_bytes() == before
    replayed = replay_store(tmp_path / "forks" / "trajectories.jsonl")
    assert (replayed.counts["same"], replayed.differing) == (len(recorded.turns), [])
    assert {t.labels.mode for t in TrajectoryStore(tmp_path / "forks" / "trajectories.jsonl")} == {"sampled"}


class Failing(Policy):
    """Fails at its first turn."""

    async def act(self, *arguments: Any, **more: Any) -> Any:
        raise RuntimeError("out of memory")


async def test_a_policy_that_fails_leaves_the_person_at_the_turn(
    recorded: Trajectory, options: ForkOptions, tmp_path: Path, watch: Watch
) -> None:
    watcher = watch(tmp_path / "run")
    name = f"{__name__}:Failing"
    async with client_of(watcher, replace(options, policies={name: PolicySetup()})) as client:
        assert (await client.get("/api/runs")).json()["policies"] == [name, "oracle", "null", "random"]
        fork = await Fork.begin(client, only_source(watcher), turn=0)
        await fork.act(policy=name)
        assert (fork.now["state"], fork.now["problem"]) == ("waiting", "RuntimeError: out of memory")
        await fork.act(policy="oracle")
        assert (fork.now["state"], fork.now["problem"], fork.now["result"]["success"]) == ("ended", "", True)


@pytest.mark.parametrize("name", ["./evil.py:Policy", "os:system", "local:/etc", "openai:x", "human"])
async def test_a_request_chooses_only_among_the_policies_that_the_user_named(
    name: str, recorded: Trajectory, options: ForkOptions, tmp_path: Path, watch: Watch
) -> None:
    watcher = watch(tmp_path / "run")
    async with client_of(watcher, options) as client:
        fork = await Fork.begin(client, only_source(watcher), turn=0)
        answer = await client.post(f"/api/forks/{fork.now['id']}/act", json={"policy": name})
        assert answer.status_code == 409
        assert "choose one of oracle, null, random" in answer.json()["error"]


async def test_a_record_imports_no_code(options: ForkOptions, tmp_path: Path, watch: Watch) -> None:
    code = tmp_path / "evil.py"
    code.write_text("raise SystemExit('imported')")
    one = await played()
    others = [replace(one, env=EnvRef(f"{code}:Evil")), replace(one, env=EnvRef(SHOP, {"policy": f"{code}:Evil"}))]
    write(tmp_path / "run" / "trajectories.jsonl", *others)
    watcher = watch(tmp_path / "run")
    async with client_of(watcher, options) as client:
        for line in (1, 2):
            fork = await Fork.begin(client, only_source(watcher), turn=0, line=line)
            assert fork.now["state"] == "failed"
            assert "ReplayError" in fork.now["problem"]


async def test_a_turn_that_cannot_be_reached_again_is_told(options: ForkOptions, tmp_path: Path, watch: Watch) -> None:
    one = await played()
    text = json.dumps("42 left")
    store = write(tmp_path / "run" / "trajectories.jsonl", one)
    changed = store.read_bytes().replace(json.dumps(one.turns[1].observation[-1].content).encode(), text.encode())
    assert changed != store.read_bytes()
    store.write_bytes(changed)
    watcher = watch(tmp_path / "run")
    async with client_of(watcher, options) as client:
        fork = await Fork.begin(client, only_source(watcher), turn=2)
        assert fork.now["state"] == "failed"
        assert "cannot be reached again" in fork.now["problem"]
        assert (await fork.save()).status_code == 409


async def test_another_version_of_the_environment_is_noted(options: ForkOptions, tmp_path: Path, watch: Watch) -> None:
    one = await played()
    write(tmp_path / "run" / "trajectories.jsonl", replace(one, env=replace(one.env, version="agentrl 0.0.1 sha256:0")))
    watcher = watch(tmp_path / "run")
    async with client_of(watcher, options) as client:
        fork = await Fork.begin(client, only_source(watcher), turn=1)
        assert fork.now["state"] == "waiting"
        assert "agentrl 0.0.1" in fork.now["note"]


class Blocking(ToolEnv):
    """Blocks its thread until it is let go, as careless code does."""

    tasks = Tasks.of(eval=[{"n": 0}])
    began, may_go = threading.Event(), threading.Event()

    def start(self, task: Task) -> str:
        self.began.set()
        self.may_go.wait(20)
        return "Say something."


async def test_the_page_answers_while_an_environment_blocks(options: ForkOptions, tmp_path: Path, watch: Watch) -> None:
    one = episode(0, ending=Ending("answer"))
    ref = EnvRef(f"{__name__}:Blocking")
    write(tmp_path / "run" / "trajectories.jsonl", replace(one, env=ref, task=Task("eval-0", "eval", {"n": 0})))
    watcher = watch(tmp_path / "run")
    async with client_of(watcher, replace(options, trust_record=True)) as client:
        form = {"run": only_source(watcher), "line": 1, "turn": 0}
        found = (await client.post("/api/forks", json=form)).json()
        assert await asyncio.to_thread(Blocking.began.wait, 20)
        assert (await client.get("/api/runs")).status_code == 200
        assert (await client.get(f"/api/forks/{found['id']}")).json()["state"] == "restoring"
        Blocking.may_go.set()
        fork = await Fork(client, found).settled()
        assert fork.now["messages"][-1]["content"] == "Say something."


async def test_a_wrong_turn_an_action_out_of_turn_and_too_many_forks_are_refused(
    recorded: Trajectory, options: ForkOptions, tmp_path: Path, watch: Watch
) -> None:
    watcher = watch(tmp_path / "run")
    run = only_source(watcher)
    async with client_of(watcher, options) as client:
        answer = await client.post("/api/forks", json={"run": run, "line": 1, "turn": 99})
        assert answer.status_code == 409
        fork = await Fork.begin(client, run, turn=0)
        await fork.act(policy="null")
        answer = await client.post(f"/api/forks/{fork.now['id']}/act", json={"text": "more"})
        assert "ended" in answer.json()["error"]
        open_forks = [await Fork.begin(client, run, turn=0) for _ in range(16)]
        assert (await client.post("/api/forks", json={"run": run, "line": 1, "turn": 0})).status_code == 409
        headers = {"content-type": "application/json"}
        assert (await client.delete(f"/api/forks/{open_forks[0].now['id']}", headers=headers)).status_code == 200
        assert (await client.get(f"/api/forks/{open_forks[0].now['id']}")).status_code == 404
        assert (await Fork.begin(client, run, turn=0)).now["state"] == "waiting"


def test_forks_are_never_saved_into_a_run_or_over_something_else(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.toml", "metrics.jsonl"):
        (run / name).write_text("")
    for out in (run, run / "forks", run / "a" / "b"):
        with pytest.raises(ConfigError, match="never saved into a run"):
            check_out(out)
    write(tmp_path / "bench" / "trajectories.jsonl", episode(0))
    with pytest.raises(ConfigError, match="something else than forks"):
        check_out(tmp_path / "bench")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("")
    with pytest.raises(ConfigError, match="letter"):
        check_out(tmp_path / "home")
    check_out(tmp_path / "new")
    assert not (tmp_path / "new").exists()
