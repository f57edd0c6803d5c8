"""A foreign OpenEnv server as an environment; runs where `websockets` is installed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import pytest

pytest.importorskip("websockets")
from websockets.asyncio.server import serve

from agentrl.env.tool_env import call
from agentrl.errors import ConfigError, EnvFault
from agentrl.policy.scripted import ScriptedPolicy
from agentrl.rollout.episode import run_episode
from agentrl.serving.envs.openenv_env import OpenEnvEnv

SCHEMA = {"type": "object", "properties": {"message": {"type": "string"}, "metadata": {}}, "required": ["message"]}


async def talk(socket: Any) -> None:
    """The server that `openenv init` writes, in the shapes that it sent: it repeats, and is over after `bye`."""
    async for text in socket:
        given = json.loads(text)
        data = given.get("data", {})
        if given["type"] == "reset":
            seen: Any = {"observation": {"echo": f"seed {data['seed']}"}, "reward": None, "done": False}
        elif "message" not in data:
            await socket.send(json.dumps({"type": "error", "data": {"message": "no", "code": "VALIDATION_ERROR"}}))
            continue
        elif data["message"] == "crash":
            await socket.close()
            return
        else:
            over = data["message"] == "bye"
            seen = {"observation": {"echo": data["message"]}, "reward": float(over), "done": over}
        await socket.send(json.dumps({"type": "observation", "data": seen}))


@pytest.fixture
async def url() -> AsyncIterator[str]:
    def answer(connection: Any, request: Any) -> Any:
        if request.path != "/schema":
            return None
        return connection.respond(HTTPStatus.OK, json.dumps({"action": SCHEMA}))

    async with serve(talk, "127.0.0.1", 0, process_request=answer) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_an_episode(url: str) -> None:
    env = OpenEnvEnv(url, num_tasks=3)
    (first,), _ = await env.areset(seed=1, options={"task": "eval-0"})
    assert first.content == '{"echo": "seed 3"}'
    (tool,) = env.tool_schemas
    assert list(tool["function"]["parameters"]["properties"]) == ["message"]
    assert (await env.astep(call("act", message="hello")))[0][0].content == '{"echo": "hello"}'
    assert (await env.astep(call("act", wrong=1)))[0][0].content == "Error: no"
    *_, reward, terminated, truncated, _ = await env.astep("bye")
    assert (reward, terminated, truncated) == (1.0, True, False)
    await env.aclose()


async def test_a_lost_server_is_an_infrastructure_fault(url: str) -> None:
    env = OpenEnvEnv(url)
    episode = await run_episode(env, ScriptedPolicy([call("act", message="crash")]), env.tasks["train-0"], 1)
    assert (episode.ending.kind, episode.ending.who) == ("fault", "network")
    await env.aclose()
    with pytest.raises(EnvFault, match="cannot be reached"):
        await OpenEnvEnv("http://127.0.0.1:9").areset(seed=1)
    with pytest.raises(ConfigError, match="expected the URL"):
        OpenEnvEnv("127.0.0.1:9")
