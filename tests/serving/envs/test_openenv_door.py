"""The protocol of OpenEnv 0.10, in the shapes that its own clients sent and read when they ran against this server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from agentrl.serving.envs.app import make_app
from agentrl.serving.envs.describe import Served
from agentrl.serving.envs.guard import Gate
from agentrl.serving.envs.openenv_door import OpenEnvDoor
from agentrl.serving.envs.server import EnvServer
from agentrl.serving.envs.sessions import Bounds, Sessions
from agentrl.trajectory import EnvRef
from tests.serving.envs.conftest import ODD

ADD = {"type": "call_tool", "tool_name": "add", "arguments": {"amount": 2}}


@pytest.fixture
def client() -> Iterator[TestClient]:
    served = Served(EnvRef(ODD), longest_s=60)
    sessions = Sessions(served.make, Bounds(sessions=2))
    app = make_app(served, Gate("t", ("testserver",)), OpenEnvDoor(served, sessions).routes())
    with TestClient(app, headers={"Authorization": "Bearer t"}) as found:
        yield found


def test_an_episode_over_the_socket(client: TestClient) -> None:
    with client.websocket_connect("/ws") as socket:

        def ask(kind: str, data: Any = None) -> Any:
            socket.send_json({"type": kind, "data": data or {}})
            return socket.receive_json()

        reset = ask("reset", {"seed": 3, "split": "eval", "index": 0})
        assert reset["type"] == "observation"
        assert reset["data"]["observation"]["text"] == "task 3"
        assert (reset["data"]["reward"], reset["data"]["done"]) == (None, False)
        assert [tool["name"] for tool in ask("step", {"type": "list_tools"})["data"]["observation"]["tools"]] == [
            "add",
            "fail",
            "wait",
        ]
        step = ask("step", ADD)["data"]
        assert (step["observation"]["tool_name"], step["observation"]["result"], step["done"]) == ("add", "2", False)
        two = ask(
            "step", {"content": "", "tool_calls": [{"function": {"name": "add", "arguments": '{"amount": 3}'}}] * 2}
        )
        assert [message["content"] for message in two["data"]["observation"]["messages"]] == ["5", "8"]
        assert ask("state")["data"]["step_count"] == 2
        last = ask("step", {"text": "done"})["data"]
        assert (last["reward"], last["done"], last["metadata"]["truncated"]) == (1.0, True, False)
        assert ask("step", ADD)["data"]["message"] == "the episode is over"
        assert ask("nothing")["data"]["code"] == "UNKNOWN_TYPE"
        assert ask("step", {"odd": 1})["data"]["code"] == "VALIDATION_ERROR"
        assert ask("reset", {"seed": -1})["data"]["code"] == "VALIDATION_ERROR"
        socket.send_text("no json")
        assert socket.receive_json()["data"]["code"] == "INVALID_JSON"


def test_a_session_over_http_is_joined_by_the_socket(client: TestClient) -> None:
    def rpc(method: str, **params: Any) -> Any:
        return client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).json()

    session = rpc("openenv/session/create")["result"]["session_id"]
    assert len(rpc("tools/list", session_id=session)["result"]["tools"]) == 3
    assert rpc("tools/call", session_id=session, name="add", arguments={"amount": 4})["result"] == {"data": "4"}
    with client.websocket_connect(f"/ws?session_id={session}") as socket:
        socket.send_json({"type": "state"})
        assert socket.receive_json()["data"]["step_count"] == 1
    assert rpc("nothing", session_id=session)["error"]["code"] == -32601
    assert rpc("openenv/session/close", session_id=session)["result"] == {"closed": True}
    assert "no such session" in rpc("tools/list", session_id=session)["error"]["message"]
    assert client.post("/mcp", json={}).json()["error"]["code"] == -32600


def test_a_socket_without_a_token_and_one_too_many_are_refused(client: TestClient) -> None:
    with (
        pytest.raises(WebSocketDisconnect) as refused,
        client.websocket_connect("/ws", headers={"Authorization": "Bearer wrong"}),
    ):
        pass
    assert "token" in refused.value.reason
    with client.websocket_connect("/ws"), client.websocket_connect("/ws"), client.websocket_connect("/ws") as third:
        assert third.receive_json()["data"]["code"] == "CAPACITY_REACHED"
    with client.websocket_connect("/ws?session_id=someone-elses") as other:
        assert other.receive_json()["data"]["code"] == "SESSION_ERROR"


def test_a_fault_is_an_error_and_no_reward(client: TestClient) -> None:
    with client.websocket_connect("/ws") as socket:
        socket.send_json({"type": "reset", "data": {}})
        socket.receive_json()
        socket.send_json({"type": "step", "data": {**ADD, "tool_name": "fail", "arguments": {"how": "server"}}})
        found = socket.receive_json()
    assert found == {"type": "error", "data": {"message": "the database is gone", "code": "EXECUTION_ERROR"}}


def test_a_fault_over_http_never_reads_as_the_end(client: TestClient) -> None:
    def post(path: str, body: Any) -> Any:
        return client.post(path, json=body)

    assert post("/reset", {}).status_code == 200
    assert post("/step", {**ADD, "tool_name": "fail", "arguments": {"how": "server"}}).status_code == 500
    for action in (ADD, {"type": "list_tools"}):
        found = post("/step", {"action": action})
        assert (found.status_code, "done" in found.json()) == (500, False)
        assert "does not count: the database is gone; reset" in found.json()["error"]
    assert post("/reset", {}).status_code == 200
    assert post("/step", ADD).json()["done"] is False


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/metadata", None, 200, '"name":"tests.serving.envs.odd:Odd"'),
        ("GET", "/schema", None, 200, '"action"'),
        ("GET", "/openapi.json", None, 200, '"version"'),
        ("GET", "/list_environments", None, 200, "Odd"),
        ("GET", "/tests.serving.envs.odd:Odd/splits", None, 200, '"validation"'),
        ("POST", "/tests.serving.envs.odd:Odd/num_tasks", {"split": "train"}, 200, '{"num_tasks":2}'),
        ("POST", "/tests.serving.envs.odd:Odd/task", {"split": "train", "index": 1}, 200, '"n":2'),
        ("POST", "/tests.serving.envs.odd:Odd/task", {"split": "train", "index": 2}, 400, "Invalid task index"),
        ("POST", "/tests.serving.envs.odd:Odd/task_range", {"split": "train", "stop": 2}, 200, "train-1"),
        ("POST", "/tests.serving.envs.odd:Odd/tasks", {"split": "nothing"}, 400, "no split"),
        ("POST", "/other/tasks", {}, 404, "no such environment"),
        ("POST", "/step", {"action": ADD}, 409, "reset first"),
        ("POST", "/reset", {"index": 9}, 422, "index"),
        ("POST", "/reset", {"task_id": "nothing"}, 404, "no task"),
        ("POST", "/reset", {"seed": 1}, 200, "task "),
        ("POST", "/step", {"action": ADD}, 200, '"result":"2"'),
        ("GET", "/state", None, 200, '"step_count":1'),
    ],
)
def test_http(odd: EnvServer, method: str, path: str, body: Any, status: int, words: str) -> None:
    headers = {"Authorization": f"Bearer {odd.token}"}
    reply = httpx.request(method, odd.url + path, json=body, headers=headers)
    assert reply.status_code == status, reply.text
    assert words in reply.text
