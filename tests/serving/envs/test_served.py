"""A served environment is the environment: the same episodes, records, faults and forks as in this process."""

from __future__ import annotations

import asyncio
import json
import pickle
import socket
from dataclasses import replace
from typing import Any

import pytest

import agentrl
from agentrl.env import registry
from agentrl.errors import ConfigError, EnvFault, TaskError
from agentrl.messages import Action, ToolCall
from agentrl.policy.scripted import OraclePolicy, RandomPolicy, ScriptedPolicy
from agentrl.rollout.episode import run_episode
from agentrl.rollout.json_lines import encode_line
from agentrl.rollout.records import trajectory_record
from agentrl.rollout.replay import replay_store
from agentrl.rollout.runner import arollout
from agentrl.rollout.store import TrajectoryStore
from agentrl.serving.envs.client import connect
from agentrl.serving.envs.server import EnvServer, ServeOptions
from agentrl.trajectory import EnvRef, Task, Trajectory
from tests.serving.envs import odd as odd_module
from tests.serving.envs.conftest import ODD, SHOP


def marks(trajectories: list[Trajectory]) -> list[bytes]:
    """Their records, without the time they took."""
    found = []
    for trajectory in trajectories:
        for turn in trajectory.turns:
            turn.policy_s = turn.env_s = 0.0
        found.append(encode_line(trajectory_record(trajectory)))
    return found


async def played(env: Any, policy: Any, **options: Any) -> list[Trajectory]:
    groups = await arollout(env, policy, options.pop("tasks", "eval"), **options)
    return [trajectory for group in groups for trajectory in group.trajectories]


def server_ref(server: EnvServer) -> EnvRef:
    connect(server.url, server.token)
    return registry.reference(server.url)


@pytest.mark.parametrize("policy", [OraclePolicy(), RandomPolicy(seed=5)], ids=["oracle", "random"])
async def test_records_are_those_of_a_local_environment(shop: EnvServer, policy: Any) -> None:
    tasks = [f"eval-{n}" for n in range(12)]
    here = await played(SHOP, policy, tasks=tasks, seeds=(1, 2), group_size=2)
    there = await played(server_ref(shop), policy, tasks=tasks, seeds=(1, 2), group_size=2, max_concurrency=5)
    assert marks(there) == marks(here)
    assert len(here) == 48


def test_gymnasiums_face_and_spec(shop: EnvServer) -> None:
    env, local = connect(shop.url, shop.token), registry.make(SHOP)
    assert env.reset(seed=3) == local.reset(seed=3)
    step = agentrl.call("search", kind="tea")
    assert env.step(step) == local.step(step)
    assert env.tool_schemas == tuple(local.tool_schemas)
    assert env.limits == local.limits
    env.close()
    env.close()
    assert len(shop.sessions) == 0


def test_a_reference_is_that_of_the_environment_and_no_record_names_the_server(shop: EnvServer) -> None:
    ref = server_ref(shop)
    local = registry.make(SHOP).ref
    assert ref == local
    assert ref.key == local.key
    assert ref.url == shop.url
    record = encode_line(trajectory_record(Trajectory(ref, Task("a"), 1)))
    assert b"url" not in record
    assert shop.token.encode() not in record


async def test_a_store_of_served_episodes_is_replayed_by_the_local_environment(shop: EnvServer, tmp_path: Any) -> None:
    path = tmp_path / "trajectories.jsonl"
    with TrajectoryStore(path) as store:
        await played(server_ref(shop), OraclePolicy(), tasks=["eval-0", "eval-1"], store=store)
    found = await asyncio.to_thread(replay_store, path)
    assert (found.counts["same"], found.ok, found.versions) == (2, True, {})


def test_limits_are_the_clients(odd: EnvServer) -> None:
    env = connect(odd.url, odd.token, max_turns=1)
    env.reset(seed=1)
    *_, truncated, _ = env.step(agentrl.call("add", amount=2))
    assert (truncated, env.ending.detail) == (True, "max_turns")
    env.close()
    with pytest.raises(ConfigError, match="max_turns must be a whole number"):
        connect(odd.url, odd.token, max_turns=0)


def test_a_pickle_is_the_same_environment(shop: EnvServer) -> None:
    env = connect(shop.url, shop.token, max_turns=3)
    first = env.reset(seed=9)
    again = pickle.loads(pickle.dumps(env))
    assert again.reset(seed=9) == first
    assert (again.ref, again.limits) == (env.ref, env.limits)
    again.close()
    env.close()


@pytest.mark.parametrize("how", ["tool", "server", "key", "own", "network", "exit"])
async def test_faults_keep_their_blame(odd: EnvServer, how: str) -> None:
    async def ended(env: Any) -> tuple[str, str, str]:
        policy = ScriptedPolicy([agentrl.call("fail", how=how), Action("done")])
        trajectory = await run_episode(env, policy, env.tasks["eval-0"], 1)
        await env.aclose()
        detail = trajectory.ending.detail.partition(" (")[0]
        return trajectory.ending.kind, detail, trajectory.ending.who

    assert await ended(connect(odd.url, odd.token)) == await ended(registry.make(ODD))


@pytest.mark.parametrize("answer", ["done", "no", "broken", "not finite"])
async def test_scores_and_what_score_raises(odd: EnvServer, answer: str) -> None:
    async def ended(env: Any) -> Any:
        trajectory = await run_episode(env, ScriptedPolicy([Action(answer)]), env.tasks["eval-0"], 1)
        await env.aclose()
        ending = replace(trajectory.ending, detail=trajectory.ending.detail.partition(" (")[0])
        info = {key: value for key, value in trajectory.info.items() if key != "odd"}
        return ending, trajectory.reward, info, [turn.state_key for turn in trajectory.turns]

    assert await ended(connect(odd.url, odd.token)) == await ended(registry.make(ODD))


