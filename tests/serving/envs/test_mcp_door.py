"""Episodes as MCP servers, by MCP's own client in both eras; runs where the package `mcp` is installed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentrl.env import registry
from agentrl.serving.envs.server import EnvServer
from tests.serving.envs.conftest import ODD

pytest.importorskip("mcp_types")
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError


def asked(server: EnvServer, method: str, path: str, body: Any = None, token: str | None = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {server.token if token is None else token}"}
    return httpx.request(method, server.url + path, json=body, headers=headers)


def text(result: Any) -> str:
    return "".join(part.text for part in result.content)


@pytest.mark.parametrize(("mode", "version"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")])
async def test_an_episode(odd: EnvServer, mode: str, version: str) -> None:
    opened = asked(odd, "POST", "/mcp/episodes", {"seed": 3, "task": "eval-0"}).json()
    async with Client(odd.url + opened["path"], mode=mode) as client:
        assert client.protocol_version == version
        assert [tool.name for tool in (await client.list_tools()).tools] == ["add", "fail", "wait", "submit"]
        assert (await client.get_prompt("task")).messages[0].content.text == "task 3"
        assert text(await client.call_tool("add", {"amount": 2})) == "2"
        wrong = await client.call_tool("add", {"amount": "x"})
        assert wrong.is_error
        with pytest.raises(MCPError, match="no tool 'nothing'"):
            await client.call_tool("nothing", {})
        assert text(await client.call_tool("submit", {"answer": "done"})) == "the episode is over"
        assert (await client.call_tool("add", {"amount": 2})).is_error
    found = asked(odd, "DELETE", f"/mcp/episodes/{opened['id']}").json()
    assert (found["reward"], found["success"], found["turns"], found["fault"]) == (1.0, True, 3, None)
    assert asked(odd, "GET", f"/mcp/episodes/{opened['id']}").status_code == 404


async def test_a_fault_is_no_reward(odd: EnvServer) -> None:
    opened = asked(odd, "POST", "/mcp/episodes", {}).json()
    async with Client(odd.url + opened["path"]) as client:
        failed = await client.call_tool("fail", {"how": "server"})
    assert failed.is_error
    assert "database" not in text(failed)
    found = asked(odd, "DELETE", f"/mcp/episodes/{opened['id']}").json()
    assert (found["reward"], found["success"]) == (None, None)
    assert found["fault"] == {"who": "server", "text": "the database is gone"}


@pytest.mark.parametrize(("mode", "version"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")])
async def test_stdio_is_the_same_episode(odd: EnvServer, tmp_path: Any, mode: str, version: str) -> None:
    out = tmp_path / "reward.json"
    arguments = ["-m", "agentrl", "serve", ODD, "--stdio", "--seed", "11", "--result", str(out)]
    here = str(Path(__file__).parents[3])
    env = {
        name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ
    }  # the client hands over few variables
    command = StdioServerParameters(command=sys.executable, args=arguments, cwd=here, env=env)
    first = asked(odd, "POST", "/mcp/episodes", {"seed": 11}).json()
    async with Client(command, mode=mode) as client, Client(odd.url + first["path"], mode=mode) as other:
        assert client.protocol_version == version
        tasks = [(await one.get_prompt("task")).messages[0].content.text for one in (client, other)]
        assert tasks[0] == tasks[1]
        await client.call_tool("submit", {"answer": "done"})
    found = json.loads(out.read_text())
    assert (found["reward"], found["task_id"]) == (1.0, first["task_id"])
    asked(odd, "DELETE", f"/mcp/episodes/{first['id']}")


def test_the_same_seed_draws_the_same_task_in_every_process(odd: EnvServer) -> None:
    first = asked(odd, "POST", "/mcp/episodes", {"seed": 11}).json()
    env = registry.make(ODD)
    _, info = env.reset(seed=11)
    assert first["task_id"] == info["task_id"]
    asked(odd, "DELETE", f"/mcp/episodes/{first['id']}")


def test_what_is_refused(odd: EnvServer) -> None:
    opened = asked(odd, "POST", "/mcp/episodes", {}).json()
    assert asked(odd, "POST", "/mcp/episodes", {}, token="wrong").status_code == 401
    assert asked(odd, "GET", f"/mcp/episodes/{opened['id']}", token="none").status_code == 401
    assert asked(odd, "POST", "/mcp/episodes", {"seed": -1}).status_code == 400
    assert asked(odd, "POST", "/mcp/episodes", {"more": 1}).status_code == 400
    assert asked(odd, "POST", "/mcp/episodes", {"task": "nothing"}).status_code == 404
    assert asked(odd, "POST", "/e/someone-elses/mcp", {}).status_code == 404
    assert asked(odd, "POST", f"/e/{opened['id']}/mcp/../../agentrl", {}).status_code in (401, 404)
    evil = httpx.post(odd.url + opened["path"], json={}, headers={"Host": "evil.example"})
    assert evil.status_code == 421
    asked(odd, "DELETE", f"/mcp/episodes/{opened['id']}")
    assert len(odd.sessions) == 0