async def test_not_a_number_crosses_the_wire(odd: EnvServer) -> None:
    env = connect(odd.url, odd.token)
    await env.areset(seed=1)
    *_, info = await env.astep("done")
    assert info["odd"] != info["odd"]
    await env.aclose()


async def test_a_call_that_cannot_be_read_is_answered_as_here(odd: EnvServer) -> None:
    strange = Action(
        text="\ud800",
        tool_calls=(ToolCall("add", {"amount": 2**200}), ToolCall("add", {}, "x", "not JSON"), ToolCall("none", {})),
        token_ids=(1, 2, 3),
        logprobs=(-0.5, -0.25, -1.0),
    )

    async def seen(env: Any) -> Any:
        await env.areset(seed=1, options={"task": "train-1"})
        result = await env.astep(strange)
        await env.aclose()
        return result

    assert await seen(connect(odd.url, odd.token)) == await seen(registry.make(ODD))


async def test_forks_and_saved_states_go_their_own_ways(odd: EnvServer) -> None:
    env = connect(odd.url, odd.token)
    await env.areset(seed=1)
    await env.astep(agentrl.call("add", amount=5))
    twin, state = await env.afork(), await env.aget_state()
    assert (await twin.astep(agentrl.call("add", amount=1)))[0][0].content == "6"
    assert (await env.astep(agentrl.call("add", amount=10)))[0][0].content == "15"
    other = connect(odd.url, odd.token)
    await other.aset_state(state)
    assert other.state_key() == "count 5"
    assert (await other.astep(agentrl.call("add", amount=2)))[0][0].content == "7"
    for one in (env, twin, other):
        await one.aclose()
    assert len(odd.sessions) == 0


def test_a_task_with_another_content_is_refused(odd: EnvServer) -> None:
    env = connect(odd.url, odd.token)
    with pytest.raises(TaskError, match="has another content on the server"):
        env.reset(seed=1, options={"task": Task("train-0", "train", {"n": 99})})
    with pytest.raises(TaskError, match="no task 'train-9'"):
        env.reset(seed=1, options={"task": "train-9"})
    env.close()


def test_a_server_may_take_any_task_and_keep_its_oracle() -> None:
    with EnvServer(EnvRef(ODD), ServeOptions(port=0, demonstrates=False, takes_any_task=True)) as server:
        env = connect(server.url, server.token)
        (message,), _ = env.reset(seed=1, options={"task": Task("new", "train", {"n": 99})})
        assert message.content == "task 99"
        assert not hasattr(env, "oracle")
        env.close()


async def test_a_lost_connection_is_made_again_and_a_step_is_executed_once(odd: EnvServer) -> None:
    odd_module.steps.clear()
    env: Any = connect(odd.url, odd.token)
    await env.areset(seed=1)
    waiting = agentrl.call("wait", seconds=0.3)
    step = asyncio.ensure_future(env.astep(waiting))
    await asyncio.sleep(0.1)
    env._link._pipe.transport.abort()
    assert (await step)[0][0].content == "waited"
    env._link._pipe.transport.abort()
    assert (await env.astep(agentrl.call("add", amount=1)))[0][0].content == "1"
    assert odd_module.steps == ["wait", "add"]
    await env.aclose()


async def test_an_answer_that_does_not_come_is_an_infrastructure_fault(odd: EnvServer) -> None:
    env: Any = connect(odd.url, odd.token)
    await env.areset(seed=1)
    env._link._longest_s = 0.1
    env._link._pipe._timer.cancel()
    env._link._pipe._timer = None
    with pytest.raises(EnvFault, match="has not answered within"):
        await env.astep(agentrl.call("wait", seconds=2))
    await env.aclose()


async def test_a_server_that_dies_is_an_infrastructure_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl.serving.envs.link._WAITS_S", (0.01,))
    server = EnvServer(EnvRef(ODD), ServeOptions(port=0))
    with server:
        env = connect(server.url, server.token)
        await env.areset(seed=1)
    with pytest.raises(EnvFault, match="cannot be reached") as caught:
        await env.astep("done")
    assert caught.value.at == "network"
    trajectory = await run_episode(env, ScriptedPolicy([Action("done")]), Task("train-0", "train", {"n": 1}), 1)
    assert (trajectory.ending.kind, trajectory.ending.who) == ("fault", "network")


async def test_a_server_that_was_started_again_has_lost_the_episode_and_the_retry_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with EnvServer(EnvRef(ODD), ServeOptions(port=0, token="t")) as first:
        env = connect(first.url, "t")
        before = await env.areset(seed=1)
        port = int(first.url.rsplit(":", 1)[1])
    with EnvServer(EnvRef(ODD), ServeOptions(port=port, token="t")):
        with pytest.raises(EnvFault, match="no such session"):
            await env.astep("done")
        fresh = connect(first.url, "t")
        assert await fresh.areset(seed=1) == before
        await fresh.aclose()


def test_the_wrong_token_and_the_wrong_url_are_told(shop: EnvServer) -> None:
    with pytest.raises(ConfigError, match=r"refused \(401\)"):
        connect(shop.url, "wrong")
    with pytest.raises(ConfigError, match="expected a URL"):
        connect("ftp://127.0.0.1")
    with pytest.raises(ConfigError, match="not in the URL"):
        connect("http://me:secret@127.0.0.1:1")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(EnvFault, match="no server of environments answers"):
        connect(f"http://127.0.0.1:{port}", "x")
    connect(shop.url, shop.token)  # the tests that follow use it


def test_a_description_has_no_secret(shop: EnvServer) -> None:
    assert shop.token not in json.dumps(server_ref(shop).kwargs)
